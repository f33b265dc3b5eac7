"""What travels between tasks: numbers, names and references to bytes in the store; never tensors."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gearnn.errors import BoundError, DivergedError, PlanError
from gearnn.evaluation.solutions import DIVERGED, FAILED, NOT_POSSIBLE
from gearnn.store.storage import Ref


class Record(BaseModel):
    """A small frozen record that can be written as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Record):
    """The frames of a plan, checked.

    Attributes:
        digests: role of a split -> digest of its frames and truth.
        num_frames: role of a split -> number of frames.
        splits: role -> the split, as the plan names it.
        overlaps: what splits have in common, in words.
        answered: roles whose frames have no labels, so that the base's answers on the undistorted frames are the truth.
    """

    digests: dict[str, str]
    num_frames: dict[str, int]
    splits: dict[str, str] = {}
    overlaps: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        """Which frames served what, for tables and versions."""
        told = {
            role: f"{self.splits.get(role, role)} ({number:,} frame{'s' * (number != 1)})"
            for role, number in self.num_frames.items()
        }
        text = f"trained on {told['train']}, chosen on {told['promote']}, reported on {told['test']}"
        if "train" in self.answered:
            text += "; trained without labels, by the base's answers on the undistorted frames"
        scored = [told[role].partition(" ")[0] for role in ("promote", "test") if role in self.answered]
        if scored:
            text += (
                f"; {' and '.join(scored)} without labels: figures are agreement with the base on undistorted frames"
            )
        return f"{text}; {'; '.join(self.overlaps)}" if self.overlaps else text


class Frames(Record):
    """The distorted frames that a plan needs, made.

    Attributes:
        num_written: files that were missing.
        num_bytes: their size.
    """

    num_written: int
    num_bytes: int


class Base(Record):
    """The pre-trained DNN.

    Attributes:
        weights: float32 safetensors.
        fingerprint: of the weights.
        num_values: model size.
        epoch_losses: where the plan had it trained.
    """

    weights: Ref
    fingerprint: str
    num_values: int
    epoch_losses: tuple[float, ...] = ()


class Network(Record):
    """A fully fine-tuned network.

    Attributes:
        level: of its training frames.
        weights: safetensors.
        epoch_losses: mean training loss of every epoch.
        seconds: that the fine-tune took.
    """

    level: str
    weights: Ref
    epoch_losses: tuple[float, ...]
    seconds: float


class Table(Record):
    """A sensitivity table.

    Attributes:
        level: q.
        parquet: the file.
        share_sensitive: share of the model in layers whose mean change exceeds 2e-4.
    """

    level: str
    parquet: Ref
    share_sensitive: float


class Tried(Record):
    """A way to select layers that was tried by a short fine-tune.

    Attributes:
        name: of the way.
        score: of the trial on the split ``promote``, in percent; None where it has no figure.
        gain: over Eq. 2's, in points: the ends of the paired 95 % interval over frames; of a rate, over the same
            layers with the recipe's own.
        rate: by what the recipe's learning rate was multiplied.
        is_chosen: whether its layers are adapted, at this rate.
        num_layers: how many these are.
    """

    name: str
    score: float | None
    gain: tuple[float | None, float | None]
    rate: float = 1.0
    is_chosen: bool
    num_layers: int


class Selection(Record):
    """The layers that are adapted.

    Attributes:
        level: q.
        layers: S, names in the base's order.
        num_values: what their adaptor stores.
        bound: M, in values.
        rate: by what the learning rate of the adaptor's recipe is multiplied.
        tried: the ways to select that were tried; none where the plan says Eq. 2.
    """

    level: str
    layers: tuple[str, ...]
    num_values: int
    bound: int
    rate: float = 1.0
    tried: tuple[Tried, ...] = ()


class AdaptorFile(Record):
    """An adaptor.

    Attributes:
        level: q.
        file: safetensors.
        num_values: stored values.
        epoch_losses: of the partial fine-tune.
        seconds: that it took.
    """

    level: str
    file: Ref
    num_values: int
    epoch_losses: tuple[float, ...]
    seconds: float


class Score(Record):
    """How good one solution is at one level.

    Attributes:
        solution: one of :data:`gearnn.evaluation.solutions.SOLUTIONS`.
        level: of the frames it was scored on.
        figure: name of the primary figure, such as ``miou``.
        values: role of a split -> figure, in percent.
        low: lower end of the 95 % bootstrap interval over the frames of the test split.
        high: upper end.
        per_class: figures of the classes on the test split.
        figures: role of a split -> every figure of the problem, in percent.
        draws: role of a split -> the primary figure of many draws of frames, npy; equal splits draw alike.
    """

    solution: str
    level: str
    figure: str
    values: dict[str, float]
    low: float
    high: float
    per_class: tuple[float | None, ...]
    figures: dict[str, dict[str, float]] = {}
    draws: dict[str, Ref] = {}


