"""What a plan names, opened: its frames, its base, its problem, its device."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gearnn.datasets import DistortedDataset, FrameDataset, open_split, with_truth
from gearnn.distortions import Calibration, calibrate, needs_calibration
from gearnn.errors import CheckpointError, PlanError
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.machine.slots import device_for
from gearnn.models import build_model, load_model, problem_of_model, read_metadata, start_from
from gearnn.models.reference import is_reference, references_in, source_digest
from gearnn.plan import Plan
from gearnn.plan.sections import Channels
from gearnn.problems.problem import Problem, make_problem, problem_class, problem_names
from gearnn.store.bucket import is_remote
from gearnn.store.copies import fetch_file
from gearnn.store.storage import Store

Role = Literal["train", "promote", "test"]
ROLES: tuple[Role, ...] = ("train", "promote", "test")

_undistorted: dict[tuple[str, tuple[str, ...]], list[Calibration]] = {}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def compute_of(plan: Plan) -> Compute:
    """Device and precision; on a CPU the calling thread is given the plan's number of torch threads.

    Within a lease (:func:`gearnn.machine.slots.leased`) of the plan's device, that is the device which was leased.

    Raises:
        PlanError: this machine has no such device.
    """
    try:
        compute = Compute.resolve(device_for(plan.device), plan.precision)
        torch.empty(1, device=compute.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise PlanError(
            f"plan: device: expected one that this machine has, but got {plan.device!r}: {reason}"
        ) from error
    if compute.device.type == "cpu":
        torch.set_num_threads(plan.threads)
    return compute


def numerics_of(plan: Plan) -> str:
    """What decides results besides plan and data: the precision, and on a CPU the number of threads.

    Part of the key of every step that computes with a network; found without a tensor on the device, for the
    steps that compute nothing because they are done.
    """
    compute = Compute.resolve(plan.device, plan.precision)
    return f"{compute.precision}, {plan.threads} threads" if compute.device.type == "cpu" else compute.precision


def problem_name(plan: Plan) -> str:
    """Which problem a plan is about.

    Raises:
        PlanError: neither the plan nor the name of its network says it.
    """
    name = plan.problem.name or problem_of_model(plan.base.network)
    if name is None:
        if not is_reference(plan.base.network):
            build_model(plan.base.network, 1)  # says which names there are
        raise PlanError(
            f"plan: problem.name: expected one of {', '.join(problem_names())}, or package.module:Class, "
            f"because base.module does not say it"
        )
    return name


def open_role(plan: Plan, role: Role) -> FrameDataset:
    """The undistorted frames of the split that plays a role, with the truth that the plan's problem needs.

    Raises:
        DataError: the split is missing or incomplete.
        PlanError: the dataset has another number of classes than the base, or other truth than the problem needs.
    """
    data = plan.data
    truth = problem_class(problem_name(plan)).truth
    split: str = getattr(data.splits, role)
    dataset = open_split(data.name, data.root, split, data.camera.camera(), data.options())
    if plan.base.num_classes is not None and len(dataset.class_names) != plan.base.num_classes:
        raise PlanError(
            f"plan: base.num_classes: expected {len(dataset.class_names)}, as {data.name} has, "
            f"but got {plan.base.num_classes}"
        )
    return with_truth(dataset, truth)


def num_classes_of(plan: Plan) -> int:
    """Classes of the base: what the plan says, else as many as its training frames have."""
    return plan.base.num_classes or len(open_role(plan, "train").class_names)


def samples_of(plan: Plan, role: Role, level: DistortionLevel) -> DistortedDataset:
    """The frames of a role as one level sees them, cached beside the plan's store."""
    return DistortedDataset(open_role(plan, role), level, Store(plan.store).frames)


def calibration_of(plan: Plan, level: DistortionLevel) -> tuple[Calibration, ...]:
    """What the training frames of a level and the undistorted ones measure, for kinds sensed by comparison."""
    kinds = tuple(needs_calibration(level))
    if not kinds:
        return ()
    dataset = open_role(plan, "train")
    undistorted = dataset.digest(), kinds
    if undistorted not in _undistorted:  # the same for all levels, and decoding frames takes its time
        _undistorted[undistorted] = calibrate(samples_of(plan, "train", DistortionLevel()), kinds)
    return (*_undistorted[undistorted], *calibrate(samples_of(plan, "train", level), kinds))


