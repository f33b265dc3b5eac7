"""What a plan names, opened: its store, its frames, its problem, its base, its device."""

import json
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from gearnn.datasets import DistortedDataset, FrameDataset, open_split, with_truth
from gearnn.datasets.splits import Split, sliced
from gearnn.distortions import Calibration, calibrate, needs_calibration
from gearnn.errors import CheckpointError, DataError, PlanError
from gearnn.finetune_batches import Samples
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.machine.slots import device_for
from gearnn.models import build_model, load_model, problem_of_model, read_metadata, start_from
from gearnn.models.checkpoint import save_checkpoint
from gearnn.models.reference import is_reference, references_in, source_digest
from gearnn.plan import Plan
from gearnn.plan.answered import Answered
from gearnn.plan.sections import Channels, SplitsSpec
from gearnn.problems.problem import Problem, make_problem, problem_class, problem_names
from gearnn.recipe import Target
from gearnn.store.bucket import is_remote
from gearnn.store.copies import fetch_file
from gearnn.store.files import content_of
from gearnn.store.storage import Ref, Store
from gearnn.targets import FollowsBase, Pairs

Role = Literal["train", "promote", "test"]
ROLES: tuple[Role, ...] = ("train", "promote", "test")

_undistorted: dict[tuple[str, tuple[str, ...]], list[Calibration]] = {}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Opened:
    """A plan with what it names, each found once.

    One piece of work, such as a step, opens a plan for itself. A process does not keep one: it lives for many
    runs, and files may change between them.

    Attributes:
        plan: the plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._whole: dict[str, FrameDataset] = {}
        self._frames: dict[str, FrameDataset] = {}

    @cached_property
    def store(self) -> Store:
        """Where results are kept."""
        return Store(self.plan.store)

    @property
    def compute(self) -> Compute:
        """Device and precision; on a CPU the calling thread is given the plan's number of torch threads.

        Within a lease (:func:`gearnn.machine.slots.leased`) of the plan's device, that is the device which was leased.

        Raises:
            PlanError: this machine has no such device.
        """
        wanted = self.plan.device
        try:
            compute = Compute.resolve(device_for(wanted), self.plan.precision)
            torch.empty(1, device=compute.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split("\n")[0]
            raise PlanError(
                f"plan: device: expected one that this machine has, but got {wanted!r}: {reason}"
            ) from error
        if compute.device.type == "cpu":
            torch.set_num_threads(self.plan.threads)
        return compute

    @property
    def numerics(self) -> str:
        """What decides results besides plan and data: the precision, and on a CPU the number of threads.

        Part of the key of every step that computes with a network; found without a tensor on the device, for the
        steps that compute nothing because they are done.
        """
        compute = Compute.resolve(self.plan.device, self.plan.precision)
        on_cpu = compute.device.type == "cpu"
        return f"{compute.precision}, {self.plan.threads} threads" if on_cpu else compute.precision

    @cached_property
    def problem_name(self) -> str:
        """Which problem the plan is about.

        Raises:
            PlanError: neither the plan nor the name of its network says it.
        """
        network = self.plan.base.network
        name = self.plan.problem.name or problem_of_model(network)
        if name is None:
            if not is_reference(network):
                build_model(network, 1)  # says which names there are
            raise PlanError(
                f"plan: problem.name: expected one of {', '.join(problem_names())}, or package.module:Class, "
                f"because base.module does not say it"
            )
        return name

    @cached_property
    def problem(self) -> Problem:
        """The plan's problem.

        Its normalisation is that of the plan, else of the checkpoint's header, else ImageNet's.

        Raises:
            PlanError: options that the problem does not have.
        """
        mean, std = self._normalisation()
        facts = {
            "num_classes": self.num_classes,
            "ignore_index": self.frames("train").ignore_index,
            "mean": mean,
            "std": std,
        }
        options = {field.name for field in fields(problem_class(self.problem_name))}
        if self.plan.base.mean is not None and "mean" not in options:
            raise PlanError(
                f"plan: base.mean: {self.problem_name} leaves the normalisation to the network; "
                f"base.kwargs: {{image_mean: ..., image_std: ...}} sets it in torchvision's detectors"
            )
        return make_problem(self.problem_name, facts, self.plan.problem.options)

    @cached_property
    def num_classes(self) -> int:
        """Classes of the base: what the plan says, else as many as its training frames have."""
        return self.plan.base.num_classes or len(self.frames("train").class_names)

    def split(self, role: Role) -> str:
        """Name of the split that plays a role."""
        split: str = getattr(self.plan.data.splits, role)
        return split

    def frames(self, role: Role) -> FrameDataset:
        """The undistorted frames of the split that plays a role, with the truth that the plan's problem needs.

        Raises:
            DataError: the split is missing or incomplete.
            PlanError: the dataset has another number of classes than the base, or other truth than the problem needs.
        """
        text = self.split(role)
        if text not in self._frames:
            split = Split.parse(text)
            if split.name not in self._whole:
                self._whole[split.name] = self._open_for(role, split.name)
            self._frames[text] = sliced(self._whole[split.name], split)
        return self._frames[text]

    def _open_for(self, role: Role, split: str) -> FrameDataset:
        try:
            return self._open(split)
        except DataError as error:
            if role != "test" or split != SplitsSpec().test:
                raise
            raise DataError(
                f"{error}; data.splits.test is the split `{split}` where a plan names none: without one, set "
                f"data.splits: {{promote: 'val[:50%]', test: 'val[50%:]'}}, two halves of val"
            ) from error

    def splits(self) -> dict[str, FrameDataset]:
        """Name -> frames of every split that plays a role."""
        return {self.split(role): self.frames(role) for role in ROLES}

    def _open(self, split: str) -> FrameDataset:
        data, wanted = self.plan.data, self.plan.base.num_classes
        truth = problem_class(self.problem_name).truth
        dataset = open_split(data.name, data.root, split, data.camera.camera(), data.options())
        if wanted is not None and len(dataset.class_names) != wanted:
            raise PlanError(
                f"plan: base.num_classes: expected {len(dataset.class_names)}, as {data.name} has, but got {wanted}"
            )
        dataset = with_truth(dataset, truth)
        if _has_no_truth(dataset) and self.plan.base.train is not None:
            raise PlanError(
                f"plan: data.root: expected frames with masks, because base.train learns from them, but the split "
                f"{split} of {data.root} has images alone; a base.checkpoint without train can answer for them"
            )
        return cast(FrameDataset, Answered(dataset, self)) if _has_no_truth(dataset) else dataset

    @property
    def target(self) -> Target:
        """What fine-tunes learn from; without truth, the base.

        Raises:
            PlanError: the base, though adaptors are to follow full fine-tunes.
        """
        found = self.plan.finetune.target or ("base" if self.is_answered("train") else "labels")
        if found != "labels" and self.plan.distill:
            raise PlanError(
                f"plan: partial.distill: expected none where fine-tunes follow the base (finetune.target: {found}), "
                f"which they do by default on frames without masks"
            )
        return found

    def is_answered(self, role: Role) -> bool:
        """Whether the frames of a role have no truth but the base's answers."""
        return getattr(self.frames(role), "truth", "") == Answered.truth

    def samples(self, role: Role, level: DistortionLevel) -> DistortedDataset:
        """The frames of a role as one level sees them, cached beside the plan's store."""
        return DistortedDataset(self.frames(role), level, self.store.frames)

    def training(self, level: DistortionLevel, base: nn.Module) -> tuple[Samples, Problem]:
        """Training frames of a level, and the problem that is trained on them: its labels, or answers of the base."""
        samples, target = self.samples("train", level), self.target
        if target == "labels":
            return samples, self.problem
        undistorted = self.samples("train", DistortionLevel())
        return Pairs(samples, undistorted), FollowsBase(self.problem, base, target, self.compute)

    def calibration(self, level: DistortionLevel) -> tuple[Calibration, ...]:
        """What the training frames of a level and the undistorted ones measure, for kinds sensed by comparison."""
        kinds = tuple(needs_calibration(level))
        if not kinds:
            return ()
        undistorted = self.frames("train").digest(), kinds
        if undistorted not in _undistorted:  # the same for all levels, and decoding frames takes its time
            _undistorted[undistorted] = calibrate(self.samples("train", DistortionLevel()), kinds)
        return (*_undistorted[undistorted], *calibrate(self.samples("train", level), kinds))

    @cached_property
    def checkpoint(self) -> Path | None:
        """The plan's checkpoint as a file here; None where the base is to be trained.

        Raises:
            StoreError: it is in a bucket that does not answer, or has no such object.
        """
        location = self.plan.base.checkpoint
        if location is None:
            return None
        return fetch_file(location) if is_remote(location) else Path(location)

    def base(self, on_start: Callable[[str], None] | None = None) -> nn.Module:
        """The plan's network, anew at each call: with its checkpoint's weights, else initialised from the plan's seed.

        Where the plan trains a base, its checkpoint is only where that starts.

        Args:
            on_start: called with what was taken from such a checkpoint and what starts afresh.

        Raises:
            CheckpointError: the file does not fit the network.
            PlanError: the network cannot be built.
        """
        path, base = self.checkpoint, self.plan.base
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.plan.seed)  # networks are built on the CPU; others keep theirs
            if base.train is None:
                self._check_header(path)
                return self._build(path)
            model = self._build(None)
        if path is not None:
            taken = start_from(model, path, base.submodule)
            if on_start is not None:
                on_start(taken)
        return model

    def network(self, weights: Ref) -> nn.Module:
        """A network of the plan's architecture with weights from its store."""
        return self._build(self.store.get(weights))

    def keep_network(self, model: nn.Module) -> Ref:
        """Put the weights of a network into the plan's store."""
        return self.store.put(content_of(lambda path: save_checkpoint(path, model), ".safetensors"), ".safetensors")

    def _build(self, weights: Path | None) -> nn.Module:
        """The network with the weights of a file, or with those that its builder gives it."""
        return load_model(self.plan.base.network, self.num_classes, weights, self.plan.base.kwargs)

    def _check_header(self, path: Path | None) -> None:
        """A base that GearNN wrote says with which arguments it was built; others would compute differently."""
        header = {} if path is None else read_metadata(path)
        ours = json.dumps(self.plan.base.kwargs, sort_keys=True)
        if header.get("kwargs", ours) != ours:
            raise CheckpointError(
                f"checkpoint {self.plan.base.checkpoint}: expected base.kwargs as it was trained with, "
                f"{header['kwargs']}, but the plan has {ours}"
            )

    def _normalisation(self) -> tuple[Channels, Channels]:
        base = self.plan.base
        if base.mean is not None and base.std is not None:
            return base.mean, base.std
        path = self.checkpoint
        header = read_metadata(path) if path is not None and path.is_file() else {}  # opening the base reports it
        if "mean" in header and "std" in header:
            return _channels(header["mean"], self.plan), _channels(header["std"], self.plan)
        return _IMAGENET

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides how the base computes, besides its weights and the name of a network of ours.

        Empty for a named network without ``kwargs``, so that keys from before there were others still hold.
        """
        base, code = self.plan.base, _code_of(self.plan)
        facts: dict[str, Any] = {}
        if base.kwargs or base.module:
            facts |= {"network": base.network, "kwargs": base.kwargs}
        if code:
            facts["code"] = {name: source_digest(name) for name in sorted(code)}
        return facts


def _has_no_truth(dataset: FrameDataset) -> bool:
    return getattr(dataset, "truth", "") == "none"


def trusted_by(plan: Plan) -> set[str]:
    """Modules that a plan names itself, so that a base that it registered may import them again."""
    return {name.partition(":")[0] for name in _code_of(plan)}


def _code_of(plan: Plan) -> set[str]:
    return references_in([plan.base.network, plan.base.kwargs, plan.problem.name])


def _channels(text: str, plan: Plan) -> Channels:
    try:
        red, green, blue = (float(value) for value in text.split(","))
    except ValueError:
        raise CheckpointError(
            f"checkpoint {plan.base.checkpoint}: expected three channels in its header's mean and std, but got {text!r}"
        ) from None
    return red, green, blue
