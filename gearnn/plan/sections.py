"""The sections of a plan; :mod:`gearnn.plan` puts them together."""

import math
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StrictInt, model_validator

from gearnn.datasets import Options, cityscapes, streets
from gearnn.datasets.frames import RESAMPLING, Camera
from gearnn.datasets.splits import Split
from gearnn.layers import BatchNormStatistics, Granularity
from gearnn.models.reference import is_reference
from gearnn.recipe import OptimizerName, Recipe, Schedule, Select, Target

Channels = tuple[float, float, float]


def _resampling(name: str) -> str:
    if name not in RESAMPLING:
        raise ValueError(f"expected one of {', '.join(RESAMPLING)}")
    return name


class Section(BaseModel):
    """Keys and values of a plan; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OptimizerSpec(Section):
    """The optimiser of a fine-tune."""

    name: OptimizerName = "sgd"
    lr: float = Field(1e-3, gt=0, description="largest learning rate")
    relative: bool = Field(False, description="lr times the root mean square of each tensor's values at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty; anything above 0 pollutes Eq. 1")


class AugmentSpec(Section):
    """What happens to a distorted training frame."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring it")


class RecipeSpec(Section):
    """How networks are trained; the defaults are the paper's (section 4.1), and those of `base.train`."""

    epochs: StrictInt = Field(4, ge=1)
    batch_size: StrictInt = Field(8, ge=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: Schedule = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the rate first rises to lr")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none: not clipped")
    augment: AugmentSpec = AugmentSpec()

    def facts(self) -> dict[str, Any]:
        """As JSON values that decide a result; what came later is left out where it changes nothing."""
        facts = self.model_dump(mode="json")
        for section, key, default in (
            (facts["optimizer"], "relative", False),
            (facts, "clip", None),
            (facts, "distill", 0.0),
            (facts, "target", None),
            (facts, "target", "labels"),
            (facts, "batchnorm", "moving"),
        ):
            if section.get(key) == default:
                section.pop(key, None)
        return facts

    def recipe(self, *, seed: int, num_workers: int) -> Recipe:
        """The same as the library takes it."""
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer.name,
            lr=self.optimizer.lr,
            relative=self.optimizer.relative,
            clip=self.clip,
            momentum=self.optimizer.momentum,
            weight_decay=self.optimizer.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            flip=self.augment.flip,
            seed=seed,
            num_workers=num_workers,
        )


class FinetuneSpec(RecipeSpec):
    """How the whole network is fine-tuned, and what all fine-tunes learn from; docs/results.md chose the defaults."""

    optimizer: OptimizerSpec = OptimizerSpec(name="adam", lr=1e-4)
    schedule: Schedule = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate first rises to lr")
    target: Target | None = Field(
        None,
        description="labels; base: its answers on the undistorted frames, which need no labels; or both; default: "
        "labels where there are some",
    )


class PartialSpec(RecipeSpec):
    """How adaptors are fine-tuned; docs/results.md chose the defaults."""

    optimizer: OptimizerSpec = OptimizerSpec(name="adam", lr=0.05, relative=True)
    schedule: Schedule = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate first rises to lr")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; none: not clipped")
    distill: float = Field(
        0.0, ge=0, le=1, description="share of the loss that follows the full fine-tune's predictions, not the truth"
    )


class TrainSpec(RecipeSpec):
    """How a base is trained on pristine frames."""

    batchnorm: Literal["moving", "frozen"] = Field(
        "moving",
        description="moving: BatchNorm layers learn, fixed ones too, which are fixed again afterwards; "
        "frozen: no statistics move and fixed layers stay so, for a base that starts from pre-trained weights",
    )


class PromotionSpec(Section):
    """When an adaptor that was trained comes into use; scores are those of the split ``promote``."""

    rule: Literal["better", "manual"] = Field(
        "better", description="better: when it beats the champion; manual: when people set the alias"
    )
    margin: float = Field(0.0, ge=0, description="percentage points by which it must be better")
    over_base: bool = Field(True, description="whether it must beat the base itself, too")


