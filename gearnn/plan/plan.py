"""Plans: what a user writes in YAML, checked whole before any work starts.

Relative paths are taken from the working directory. Unknown keys and wrong types are errors that
name the key, what was expected and what came.
"""

import difflib
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gearnn.errors import LevelError, PlanError
from gearnn.levels import DistortionLevel, expand_levels
from gearnn.machine.compute import Precision
from gearnn.plan.documents import read_yaml
from gearnn.plan.sections import (
    BaseSpec,
    BenchmarkSpec,
    BoundSpec,
    DataSpec,
    FinetuneSpec,
    OptimizerSpec,
    PartialSpec,
    ProblemSpec,
    PromotionSpec,
    Section,
)
from gearnn.recipe import Recipe
from gearnn.version import __version__

FORMAT = 1
"""The newest form of a plan that this version reads; raised when an older one would misread a plan."""

_RUNNER = re.compile(r"threads|processes|(dask|ray)(://([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5})?")
_SIZE_ALONE = re.compile(r"resolution:[^+]*?(?<![\d/])\d+x\d+(?![\d/])")


class Plan(Section):
    """A whole adaptation: which base, which frames, which levels, how small, how trained."""

    base: BaseSpec
    problem: ProblemSpec = ProblemSpec()
    data: DataSpec
    levels: tuple[str, ...] = Field(min_length=1, description="levels, products in braces, or a set such as paper/jpeg")
    bound: BoundSpec = BoundSpec()
    finetune: FinetuneSpec = FinetuneSpec()
    partial: PartialSpec | None = Field(
        None, description="how adaptors are fine-tuned; default: for as many epochs as `finetune`"
    )
    promotion: PromotionSpec = PromotionSpec()
    benchmark: BenchmarkSpec = BenchmarkSpec()
    store: str = ".gearnn/store"
    runner: str = Field("threads", description="threads, processes, dask, dask://host:port, ray, or ray://host:port")
    workers: StrictInt | None = Field(None, ge=1, description="steps at a time; default: cores / threads, or GPUs")
    threads: StrictInt = Field(1, ge=1, description="of torch in each fine-tune on a CPU; results depend on it")
    loader_workers: StrictInt = Field(0, ge=0, description="processes that read frames ahead in each fine-tune")
    device: str = "auto"
    precision: Precision = "auto"
    seed: StrictInt = 0
    format: StrictInt = Field(FORMAT, ge=1, description="of the plan's own keys; the newest that is known here")

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, value: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """All that is wrong as one error, so that Prefect says of a parameter what :meth:`read` says of a file."""
        try:
            _check_format(value)
            return check(value)
        except ValidationError as error:
            raise PydanticCustomError("plan", "{reason}", {"reason": _describe(error)}) from error

    @field_validator("levels", mode="before")
    @classmethod
    def _expand_levels(cls, value: Any, info: ValidationInfo) -> Any:
        """Every level by itself, in canonical text; sizes relate to the camera's."""
        return _expanded(value, info.data.get("data"))

    @field_validator("benchmark", mode="before")
    @classmethod
    def _expand_benchmark(cls, value: Any, info: ValidationInfo) -> Any:
        """The same for the levels of its parts."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            return value
        parts = {
            name: part | {"levels": _expanded(part["levels"], info.data.get("data"))}
            for name, part in value.items()
            if name in ("bounds", "frequency") and isinstance(part, dict) and "levels" in part
        }
        return dict(value) | parts

    @field_validator("runner")
    @classmethod
    def _known_runner(cls, value: str) -> str:
        if not _RUNNER.fullmatch(value):
            raise ValueError("expected threads, processes, dask, dask://host:port, ray or ray://host:port")
        return value

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if self.distill and self.finetune.target not in (None, "labels"):
            raise ValueError(
                f"partial.distill: expected none beside finetune.target: {self.finetune.target}, because an adaptor "
                f"follows either the full fine-tune of its level or the base"
            )
        return self

    @model_validator(mode="after")
    def _no_level_twice(self) -> Self:
        twice = sorted({level for level in self.levels if self.levels.count(level) > 1})
        if twice:
            raise ValueError(f"levels: {twice[0]} is listed twice")
        if not self.distortion_levels:
            raise ValueError(f"levels: expected at least one distorted level, but the base runs at {self.levels[0]}")
        return self

    @model_validator(mode="after")
    def _benchmark_levels(self) -> Self:
        for name in ("bounds", "frequency"):
            section = getattr(self.benchmark, name)
            for level in section.levels if section is not None else ():
                if level not in map(str, self.distortion_levels):
                    raise ValueError(
                        f"benchmark.{name}.levels: expected some of {', '.join(map(str, self.distortion_levels))}, "
                        f"but got {level}"
                    )
        return self

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan from a YAML file.

        Raises:
            PlanError: no such file, no YAML, a key that stands twice, or an entry that is wrong; every wrong entry
                is named.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise PlanError(f"plan {path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"plan {path}: expected a readable file, but got: {error}") from error
        return cls.read(read_yaml(text, source=f"plan {path}"), source=str(path))

    @classmethod
    def read(cls, content: Any, *, source: str) -> "Plan":
        """Check the content of a plan; ``source`` is where it came from, for messages."""
        if not isinstance(content, Mapping):
            raise PlanError(f"plan {source}: expected keys and values, but got {type(content).__name__}")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise PlanError(f"plan {source}: {_describe(error)}") from error

    @property
    def distortion_levels(self) -> tuple[DistortionLevel, ...]:
        """The levels that get an adaptor, in the plan's order; at pristine levels the base itself runs."""
        return tuple(level for level in map(DistortionLevel.parse, self.levels) if not level.is_pristine)

    def only(self, levels: Sequence[str]) -> "Plan":
        """The same plan for some of its levels.

        Raises:
            PlanError: a level that is not in the plan.
        """
        known = list(map(str, self.distortion_levels))
        wanted = [str(DistortionLevel.parse(level)) for level in levels]
        for level in wanted:
            if level not in known:
                raise PlanError(f"levels: expected some of the plan's, {', '.join(known)}, but got {level}")
        return self.model_copy(update={"levels": tuple(level for level in known if level in wanted)})

    @property
    def registered_base(self) -> str:
        """Name of the base in the model registry."""
        return self.base.registered_as or f"{self.base.short_name}-{self.data.name}"

    @property
    def full_recipe(self) -> Recipe:
        """How the whole network is fine-tuned."""
        return self.finetune.recipe(seed=self.seed, num_workers=self.loader_workers)

    @property
    def partial_recipe(self) -> Recipe:
        """How adaptors are fine-tuned."""
        return self.of_adaptors.recipe(seed=self.seed, num_workers=self.loader_workers)

    @property
    def of_adaptors(self) -> PartialSpec:
        """`partial`; where the plan has none, the default with epochs, batches and mirroring of `finetune`."""
        how = self.finetune
        return self.partial or PartialSpec(epochs=how.epochs, batch_size=how.batch_size, augment=how.augment)

    @property
    def as_in_paper(self) -> "Plan":
        """The same with the paper's recipe for all fine-tunes, Eq. 2 alone, and statistics that do not move."""
        recipe = {
            "optimizer": OptimizerSpec(),
            "schedule": "constant",
            "warmup": 0.0,
            "clip": None,
        }
        update = {
            "finetune": self.finetune.model_copy(update=recipe | {"target": self.finetune.target and "labels"}),
            "partial": self.of_adaptors.model_copy(update=recipe | {"distill": 0.0}),
            "bound": self.bound.model_copy(
                update={"batchnorm_statistics": "frozen", "select": "eq2", "granularity": "layer"}
            ),
        }
        return self.model_copy(update=update)

    @property
    def distill(self) -> float:
        """Share of an adaptor's loss that follows the full fine-tune of its level."""
        return self.partial.distill if self.partial is not None else 0.0


