"""Plans: what a user writes in YAML, checked whole before any work starts.

Relative paths are taken from the working directory. Unknown keys and wrong types are errors that
name the key, what was expected and what came.
"""

import difflib
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gearnn.compute import Precision
from gearnn.datasets import Options, cityscapes, streets
from gearnn.datasets.frames import RESAMPLING, Camera
from gearnn.errors import LevelError, PlanError
from gearnn.layers import BatchNormStatistics, Granularity
from gearnn.levels import DistortionLevel, expand_levels
from gearnn.models.reference import is_reference
from gearnn.recipe import OptimizerName, Recipe, Schedule

Channels = tuple[float, float, float]

_SIZE_ALONE = re.compile(r"resolution:[^+]*?(?<![\d/])\d+x\d+(?![\d/])")


def _resampling(name: str) -> str:
    if name not in RESAMPLING:
        raise ValueError(f"expected one of {', '.join(RESAMPLING)}")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OptimizerSpec(_Section):
    """The optimiser of a fine-tune."""

    name: OptimizerName = "sgd"
    lr: float = Field(1e-3, gt=0, description="largest learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty; anything above 0 pollutes Eq. 1")


class AugmentSpec(_Section):
    """What happens to a distorted training frame."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring it")


class FinetuneSpec(_Section):
    """How networks are fine-tuned; the defaults are the paper's (section 4.1)."""

    epochs: StrictInt = Field(4, ge=1)
    batch_size: StrictInt = Field(8, ge=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: Schedule = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the rate first rises to lr")
    augment: AugmentSpec = AugmentSpec()

    def recipe(self, *, seed: int, num_workers: int) -> Recipe:
        """The same as the library takes it."""
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer.name,
            lr=self.optimizer.lr,
            momentum=self.optimizer.momentum,
            weight_decay=self.optimizer.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            flip=self.augment.flip,
            seed=seed,
            num_workers=num_workers,
        )


class TrainSpec(FinetuneSpec):
    """How a base is trained on pristine frames."""

    batchnorm: Literal["moving", "frozen"] = Field(
        "moving",
        description="moving: BatchNorm layers learn, fixed ones too, which are fixed again afterwards; "
        "frozen: no statistics move and fixed layers stay so, for a base that starts from pre-trained weights",
    )


class BaseSpec(_Section):
    """The pre-trained DNN."""

    name: str | None = Field(None, description="a network that GearNN or torchvision builds by name")
    module: str | None = Field(None, description="package.module:function, which returns the network; instead of name")
    kwargs: dict[str, JsonValue] = Field(default_factory=dict, description="for the network or the function")
    num_classes: StrictInt | None = Field(None, ge=1, description="default: as many as the data has")
    checkpoint: str | None = Field(None, description="safetensors or torch file; none: train one, see `train`")
    submodule: str | None = Field(None, description="with train: the part of the network that the checkpoint is of")
    train: TrainSpec | None = Field(None, description="how to train a base on pristine frames, from the checkpoint on")
    mean: Channels | None = Field(None, description="of the normalisation; default: the checkpoint's header")
    std: Channels | None = Field(None, description="of the normalisation; default: the checkpoint's header")
    registered_as: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]+$", description="name in the registry; default: <name>-<data.name>"
    )

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if (self.name is None) == (self.module is None):
            came = "neither" if self.name is None else "both"
            raise ValueError(f"expected one of `name` and `module`, but got {came}")
        if self.module is not None and not is_reference(self.module):
            raise ValueError(f"expected `module` as package.module:function, but got {self.module!r}")
        if self.checkpoint is None and self.train is None:
            raise ValueError("expected `checkpoint` (a file), or `train` (how to train a base)")
        if self.submodule is not None and (self.checkpoint is None or self.train is None):
            raise ValueError("`submodule` is for a `checkpoint` that `train` starts from")
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected both of `mean` and `std`, or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"expected `std` to be above 0, but got {list(self.std)}")
        return self

    @property
    def network(self) -> str:
        """What :func:`gearnn.models.build_model` takes: a name, or package.module:function."""
        return self.name or self.module or ""

    @property
    def short_name(self) -> str:
        """The network in names of files and models."""
        return self.network.replace(":", "-").replace(".", "-")


