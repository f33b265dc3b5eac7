"""A registry with versions whose scores are planted."""

from pathlib import Path

import torch

from gearnn import registry
from gearnn.adaptor import Adaptor
from gearnn.evaluation import solutions
from gearnn.evaluation.solutions import PROMOTE
from gearnn.layers import fingerprint, model_size
from gearnn.models import load_model, save_checkpoint
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.registry import Version, runs
from gearnn.registry.description import BaseDescription
from gearnn.registry.names import LOSS_PARTIAL, metric_name
from tests.shared.adaptors import tune

NAME = "tiny-streets"


class Registry:
    """A registry with one base, and what tests do with it."""

    def __init__(self, folder: Path, problem: SemanticSegmentation, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.folder, self.problem = folder, problem
        self.model = load_model("drn_d_22_quarter", 9)
        self.experiment = runs.experiment_id(NAME)
        self.parent = runs.plan_run(self.experiment, "digest", {"plan": "{}"})
        self.base = self.register_base()

    def register_base(self) -> Version:
        weights = self.folder / f"{fingerprint(self.model)[:8]}.safetensors"
        save_checkpoint(weights, self.model)
        description = BaseDescription.of("drn_d_22_quarter", 9, {}, self.problem)
        values = model_size(self.model)
        version = registry.register_base(
            NAME, weights, fingerprint(self.model), description, run_id=self.parent, num_values=values
        )
        registry.promote_base(version)
        return registry.get_version(version.name, version.version)

    def adaptor(self, level: str, names: list[str]) -> Adaptor:
        tuned, layers = tune(self.model, names)
        return Adaptor.extract(self.model, tuned, layers, level)

    def register(self, adaptor: Adaptor, score: float) -> Version:
        path = self.folder / f"{adaptor.level.slug}.safetensors"
        adaptor.save(path)
        identity = f"{adaptor.sha256}-{score}"
        run, _ = runs.level_run(self.experiment, self.parent, str(adaptor.level), identity)
        metric = metric_name(PROMOTE, solutions.ADAPTOR, "miou")
        runs.log(run, metrics={metric: score}, params={"lr": 1}, curves={LOSS_PARTIAL: [2.0, 1.0]})
        runs.finish(run)
        version = registry.register_adaptor(self.base, path, run_id=run, identity=identity, tags={}, card="**card**")
        registry.promote(version, metric)
        return registry.get_version(version.name, version.version)
