"""The solutions of a benchmark under way: what is submitted for every seed, in which phase."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gearnn.evaluation import solutions
from gearnn.levels import PRISTINE
from gearnn.plan import Plan
from tasks.adapting.finetune import full_finetune, partial_finetune
from tasks.adapting.knapsack import choose_layers
from tasks.adapting.portfolio import try_selections
from tasks.adapting.sensitivity import measure_sensitivity
from tasks.benchmarking import baselines
from tasks.benchmarking.frequency import measure_frequency
from tasks.records import Base, Data


@dataclass(frozen=True)
class Contestant:
    """A solution under way: the futures of its steps, of which the last is a network or an adaptor."""

    plan: Plan
    solution: str
    trained: str
    steps: tuple[Any, ...]
    tested: Sequence[str]
    setting: str = ""


class Seed:
    """All solutions of one seed; every method submits one phase."""

    def __init__(self, plan: Plan, base: Base, data: Data, *, is_first: bool) -> None:
        self.plan, self.base, self.data, self.is_first = plan, base, data, is_first
        self.levels = [str(level) for level in plan.distortion_levels]
        self.contestants: list[Contestant] = []
        self.fulls: dict[str, Any] = {}
        self.paper_fulls: dict[str, Any] = {}
        self.tables_by_level: dict[str, Any] = {}

    def whole_networks(self) -> None:
        """The pristine control, and a full fine-tune a level."""
        for level in (PRISTINE, *self.levels):
            self.fulls[level] = full_finetune.submit(self.plan, self.base, self.data, level)
        self._enter(solutions.CLEAN, PRISTINE, self.fulls[PRISTINE], tested=self.plan.levels)
        for level in self.levels:
            self._enter(solutions.FULL, level, self.fulls[level])
        if "paper_recipe" in self.plan.benchmark.baselines:
            for level in (PRISTINE, *self.levels):
                self.paper_fulls[level] = full_finetune.submit(self.plan.as_in_paper, self.base, self.data, level)
            for level in self.levels:
                self._enter(solutions.PAPER_FULL, level, self.paper_fulls[level])

    def single_networks(self) -> None:
        """Mixed training and stability training."""
        common, wanted, levels = (self.plan, self.base, self.data), self.plan.benchmark.baselines, self.plan.levels
        for name, solution, rounds in (
            ("mixed", solutions.MIXED, 1),
            ("mixed_long", solutions.MIXED_LONG, len(self.levels)),
        ):
            if name in wanted and (rounds > 1 or name == "mixed"):
                network = baselines.mixed_training.submit(*common, list(levels), rounds)
                self._enter(solution, baselines.MIXED, network, tested=levels)
        if "stability" in wanted:
            grid = self.plan.benchmark.stability
            for alpha, sigma in ((alpha, sigma) for alpha in grid.alpha for sigma in grid.sigma):
                network = baselines.stability_training.submit(*common, alpha, sigma)
                setting = f"alpha={alpha:g}, sigma={sigma:g}"
                self._enter(solutions.STABILITY, PRISTINE, network, tested=levels, setting=setting)

    def tables(self) -> None:
        """Sensitivities."""
        for level in self.levels:
            networks = self.fulls[level], self.fulls[PRISTINE]
            self.tables_by_level[level] = measure_sensitivity.submit(self.plan, self.base, *networks)

    def adaptors(self) -> None:
        """Everything that is small: adaptors, and what else could be swapped into the base."""
        wanted = self.plan.benchmark.baselines
        by_module = self.plan.bound.model_copy(update={"granularity": "layer"})
        plain = self.plan.model_copy(update={"bound": by_module})
        for level in self.levels:
            tested = self.plan.levels if self.plan.benchmark.matrix else (level,)
            by_eq2, chosen = self._chosen(self.plan, level)
            self._adapt(solutions.ADAPTOR, self.plan, level, chosen, tested)
            if "eq2" in wanted and self.plan.bound.select != "eq2":
                self._adapt(solutions.EQ2, self.plan, level, by_eq2)
            if "paper_recipe" in wanted:
                self._adapt_as_in_paper(level)
            if "batchnorm" in wanted:
                norms = baselines.select_batchnorms.submit(plain, self.base, level)
                self._adapt(solutions.BATCHNORM, plain, level, norms)
            if "last_layers" in wanted:
                self._adapt(solutions.LAST_LAYERS, plain, level, baselines.select_last.submit(plain, self.base, level))
            if "reestimated" in wanted and self.is_first:  # no seed decides about it
                found = baselines.reestimate_statistics.submit(self.plan, self.base, self.data, level)
                self._enter(solutions.REESTIMATED, level, found)

    def bounds(self) -> None:
        """Adaptors under other bounds; the plan's own is there already."""
        spec, size = self.plan.benchmark.bounds, self.base.num_values
        if spec is None:
            return
        for fraction in spec.fractions:
            bound = self.plan.bound.model_copy(update={"fraction": fraction, "values": None})
            plan = self.plan.model_copy(update={"bound": bound})
            if bound.in_values(size) == self.plan.bound.in_values(size):
                continue
            for level in spec.levels or self.levels[:1]:
                _, chosen = self._chosen(plan, level)
                self._adapt(solutions.ADAPTOR, plan, level, chosen, setting=f"bound={100 * fraction:g} %")

    def frequency_maps(self) -> dict[str, Any]:
        """Frequency responses of the base, and of full, partial and mixed training, by what they are."""
        spec = self.plan.benchmark.frequency
        maps: dict[str, Any] = {}
        if spec is None:
            return maps
        wanted = {solutions.FULL, solutions.ADAPTOR, solutions.MIXED}
        trained = (*(spec.levels or self.levels[:1]), baselines.MIXED)
        shown = [c for c in self.contestants if c.solution in wanted and c.trained in trained and not c.setting]
        asked = [(solutions.BASE, "", None), *((c.solution, c.trained, c.steps[-1]) for c in shown)]
        for block in (8, 0) if spec.whole_frames else (8,):
            for solution, level, result in asked:
                common = self.plan, self.base, self.data, solution, level
                title = f"{solution} {level}".strip() + ("" if block else ", whole frames")
                maps[title] = measure_frequency.submit(*common, result, block)
        return maps

    def _chosen(self, plan: Plan, level: str) -> tuple[Any, Any]:
        """The layers of Eq. 2, and those that the plan's way selects."""
        table = self.tables_by_level[level]
        by_eq2 = choose_layers.submit(plan, self.base, table)
        if plan.bound.select == "eq2":
            return by_eq2, by_eq2
        return by_eq2, try_selections.submit(plan, self.base, self.data, table, by_eq2, self.fulls[level])

    def _adapt_as_in_paper(self, level: str) -> None:
        plan, full, pristine = self.plan.as_in_paper, self.paper_fulls[level], self.paper_fulls[PRISTINE]
        table = measure_sensitivity.submit(plan, self.base, full, pristine)
        chosen = choose_layers.submit(plan, self.base, table)
        adaptor = partial_finetune.submit(plan, self.base, self.data, level, chosen, full)
        self._enter(solutions.PAPER_RECIPE, level, pristine, full, table, chosen, adaptor)

    def _enter(self, solution: str, trained: str, *steps: Any, tested: Sequence[str] = (), setting: str = "") -> None:
        self.contestants.append(Contestant(self.plan, solution, trained, steps, tested or (trained,), setting))

    def _adapt(
        self, solution: str, plan: Plan, level: str, chosen: Any, tested: Sequence[str] = (), setting: str = ""
    ) -> None:
        """Enter an adaptor with all that it rests on, in order, so that the reason of a failure is the first one."""
        before = [self.fulls[level], chosen]
        if solution not in (solutions.BATCHNORM, solutions.LAST_LAYERS):  # their layers need no sensitivities
            before = [self.fulls[PRISTINE], self.fulls[level], self.tables_by_level[level], chosen]
        adaptor = partial_finetune.submit(plan, self.base, self.data, level, chosen, self.fulls[level])
        self.contestants.append(Contestant(plan, solution, level, (*before, adaptor), tested or (level,), setting))
