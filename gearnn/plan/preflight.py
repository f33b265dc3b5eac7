"""What can be known of a plan before anything is trained: a network, sizes, levels, or a bound that do not fit."""

import json
import platform
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from gearnn.datasets import DistortedDataset, FrameDataset, Sample
from gearnn.distortions import decode
from gearnn.errors import BoundError, InputError, PlanError, StoreError
from gearnn.layers import batchnorms, layers_of, model_size, room_for_layers
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute, own_copy
from gearnn.machine.randomness import own_stream
from gearnn.machine.slots import cores
from gearnn.models.reference import foreign_code
from gearnn.objectives import check_classifies
from gearnn.plan import Plan
from gearnn.plan.opened import ROLES, Opened
from gearnn.problems.problem import Problem, restore_problem

_BYTES_A_VALUE = 4  # float32
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}
"""Values that an optimiser keeps for each of the network's."""


def check_device(plan: Plan, where: str = "") -> None:
    """Make sure that this machine has the plan's device.

    Args:
        plan: the plan.
        where: what to call this process beside the machine's name, such as a worker of a pool.

    Raises:
        PlanError: it has not; names the machine.
    """
    try:
        _ = Opened(plan).compute
    except PlanError as error:
        if not plan.device.startswith("cuda"):
            raise
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        has = f"{number} GPU{'s' if number != 1 else ''} that torch can use"
        raise PlanError(
            f"plan: device: expected one that this machine has, but got {plan.device!r}: {platform.node()}"
            f"{f', {where},' if where else ''} has {has}; run it where one is, or set device: auto"
        ) from error