class Registered(Record):
    """A version in the registry.

    Attributes:
        level: q, or empty for a base or a gearbox.
        name: of the registered model.
        version: number.
        champion: number of the version that is champion now; empty for none.
        reason: why it is that one.
    """

    level: str
    name: str
    version: str
    champion: str
    reason: str = ""


class Row(Record):
    """All that a run found out about one level.

    Attributes:
        level: q.
        scores: solution -> score.
        table: its sensitivities.
        selection: its layers.
        adaptor: the result.
        full: the full fine-tune.
        registered: the version, where it was registered.
    """

    level: str
    scores: dict[str, Score]
    table: Table
    selection: Selection
    adaptor: AdaptorFile
    full: Network
    registered: Registered | None = None


class Adapted(Record):
    """What a whole run gives.

    Attributes:
        base: the pre-trained DNN.
        data: the checked frames.
        pristine: score of the base on undistorted frames.
        rows: one a level, in the plan's order.
        report: path of the report.
        gearbox: the base with all of its champions as one version; None where it could not be registered.
    """

    base: Base
    data: Data
    pristine: Score
    rows: tuple[Row, ...]
    report: str
    gearbox: Registered | None = None


class Failure(Record):
    """Why something could not be had.

    Attributes:
        kind: ``diverged``; ``not possible`` for this network or problem, which is nobody's fault; or ``failed``.
        reason: the error, in one line.
    """

    kind: Literal["diverged", "not possible", "failed"]
    reason: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """What an error means for a benchmark."""
        kinds = {DivergedError: DIVERGED, PlanError: NOT_POSSIBLE, BoundError: NOT_POSSIBLE}
        kind = next((kind for of, kind in kinds.items() if isinstance(error, of)), FAILED)
        return cls(kind=kind, reason=f"{type(error).__name__}: {error}")


class Entrant(Record):
    """A trained solution of a benchmark, or one that could not be trained.

    Attributes:
        solution: one of :data:`gearnn.evaluation.solutions.BENCHMARKED`.
        setting: what distinguishes it from others of the same name, such as ``alpha=2, sigma=0.1``; else empty.
        trained: level of its training frames; ``mixed``, ``pristine``, or empty for the base.
        seed: of its fine-tune.
        network: a whole network, where it is one.
        adaptor: what to apply to the base, where that is all.
        failure: why there is neither.
    """

    solution: str
    setting: str = ""
    trained: str = ""
    seed: int
    network: Network | None = None
    adaptor: AdaptorFile | None = None
    failure: Failure | None = None


class Measured(Record):
    """An entrant at one level.

    Attributes:
        entrant: the solution.
        level: of the frames it was scored on.
        score: how good it is; None where it could not be found out.
        failure: why not.
    """

    entrant: Entrant
    level: str
    score: Score | None = None
    failure: Failure | None = None


class FrequencyMap(Record):
    """The frequency response of one network.

    Attributes:
        solution: what it is.
        level: of its training frames; empty for the base.
        block: side of the blocks; 0 for whole frames.
        num_frames: that it was averaged over.
        file: npy, float64 [3, rows, columns], for Y, Cb, Cr.
    """

    solution: str
    level: str
    block: int
    num_frames: int
    file: Ref


class Benchmarked(Record):
    """What a benchmark gives.

    Attributes:
        base: the pre-trained DNN.
        num_measured: figures in the table.
        failures: what could not be measured, one line each.
        has_died: whether any of that should have been possible.
        table: path of the table.
        report: path of the report.
    """

    base: Base
    num_measured: int
    failures: tuple[str, ...]
    has_died: bool
    table: str
    report: str


class Finding(Record):
    """What a retraining found out about one level.

    Attributes:
        plan: file of the plan that wants it; empty where none does.
        base: name of the registered base.
        level: q.
        name: of the registered model.
        state: ``missing``: never made; ``changed``: made from something else; ``undecided``: made, but a run ended
            before it was decided about; ``archived``: retired earlier and wanted again; ``present``; ``retired``:
            in use, but in no plan; ``failed``: its plan's frames or base cannot be read.
        reasons: why it is so.
        version: that was compared, if there is one.
    """

    plan: str
    base: str
    level: str
    name: str
    state: Literal["missing", "changed", "undecided", "archived", "present", "retired", "failed"]
    reasons: tuple[str, ...] = ()
    version: str = ""


class Retrained(Record):
    """What a retraining gives.

    Attributes:
        findings: of the comparison, before anything was done.
        registered: versions of the levels that were made.
        archived: names of registered models that were taken out of use.
    """

    findings: tuple[Finding, ...]
    registered: tuple[Registered, ...] = ()
    archived: tuple[str, ...] = ()


class TrainedBase(Record):
    """What training a base gives.

    Attributes:
        base: the network.
        score: on pristine frames.
        registered: its version.
        output: file it was written to, if asked for.
    """

    base: Base
    score: Score
    registered: Registered
    output: str | None