class ProblemSpec(BaseModel):
    """What the base does, where its name does not tell, and the problem's options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = Field(None, description="one of ours, or package.module:Class; default: by the network's name")

    @property
    def options(self) -> dict[str, Any]:
        """Fields of the problem that the plan sets."""
        return dict(self.model_extra or {})


class CameraSpec(_Section):
    """The sensor: the frame that it would have delivered; distortions come after it."""

    size: tuple[StrictInt, StrictInt] | None = Field(None, description="width, height in pixels; default: the source's")
    resample: Annotated[str, AfterValidator(_resampling)] = "box"

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.size is not None and min(self.size) < 8:
            raise ValueError(f"expected a size of at least 8x8, but got {self.size[0]}x{self.size[1]}")
        return self

    def camera(self) -> Camera:
        """The same as the datasets take it."""
        return Camera(size=self.size, resample=self.resample)


class SplitsSpec(_Section):
    """Which split serves what."""

    train: str = "train"
    promote: str = Field("val", description="versions are compared and chosen on it")
    test: str = Field("val", description="the one that is reported")


class DataSpec(_Section):
    """The frames."""

    name: Literal["camvid", "cityscapes", "class_folders", "folder", "pennfudan", "streets"]
    root: str | None = Field(None, description="folder of the dataset, or s3://bucket/prefix; streets needs none")
    camera: CameraSpec = CameraSpec()
    splits: SplitsSpec = SplitsSpec()
    frames: dict[str, StrictInt] = Field(default_factory=dict, description="streets: scenes in each split")
    seed: StrictInt = Field(0, description="streets: seed of the scenes")
    classes: tuple[str, ...] = Field((), description="folder, class_folders: names in the order of their indices")
    ignore: StrictInt | None = Field(None, ge=0, le=255, description="folder: value of mask pixels without truth")
    clip: StrictInt = Field(1, ge=1, le=300, description="cityscapes: frames that encoders of video see, up to 30")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        named_by_user = self.name in ("folder", "class_folders")
        if self.classes and not named_by_user:
            raise ValueError(f"`classes` is for folder and class_folders only; {self.name} has its own")
        if self.ignore is not None and self.name != "folder":
            raise ValueError(f"`ignore` is for name: folder only; {self.name} has its own")
        if named_by_user and not self.classes:
            raise ValueError("expected `classes`, the names of the classes in the order of their indices")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"expected `classes` of different names, but got {list(self.classes)}")
        if self.name != "cityscapes" and self.clip != 1:
            raise ValueError(f"`clip` is for cityscapes only; {self.name} has no sequences")
        if self.name == "streets":
            missing = {self.splits.train, self.splits.promote, self.splits.test} - self.frames.keys()
            if missing:
                raise ValueError(f"expected `frames` to give the number of scenes of {', '.join(sorted(missing))}")
            if min(self.frames.values()) < 1:
                raise ValueError("expected `frames` to be at least 1 in every split")
        elif self.root is None:
            raise ValueError(f"expected `root`, the folder of {self.name}")
        elif self.frames:
            raise ValueError(f"`frames` is for streets only; {self.name} has the frames that are in its folder")
        return self

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(width, height) of all undistorted frames in pixels, where plan or dataset fix it."""
        return self.camera.size or {"streets": streets.SIZE, "cityscapes": cityscapes.SIZE}.get(self.name)

    def options(self) -> Options:
        """What single datasets need, as :func:`gearnn.datasets.open_split` takes it."""
        return Options(
            frames=self.frames, seed=self.seed, class_names=self.classes, ignore_index=self.ignore, clip=self.clip
        )


