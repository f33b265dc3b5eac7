"""The pre-trained DNN of a plan: read from its checkpoint, or trained on pristine frames where there is none."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.finetune import finetune
from gearnn.layers import fingerprint, model_size
from gearnn.levels import DistortionLevel
from gearnn.models import save_checkpoint
from gearnn.models.frozen import freeze_batchnorms, thaw_batchnorms
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.plan.sections import ProblemSpec, TrainSpec
from gearnn.store.files import digest_of_file
from gearnn.store.outputs import Outputs
from tasks.progress import logger_here, reporter
from tasks.records import AdaptorFile, Base, Data, Network
from tasks.step import device_of, keeper, step


def _reads(opened: Opened, data: Data) -> dict[str, Any]:
    plan, path = opened.plan, opened.checkpoint
    network: dict[str, Any] = {"name": plan.base.network, "num_classes": opened.num_classes} | opened.identity
    if plan.base.checkpoint is not None:
        network["checkpoint"] = digest_of_file(path)[0] if path is not None and path.is_file() else None
    if plan.base.train is None:
        return network
    if plan.base.submodule is not None:
        network["submodule"] = plan.base.submodule
    if plan.problem != ProblemSpec():
        network["problem"] = opened.problem.describe()
    return network | {
        "train": _train(plan).facts(),
        "normalisation": [plan.base.mean, plan.base.std],
        "frames": data.digests["train"],
        "seed": plan.seed,
        "numerics": opened.numerics,
    }


@step(version=2, reads=_reads, label="base", resumes=True)
def prepare_base(opened: Opened, data: Data, scratch: Path) -> Base:
    """Put the base into the store.

    Raises:
        CheckpointError: the checkpoint does not fit the network.
        DivergedError: training the base failed.
    """
    plan, base = opened.plan, opened.base(logger_here().info)
    losses: tuple[float, ...] = ()
    if plan.base.train is not None:
        moving = _train(plan).batchnorm == "moving"
        thawed = thaw_batchnorms(base) if moving else []
        with device_of(opened, "training the base"):
            known: Base | None = prepare_base.known(opened, data)
            if known is not None:  # another run has trained it while this one waited
                return known
            trained = finetune(
                base,
                opened.samples("train", DistortionLevel()),
                opened.problem,
                _train(plan).recipe(seed=plan.seed, num_workers=plan.loader_workers),
                batchnorm_statistics="all" if moving else "frozen",
                compute=opened.compute,
                checkpoint=scratch,
                on_step=reporter("training the base"),
                on_checkpoint=keeper(opened.store),
            )
        base, losses = trained.model, trained.epoch_losses
        freeze_batchnorms(base, thawed)
    return Base(
        weights=opened.keep_network(base),
        fingerprint=fingerprint(base),
        num_values=model_size(base),
        epoch_losses=losses,
    )


def solution_of(opened: Opened, base: Base, trained: Network | AdaptorFile | None) -> nn.Module:
    """What a step trained, ready to run: a whole network, or the base with an adaptor, or the base alone."""
    if isinstance(trained, Network):
        return opened.network(trained.weights)
    network = opened.network(base.weights)
    return network if trained is None else Adaptor.load(opened.store.get(trained.file)).apply(network)


def _train(plan: Plan) -> TrainSpec:
    assert plan.base.train is not None, "the plan was checked to have a checkpoint or a way to train"
    return plan.base.train


def export_base(plan: Plan, base: Base, path: Path) -> None:
    """Write a base as a checkpoint that a plan can name, with its normalisation in the header."""
    opened = Opened(plan)
    facts = opened.problem.describe()
    header = {"architecture": plan.base.network, "kwargs": json.dumps(plan.base.kwargs, sort_keys=True)}
    header |= {name: ",".join(f"{value:g}" for value in facts[name]) for name in ("mean", "std") if name in facts}
    with output_of(plan, path).fresh(path.name) as written:
        save_checkpoint(written, opened.network(base.weights), header)


def output_of(plan: Plan, path: Path) -> Outputs:
    """The folder that a base is written to.

    Raises:
        OutputError: its file would take the place of the checkpoint that it is trained from, or of one that GearNN
            did not write.
    """
    outputs = Outputs(path.parent, [plan.base.checkpoint] if plan.base.checkpoint else [])
    outputs.check(path.name)
    return outputs