class BaseSpec(Section):
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
        None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="name in the registry; default: NETWORK-DATA",
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
    """What the base does, where its name does not say, and the problem's options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = Field(None, description="one of ours, or package.module:Class; default: by the network's name")

    @property
    def options(self) -> dict[str, Any]:
        """Fields of the problem that the plan sets."""
        return dict(self.model_extra or {})


class CameraSpec(Section):
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


def _split(text: str) -> str:
    return str(Split.parse(text))


SplitText = Annotated[str, AfterValidator(_split)]


class SplitsSpec(Section):
    """Which split serves what: a split of the dataset, or a slice of one such as ``val[:50%]``."""

    train: SplitText = "train"
    promote: SplitText = Field("val", description="versions are compared and chosen on it")
    test: SplitText = Field("test", description="the one that is reported; nothing is chosen on it")
    overlap: Literal["refused", "reported"] = Field(
        "refused", description="whether a frame may be in two of them; reports say how many are"
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        roles = {"train": self.train, "promote": self.promote, "test": self.test}
        twice = [role for role, split in roles.items() if list(roles.values()).count(split) > 1]
        if twice and self.overlap == "refused":
            one, other = twice[0], twice[1]
            halves = f"{other}: '{roles[other]}[50%:]'" if Split.parse(roles[other]).is_whole else "other frames"
            raise ValueError(
                f"expected {one} and {other} to be different frames, because what is chosen on frames looks better on "
                f"them than it is, but both are {roles[one]}; set {one}: '{Split.parse(roles[one]).name}[:50%]' and "
                f"{halves}, or overlap: reported"
            )
        return self


class DataSpec(Section):
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
            roles = self.splits.train, self.splits.promote, self.splits.test
            missing = {Split.parse(split).name for split in roles} - self.frames.keys()
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


class BoundSpec(Section):
    """The memory bound M of one adaptor, and what counts as a layer."""

    fraction: float | None = Field(None, gt=0, le=1, description="of the base's values; default 0.002")
    values: StrictInt | None = Field(None, ge=1, description="number of values, instead of a fraction")
    granularity: Granularity = "layer"
    batchnorm_statistics: BatchNormStatistics = Field(
        "folded", description="which running statistics move, and how an adaptor holds them"
    )
    select: Select = Field(
        "portfolio", description="eq2: the layers of Eq. 2; portfolio: others where they are better beyond chance"
    )

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


Baseline = Literal["mixed", "mixed_long", "stability", "reestimated", "batchnorm", "last_layers", "eq2", "paper_recipe"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


class StabilitySpec(Section):
    """The grid of stability training; every pair of values is one network."""

    alpha: tuple[Annotated[float, Field(gt=0)], ...] = Field((2.0,), min_length=1, description="weight of stability")
    sigma: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1,), min_length=1, description="standard deviation of the noise on pixels in [0, 1]"
    )


class BoundsSpec(Section):
    """Accuracy over the bound (section 4.1)."""

    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.001, 0.002, 0.004, 0.006, 0.008, 0.01), min_length=1, description="of the base's values"
    )
    levels: tuple[str, ...] = Field((), description="of the plan's; default: the first distorted one")


class FrequencySpec(Section):
    """Frequency responses (section 3.1)."""

    levels: tuple[str, ...] = Field((), description="of the plan's; default: the first distorted one")
    frames: StrictInt = Field(32, ge=1, description="undistorted frames of the test split, evenly spread")
    whole_frames: bool = Field(False, description="also with the whole frame as one block; frames of one size only")


class BenchmarkSpec(Section):
    """What `gearnn benchmark` compares GearNN with, and what it draws; nothing else reads it."""

    seeds: tuple[StrictInt, ...] = Field((), description="default: the plan's seed")
    baselines: tuple[Baseline, ...] = Field(BASELINES, description="beside base, clean fine-tune, full fine-tune")
    stability: StabilitySpec = StabilitySpec()
    bounds: BoundsSpec | None = Field(None, description="none: not measured")
    frequency: FrequencySpec | None = Field(None, description="none: not measured")
    matrix: bool = Field(True, description="every adaptor at every level of the plan")
    examples: StrictInt = Field(2, ge=0, description="frames of the test split that are drawn")

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        grid, bounds, frequency = self.stability, self.bounds or BoundsSpec(), self.frequency or FrequencySpec()
        lists: dict[str, tuple[Any, ...]] = {
            "seeds": self.seeds,
            "baselines": self.baselines,
            "stability.alpha": grid.alpha,
            "stability.sigma": grid.sigma,
            "bounds.fractions": bounds.fractions,
            "bounds.levels": bounds.levels,
            "frequency.levels": frequency.levels,
        }
        for name, values in lists.items():
            if len(set(values)) < len(values):
                raise ValueError(f"expected `{name}` without repetitions, but got {list(values)}")
        return self