class BoundSpec(_Section):
    """The memory bound M of one adaptor, and what counts as a layer."""

    fraction: float | None = Field(None, gt=0, le=1, description="of the base's values; default 0.002")
    values: StrictInt | None = Field(None, ge=1, description="number of values, instead of a fraction")
    granularity: Granularity = "layer"
    batchnorm_statistics: BatchNormStatistics = "frozen"

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if self.fraction is not None and self.values is not None:
            raise ValueError("expected either `fraction` or `values`, but got both")
        return self

    def in_values(self, model_size: int) -> int:
        """M = floor(fraction * model size), or the given number; in values."""
        if self.values is not None:
            return self.values
        fraction = Fraction(
            "0.002" if self.fraction is None else repr(self.fraction)
        )  # exact: no value lost to rounding
        return math.floor(fraction * model_size)


class Plan(_Section):
    """A whole adaptation: which base, which frames, which levels, how small, how trained."""

    base: BaseSpec
    problem: ProblemSpec = ProblemSpec()
    data: DataSpec
    levels: tuple[str, ...] = Field(min_length=1, description="levels, products in braces, or a set such as paper/jpeg")
    bound: BoundSpec = BoundSpec()
    finetune: FinetuneSpec = FinetuneSpec()
    partial: FinetuneSpec | None = Field(None, description="how adaptors are fine-tuned; default: as `finetune`")
    store: str = ".gearnn/store"
    runner: Literal["threads"] = "threads"
    workers: StrictInt | None = Field(None, ge=1, description="fine-tunes at a time; default: cores / threads; GPU: 1")
    threads: StrictInt = Field(1, ge=1, description="of torch in each fine-tune on a CPU; results depend on it")
    loader_workers: StrictInt = Field(0, ge=0, description="processes that read frames ahead in each fine-tune")
    device: str = "auto"
    precision: Precision = "auto"
    seed: StrictInt = 0

    @field_validator("levels", mode="before")
    @classmethod
    def _expand_levels(cls, value: Any, info: ValidationInfo) -> Any:
        """Every level by itself, in canonical text; sizes relate to the camera's."""
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            return value
        data: DataSpec | None = info.data.get("data")
        frame_size = data.frame_size if data is not None else None
        if data is not None and frame_size is None and any(map(_SIZE_ALONE.search, texts)):
            raise ValueError("expected data.camera.size, or resolution:WIDTHxHEIGHT/WIDTHxHEIGHT with the whole size")
        try:
            return [str(level) for level in expand_levels(texts, frame_size=frame_size)]
        except LevelError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _no_level_twice(self) -> Self:
        twice = sorted({level for level in self.levels if self.levels.count(level) > 1})
        if twice:
            raise ValueError(f"levels: {twice[0]} is listed twice")
        if not self.distortion_levels:
            raise ValueError(f"levels: expected at least one distorted level, but the base runs at {self.levels[0]}")
        return self

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan from a YAML file.

        Raises:
            PlanError: no such file, no YAML, or an entry that is wrong; every wrong entry is named.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            raise PlanError(f"plan {path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"plan {path}: expected a readable file, but got: {error}") from error
        except yaml.YAMLError as error:
            raise PlanError(f"plan {path}: expected YAML, but got: {' '.join(str(error).split())}") from error
        return cls.read(content, source=str(path))

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
        return (self.partial or self.finetune).recipe(seed=self.seed, num_workers=self.loader_workers)


def _describe(error: ValidationError) -> str:
    """All wrong entries of a plan in one line."""
    parts = []
    for entry in error.errors():
        where = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            parts.append(f"unknown key {where}{_suggestion(entry['loc'])}")
        elif entry["type"] == "missing":
            parts.append(f"{where} is missing")
        else:
            message = entry["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
            told = "but got" in message or isinstance(entry["input"], Mapping)
            came = "" if told else f", but got {entry['input']!r}"
            parts.append(f"{where}: {message}{came}" if where else f"{message}{came}")
    return "; ".join(parts)


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The key that was probably meant, found among the fields of the section that holds it."""
    section: type[BaseModel] = Plan
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f", did you mean {near[0]}" if near else f", expected one of {', '.join(section.model_fields)}"