def checkpoint_path(plan: Plan) -> Path | None:
    """The plan's checkpoint as a file here; None where the base is to be trained.

    Raises:
        StoreError: it is in a bucket that does not answer, or has no such object.
    """
    location = plan.base.checkpoint
    if location is None:
        return None
    return fetch_file(location) if is_remote(location) else Path(location)


def open_base(plan: Plan, on_start: Callable[[str], None] | None = None) -> nn.Module:
    """The plan's network: with the weights of its checkpoint, else initialised from the plan's seed.

    Where the plan trains a base, its checkpoint is only where that starts.

    Args:
        plan: the plan.
        on_start: called with what was taken from such a checkpoint and what starts afresh.

    Raises:
        CheckpointError: the file does not fit the network.
        PlanError: the network cannot be built.
    """
    path = checkpoint_path(plan)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.seed)  # networks are built on the CPU; other devices keep theirs
        if plan.base.train is None:
            _check_header(plan, path)
            return build(plan, path)
        model = build(plan)
    if path is not None:
        taken = start_from(model, path, plan.base.submodule)
        if on_start is not None:
            on_start(taken)
    return model


def _check_header(plan: Plan, path: Path | None) -> None:
    """A base that GearNN wrote says with which arguments it was built; others would compute differently."""
    header = {} if path is None else read_metadata(path)
    ours = json.dumps(plan.base.kwargs, sort_keys=True)
    if header.get("kwargs", ours) != ours:
        raise CheckpointError(
            f"checkpoint {plan.base.checkpoint}: expected base.kwargs as it was trained with, {header['kwargs']}, "
            f"but the plan has {ours}"
        )


def network_identity(plan: Plan) -> dict[str, Any]:
    """What decides how the base computes, besides its weights and the name of a network of ours.

    Empty for a named network without ``kwargs``, so that keys from before there were others still hold.
    """
    facts: dict[str, Any] = {}
    if plan.base.kwargs or plan.base.module:
        facts |= {"network": plan.base.network, "kwargs": plan.base.kwargs}
    code = _code_of(plan)
    if code:
        facts["code"] = {name: source_digest(name) for name in sorted(code)}
    return facts


def trusted_by(plan: Plan) -> set[str]:
    """Modules that a plan names itself, so that a base that it registered may import them again."""
    return {name.partition(":")[0] for name in _code_of(plan)}


def _code_of(plan: Plan) -> set[str]:
    return references_in([plan.base.network, plan.base.kwargs, plan.problem.name])


def build(plan: Plan, weights: Path | None = None) -> nn.Module:
    """The plan's network with the weights of a file, or with those that its builder gives it."""
    return load_model(plan.base.network, num_classes_of(plan), weights, plan.base.kwargs)


def problem_of(plan: Plan, dataset: FrameDataset) -> Problem:
    """The plan's problem.

    Its normalisation is that of the plan, else of the checkpoint's header, else ImageNet's.

    Raises:
        PlanError: options that the problem does not have.
    """
    mean, std = _normalisation(plan)
    facts = {
        "num_classes": plan.base.num_classes or len(dataset.class_names),
        "ignore_index": dataset.ignore_index,
        "mean": mean,
        "std": std,
    }
    name = problem_name(plan)
    if plan.base.mean is not None and "mean" not in {field.name for field in fields(problem_class(name))}:
        raise PlanError(
            f"plan: base.mean: {name} leaves the normalisation to the network; "
            f"base.kwargs: {{image_mean: ..., image_std: ...}} sets it in torchvision's detectors"
        )
    return make_problem(name, facts, plan.problem.options)


def _normalisation(plan: Plan) -> tuple[Channels, Channels]:
    if plan.base.mean is not None and plan.base.std is not None:
        return plan.base.mean, plan.base.std
    path = checkpoint_path(plan)
    header = read_metadata(path) if path is not None and path.is_file() else {}  # opening the base reports it
    if "mean" in header and "std" in header:
        return _channels(header["mean"], plan), _channels(header["std"], plan)
    return _IMAGENET


def _channels(text: str, plan: Plan) -> Channels:
    try:
        red, green, blue = (float(value) for value in text.split(","))
    except ValueError:
        raise CheckpointError(
            f"checkpoint {plan.base.checkpoint}: expected three channels in its header's mean and std, but got {text!r}"
        ) from None
    return red, green, blue