def check_disk(opened: Opened, base: nn.Module, done: Collection[DistortionLevel] = ()) -> int:
    """Make sure that what a plan makes fits on the disk of its store.

    Counted are the base, a full fine-tune and an adaptor for each level, the pristine control, and, for each
    fine-tune at a time, an epoch's checkpoint beside the one that it replaces. Distorted frames are not: their
    size is not known before they are made, and ``gearnn cache fill`` reports it.

    Args:
        opened: the plan.
        base: its network.
        done: levels whose full fine-tune the store holds already.

    Returns:
        About how many bytes it takes.

    Raises:
        StoreError: they do not fit.
    """
    plan, network = opened.plan, model_size(base) * _BYTES_A_VALUE
    missing = [level for level in plan.distortion_levels if level not in done]
    states = _STATES.get(plan.finetune.optimizer.name, 2)  # of adaptors it is little
    at_a_time = min(plan.workers or max(1, len(cores()) // plan.threads), max(1, len(missing)))
    under_way = 2 * (1 + states) * network * at_a_time
    adaptors = len(missing) * plan.bound.in_values(model_size(base)) * _BYTES_A_VALUE
    wanted = (2 + len(missing)) * network + adaptors + under_way
    root = opened.store.root
    free = shutil.disk_usage(_existing(root)).free
    if free < wanted:
        raise StoreError(
            f"store {plan.store}: expected about {wanted / 1e6:,.0f} MB free for {len(missing)} levels on the disk of "
            f"{root}, but got {free / 1e6:,.0f} MB; free some (`gearnn cache show` says what distorted frames and "
            f"copies take), or set store to another disk"
        )
    return wanted


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def check_network(opened: Opened) -> None:
    """Take the base through all that its problem will ask of it, on a frame or two, so that a misfit stops a run.

    One frame of every size that the levels deliver is predicted and scored, and one batch is learnt from, with
    its gradients, on a network that is thrown away.

    Raises:
        PlanError: the network or the problem raises, or does not give what is needed.
    """
    plan, dataset, compute = opened.plan, opened.frames("train"), opened.compute
    problem, network, _ = opened.problem, opened.base(), opened.target
    if plan.distill:
        check_classifies(problem, "plan: partial.distill")
    first = _sample(dataset, 0)
    with foreign_code(f"base {plan.base.network}: expected it to run on frame {first.name}, but it raised"):
        _check_description(problem)
        model = compute.place(own_copy(network))
        for image in _received(plan, dataset):
            _try_predicting(model, problem, Sample(image=image, target=first.target, name=first.name), compute)
        _try_learning(model, problem, plan, dataset, compute)


def _check_description(problem: Problem) -> None:
    """Problems are stored by their description, with every step's key and with the registered base."""
    described = json.loads(json.dumps(problem.describe()))
    if restore_problem(described, trust=None) != problem:
        raise PlanError(f"problem: expected describe() to say all of it, but {described} gives another one")


def _sample(dataset: FrameDataset, index: int) -> Sample:
    return Sample(image=dataset.frame(index), target=dataset.target(index), name=dataset.name(index))


def _received(plan: Plan, dataset: FrameDataset) -> list[Image.Image]:
    """The first frame in every size in which the plan's levels deliver it."""
    images = [dataset.frame(0)]
    images += [decode(DistortedDataset(dataset, level).encode(0)) for level in plan.distortion_levels]
    return list({image.size: image for image in images}.values())


@torch.inference_mode()
def _try_predicting(model: nn.Module, problem: Problem, sample: Sample, compute: Compute) -> None:
    batch = problem.to(problem.collate([sample]), compute)
    with compute.autocast():
        prediction = problem.predict(model.eval(), batch)[0]
    problem.answer(prediction)
    score = problem.new_score()
    score.update(prediction, problem.truths(batch)[0])
    missing = [score.primary_name] if score.primary_name not in score.figures else []
    if missing or not isinstance(score.primary, float):
        raise PlanError(f"problem: expected the score's figures to hold {score.primary_name}, but got {score.figures}")
    _ = score.per_class, score.interval(num_draws=2)


def _try_learning(model: nn.Module, problem: Problem, plan: Plan, dataset: FrameDataset, compute: Compute) -> None:
    moving = plan.bound.batchnorm_statistics != "frozen" or (plan.base.train and plan.base.train.batchnorm == "moving")
    sizes = {how.batch_size for how in (plan.base.train, plan.finetune, plan.of_adaptors) if how is not None}
    alone = any(size == 1 or len(dataset) % size == 1 for size in sizes) or not moving
    samples = [_sample(dataset, index) for index in range(1 if alone else 2)]
    batch = problem.to(problem.collate([problem.flip(sample) for sample in samples]), compute)
    for _, module in batchnorms(model.train()):
        module.train(bool(moving))
    with compute.training(model), own_stream(compute.device, plan.seed):
        with compute.autocast():
            loss = problem.loss(model, batch)
        if loss.ndim != 0:
            raise PlanError(f"base {plan.base.network}: expected a scalar loss, but got {list(loss.shape)}")
        if not loss.requires_grad:
            raise PlanError(f"base {plan.base.network}: expected a loss with gradients, but it is detached")
        torch.autograd.backward(loss)


def check_bound(plan: Plan, base: nn.Module) -> None:
    """Make sure that at least one layer fits into the plan's bound, before anything is trained.

    Raises:
        BoundError: none does.
    """
    policy = plan.bound.batchnorm_statistics
    if not any(layer.num_weights for layer in layers_of(base)):
        raise PlanError(f"base {plan.base.network}: expected at least one learnable tensor, but all are fixed")
    room = room_for_layers(base, plan.bound.in_values(model_size(base)), policy)
    layers = [layer for layer in layers_of(base, plan.bound.granularity, policy) if layer.num_weights]
    smallest = min(layers, key=lambda layer: layer.num_values)
    if smallest.num_values > room:
        raise BoundError(
            f"plan: bound: expected room for at least one layer, but got {max(room, 0)} values; "
            f"the smallest layer, {smallest.name}, needs {smallest.num_values}"
        )


def check_sizes(opened: Opened) -> None:
    """Make sure that frames can be stacked into batches.

    Raises:
        PlanError: a split has frames of several sizes, and batches of more than one frame, which the problem
            does not take.
    """
    if opened.problem.takes_mixed_sizes:
        return
    plan = opened.plan
    training = max(how.batch_size for how in (plan.finetune, plan.of_adaptors, plan.base.train) if how is not None)
    for role in ROLES:
        dataset = opened.frames(role)
        sizes = sorted({dataset.size(index) for index in range(len(dataset))})
        largest = training if role == "train" else plan.finetune.batch_size
        if len(sizes) > 1 and largest > 1:
            smallest, widest = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
            raise PlanError(
                f"plan: data.camera.size: expected frames of one size for batches of {largest}, but the split "
                f"{opened.split(role)} of {plan.data.name} has {len(sizes)} sizes from {smallest} to "
                f"{widest}; set data.camera.size, or batch_size: 1"
            )


def check_levels(opened: Opened) -> None:
    """Distort one frame of every size at every level, so that a codec that refuses stops a run before training.

    Raises:
        DataError: frames of this size cannot be encoded at a level.
        CodecError: a codec is missing.
    """
    sizes: set[tuple[int, int]] = set()
    for role in ROLES:
        dataset = opened.frames(role)
        for index in range(len(dataset)):
            size = dataset.size(index)
            if size not in sizes:
                sizes.add(size)
                _check_frame(dataset, index, opened.plan.distortion_levels)


def _check_frame(dataset: FrameDataset, index: int, levels: Sequence[DistortionLevel]) -> None:
    for level in levels:
        try:
            decode(DistortedDataset(dataset, level).encode(index))
        except InputError as error:
            raise type(error)(f"level {level}: frame {dataset.name(index)}: {error}") from error