def _check_format(content: Any) -> None:
    """A newer plan is reported as such, and not by the keys that it has and older versions do not know."""
    number = content.get("format") if isinstance(content, Mapping) else None
    if type(number) is int and number > FORMAT:
        expected = f"expected at most {FORMAT}, which GearNN {__version__} knows"
        reason = f"format: {expected}, but got {number}; update gearnn here ({platform.node()})"
        raise PydanticCustomError("plan", "{reason}", {"reason": reason})


def _expanded(value: Any, data: DataSpec | None) -> Any:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    frame_size = data.frame_size if data is not None else None
    if data is not None and frame_size is None and any(map(_SIZE_ALONE.search, texts)):
        raise ValueError("expected data.camera.size, or resolution:WIDTHxHEIGHT/WIDTHxHEIGHT with the whole size")
    try:
        return [str(level) for level in expand_levels(texts, frame_size=frame_size)]
    except LevelError as error:
        raise ValueError(str(error)) from error


_PLAIN = {"tuple_type": "a list, such as [1, 2]", "model_type": "keys and values", "dict_type": "keys and values"}
"""What a user would call the types that pydantic names."""


def _describe(error: ValidationError) -> str:
    """All wrong entries of a plan in one line."""
    parts = []
    for entry in error.errors():
        where = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            parts.append(f"unknown key {where}{_suggestion(entry['loc'])}")
        elif entry["type"] == "missing":
            parts.append(f"{where} is missing")
        elif entry["type"] in _PLAIN:
            parts.append(f"{where}: expected {_PLAIN[entry['type']]}, but got {entry['input']!r}")
        elif entry["type"] == "string_type":
            parts.append(f"{where}: expected text, but got {entry['input']!r}{_as_text(entry['input'])}")
        elif entry["type"] == "too_short" and entry["input"]:
            continue  # its items are wrong, which is reported of them
        else:
            message = entry["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
            told = "but got" in message or isinstance(entry["input"], Mapping)
            came = "" if told else f", but got {entry['input']!r}"
            parts.append(f"{where}: {message}{came}" if where else f"{message}{came}")
    return "; ".join(parts)


def _as_text(value: Any) -> str:
    """How to write what YAML reads otherwise than people mean."""
    if isinstance(value, bool | int | float):
        return ', which YAML reads so; quote it, as in "no" or "0"'
    if isinstance(value, Mapping) and len(value) == 1:
        ((key, item),) = value.items()
        return f"; without the space behind the colon it is {key}:{item}"
    return ""


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The key that was probably meant, found among the fields of the section that holds it."""
    section: type[BaseModel] = Plan
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f", did you mean {near[0]}" if near else f", expected one of {', '.join(section.model_fields)}"
