"""What a plan names, opened: its frames, its base, its problem, its device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from gearnn.bucket import is_remote
from gearnn.compute import Compute
from gearnn.copies import fetch_file
from gearnn.datasets import DistortedDataset, FrameDataset, open_split
from gearnn.distortions import Calibration, calibrate, decode, needs_calibration
from gearnn.errors import BoundError, CheckpointError, InputError, PlanError
from gearnn.layers import charged_once, layers_of, model_size
from gearnn.levels import DistortionLevel
from gearnn.models import Checkpoint, load_model, read_checkpoint
from gearnn.plan import Plan
from gearnn.problem import Problem, SemanticSegmentation
from gearnn.storage import Store

Role = Literal["train", "promote", "test"]
ROLES: tuple[Role, ...] = ("train", "promote", "test")

_undistorted: dict[tuple[str, tuple[str, ...]], list[Calibration]] = {}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def compute_of(plan: Plan) -> Compute:
    """Device and precision; on a CPU the calling thread is given the plan's number of torch threads.

    Raises:
        PlanError: this machine has no such device.
    """
    try:
        compute = Compute.resolve(plan.device, plan.precision)
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

    Part of the key of every step that computes with a network.
    """
    compute = compute_of(plan)
    return f"{compute.precision}, {plan.threads} threads" if compute.device.type == "cpu" else compute.precision


def open_role(plan: Plan, role: Role) -> FrameDataset:
    """The undistorted frames of the split that plays a role.

    Raises:
        DataError: the split is missing or incomplete.
        PlanError: the dataset has another number of classes than the base.
    """
    data = plan.data
    split: str = getattr(data.splits, role)
    dataset = open_split(data.name, data.root, split, data.camera.camera(), data.options())
    if len(dataset.class_names) != plan.base.num_classes:
        raise PlanError(
            f"plan: base.num_classes: expected {len(dataset.class_names)}, as {data.name} has, "
            f"but got {plan.base.num_classes}"
        )
    return dataset


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


def check_levels(plan: Plan) -> None:
    """Distort one frame of every size at every level, so that a codec that refuses stops a run before training.

    Raises:
        DataError: frames of this size cannot be encoded at a level.
        CodecError: a codec is missing.
    """
    sizes: set[tuple[int, int]] = set()
    for role in ROLES:
        dataset = open_role(plan, role)
        for index in range(len(dataset)):
            size = dataset.size(index)
            if size not in sizes:
                sizes.add(size)
                _check_frame(dataset, index, plan.distortion_levels)


def _check_frame(dataset: FrameDataset, index: int, levels: Sequence[DistortionLevel]) -> None:
    for level in levels:
        try:
            decode(DistortedDataset(dataset, level).encode(index))
        except InputError as error:
            raise type(error)(f"level {level}: frame {dataset.name(index)}: {error}") from error


def check_sizes(plan: Plan) -> None:
    """Make sure that frames can be stacked into batches.

    Raises:
        PlanError: the training split has frames of several sizes, and batches of more than one frame.
    """
    dataset = open_role(plan, "train")
    sizes = sorted({dataset.size(index) for index in range(len(dataset))})
    largest = max(how.batch_size for how in (plan.finetune, plan.partial, plan.base.train) if how is not None)
    if len(sizes) > 1 and largest > 1:
        smallest, widest = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
        raise PlanError(
            f"plan: data.camera.size: expected frames of one size for batches of {largest}, but {plan.data.name} has "
            f"{len(sizes)} sizes from {smallest} to {widest}; set data.camera.size, or batch_size: 1"
        )


def open_checkpoint(plan: Plan) -> Checkpoint:
    """The plan's checkpoint, for its metadata and tensors; an empty one where the base is to be trained."""
    path = checkpoint_path(plan)
    return Checkpoint({}) if path is None else read_checkpoint(path)


def checkpoint_path(plan: Plan) -> Path | None:
    """The plan's checkpoint as a file here; None where the base is to be trained.

    Raises:
        StoreError: it is in a bucket that does not answer, or has no such object.
    """
    location = plan.base.checkpoint
    if location is None:
        return None
    return fetch_file(location) if is_remote(location) else Path(location)


def open_base(plan: Plan) -> nn.Module:
    """The plan's network: with the weights of its checkpoint, else initialised from the plan's seed.

    Raises:
        CheckpointError: the file does not fit the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return load_model(plan.base.name, plan.base.num_classes, checkpoint_path(plan))


def check_bound(plan: Plan, base: nn.Module) -> None:
    """Make sure that at least one layer fits into the plan's bound, before anything is trained.

    Raises:
        BoundError: none does.
    """
    policy = plan.bound.batchnorm_statistics
    room = plan.bound.in_values(model_size(base)) - charged_once(base, policy)
    smallest = min(layers_of(base, plan.bound.granularity, policy), key=lambda layer: layer.num_values)
    if smallest.num_values > room:
        raise BoundError(
            f"plan: bound: expected room for at least one layer, but got {max(room, 0)} values; "
            f"the smallest layer, {smallest.name}, needs {smallest.num_values}"
        )


def problem_of(plan: Plan, dataset: FrameDataset, checkpoint: Checkpoint) -> Problem:
    """Semantic segmentation with the normalisation of the plan, else of the checkpoint's header, else ImageNet's."""
    mean, std = _normalisation(plan, checkpoint)
    return SemanticSegmentation(
        num_classes=plan.base.num_classes, ignore_index=dataset.ignore_index, mean=mean, std=std
    )


def _normalisation(plan: Plan, checkpoint: Checkpoint) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if plan.base.mean is not None and plan.base.std is not None:
        return plan.base.mean, plan.base.std
    if "mean" in checkpoint.metadata and "std" in checkpoint.metadata:
        return _channels(checkpoint.metadata["mean"], plan), _channels(checkpoint.metadata["std"], plan)
    return _IMAGENET


def _channels(text: str, plan: Plan) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in text.split(","))
    except ValueError:
        raise CheckpointError(
            f"checkpoint {plan.base.checkpoint}: expected three channels in its header's mean and std, but got {text!r}"
        ) from None
    return red, green, blue
