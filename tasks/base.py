"""The pre-trained DNN of a plan: read from its checkpoint, or trained on pristine frames where there is none."""

from pathlib import Path
from typing import Any

from torch import nn

from gearnn.files import digest_of_file
from gearnn.finetune import finetune
from gearnn.layers import fingerprint, model_size
from gearnn.levels import DistortionLevel
from gearnn.models import load_model, save_checkpoint
from gearnn.plan import FinetuneSpec, Plan
from gearnn.problem import Problem
from gearnn.resolve import (
    checkpoint_path,
    compute_of,
    numerics_of,
    open_base,
    open_checkpoint,
    open_role,
    problem_of,
    samples_of,
)
from gearnn.storage import Ref, Store
from tasks.progress import reporter
from tasks.records import Base, Data
from tasks.step import step, written


def _reads(plan: Plan, data: Data) -> dict[str, Any]:
    network = {"name": plan.base.name, "num_classes": plan.base.num_classes}
    if plan.base.checkpoint is not None:
        path = checkpoint_path(plan)
        content = digest_of_file(path)[0] if path is not None and path.is_file() else None
        return network | {"checkpoint": content}
    return network | {
        "train": _train(plan).model_dump(mode="json"),
        "normalisation": [plan.base.mean, plan.base.std],
        "frames": data.digests["train"],
        "seed": plan.seed,
        "numerics": numerics_of(plan),
    }


@step(version=1, reads=_reads, label="base")
def prepare_base(plan: Plan, data: Data, scratch: Path) -> Base:
    """Put the base into the store.

    Raises:
        CheckpointError: the checkpoint does not fit the network.
        DivergedError: training the base failed.
    """
    base = open_base(plan)
    losses: tuple[float, ...] = ()
    if plan.base.checkpoint is None:
        trained = finetune(
            base,
            samples_of(plan, "train", DistortionLevel()),
            problem_for(plan),
            _train(plan).recipe(seed=plan.seed, num_workers=plan.loader_workers),
            batchnorm_statistics="all",
            compute=compute_of(plan),
            checkpoint=scratch,
            on_step=reporter("training the base"),
        )
        base, losses = trained.model, trained.epoch_losses
    return Base(
        weights=store_network(Store(plan.store), base),
        fingerprint=fingerprint(base),
        num_values=model_size(base),
        epoch_losses=losses,
    )


def fetch_network(plan: Plan, weights: Ref) -> nn.Module:
    """A network of the plan's architecture with weights from the store."""
    return load_model(plan.base.name, plan.base.num_classes, Store(plan.store).get(weights))


def store_network(store: Store, model: nn.Module) -> Ref:
    """Put the weights of a network into the store."""
    return store.put(written(lambda path: save_checkpoint(path, model), ".safetensors"), ".safetensors")


def problem_for(plan: Plan) -> Problem:
    """The plan's problem."""
    return problem_of(plan, open_role(plan, "train"), open_checkpoint(plan))


def _train(plan: Plan) -> FinetuneSpec:
    assert plan.base.train is not None, "the plan was checked to have a checkpoint or a way to train"
    return plan.base.train


def export_base(plan: Plan, base: Base, path: Path) -> None:
    """Write a base as a checkpoint that a plan can name, with its normalisation in the header."""
    facts = problem_for(plan).describe()
    header = {name: ",".join(f"{value:g}" for value in facts[name]) for name in ("mean", "std")}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, fetch_network(plan, base.weights), {"architecture": plan.base.name, **header})
