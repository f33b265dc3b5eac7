"""Every error that GearNN raises on purpose.

::

    GearNNError
    ├── InputError            what the user handed over is wrong (exit status 2)
    │   ├── PlanError         a plan: unknown key, wrong type, impossible value, a network that does not fit
    │   ├── LevelError        a distortion level: unknown kind, value out of range
    │   ├── DataError         a dataset: missing folder, missing label, unreadable frame
    │   ├── CodecError        a codec that a level needs: missing, or it refuses the frames
    │   ├── CheckpointError   weights: another architecture, a pickle, a wrong shape
    │   ├── BoundError        a bound that no layer fits into
    │   ├── SenseError        the distortion level of these bytes cannot be sensed, or contradicts a hint
    │   │   └── SeveralDistortionsError  they show several distortions, which no adaptor combines
    │   ├── OutputError       a result that would take the place of an input, or of a file that GearNN did not write
    │   └── StreamError       a source of frames: no such file, no manifest, an address that does not answer
    ├── AdaptorError          an adaptor file: another base, missing or wrong tensors
    ├── GearError             a level that this gearbox has no gear for
    ├── LevelsFailedError     a run in which some levels failed; the others are registered
    ├── StoppedError          somebody asked the run to stop
    ├── DivergedError         a fine-tune whose loss, weights or optimiser stopped being finite
    ├── SolverError           the knapsack solver did not prove its answer optimal
    ├── StoreError            stored bytes are missing or do not match their digest
    ├── ServerError           Prefect's or MLflow's server: no answer, a wrong password, too old
    └── RegistryError         a registered model is missing, contradicts its tags, or names code that is not trusted

A message says what was expected, which file, key or layer it concerns, what came, and what to do
next where that is known, in one line.
"""

from collections.abc import Sequence
from typing import Any


class GearNNError(Exception):
    """Base of every error that GearNN raises on purpose; exit status 1 unless a subclass says otherwise."""

    exit_status = 1


class InputError(GearNNError):
    """What the user handed over cannot be used; nothing was started."""

    exit_status = 2


class PlanError(InputError):
    """A plan has an unknown key, a wrong type or an impossible value."""


class LevelError(InputError, ValueError):
    """A distortion level is not written as ``kind:name=value`` or lies out of its kind's range."""


class DataError(InputError):
    """A dataset is missing, incomplete or unreadable."""


class CodecError(InputError):
    """A codec that a distortion level needs is not installed, or refuses the frames."""


class CheckpointError(InputError):
    """A checkpoint does not fit the network it was meant for."""


class BoundError(InputError, ValueError):
    """No layer fits into the memory bound of an adaptor."""


class SenseError(InputError, ValueError):
    """The distortion level of an input cannot be sensed from its bytes."""


class OutputError(InputError):
    """A result would take the place of an input, or of a file that GearNN did not write."""


class StreamError(InputError):
    """A stream cannot be opened, or one of its segments cannot be fetched."""


class SeveralDistortionsError(SenseError):
    """An input shows several distortions, and no supported level combines them.

    Attributes:
        answers: what each kind sensed, :class:`gearnn.distortions.Sensed` each.
    """

    def __init__(self, message: str, answers: Sequence[Any]) -> None:
        super().__init__(message)
        self.answers = tuple(answers)


class AdaptorError(GearNNError):
    """An adaptor does not belong to this base, or its file is damaged."""


class GearError(GearNNError, KeyError):
    """A gearbox has no gear for a level, or was built with two for one level."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LevelsFailedError(GearNNError):
    """Some levels of a run failed; what the others gave is stored and registered.

    Attributes:
        registered: records of the versions of those others.
    """

    def __init__(self, message: str, registered: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.registered = tuple(registered)


class StoppedError(GearNNError):
    """Somebody asked the run to stop; what was finished is stored."""


class DivergedError(GearNNError):
    """The loss, a weight, a statistic or the optimiser's state of a fine-tune became NaN or infinite."""


class SolverError(GearNNError):
    """The knapsack solver did not prove that its answer is optimal."""


class StoreError(GearNNError):
    """Stored bytes are missing or do not match their digest."""


class ServerError(GearNNError):
    """A server does not answer, does not let us in, or is too old."""


class RegistryError(GearNNError):
    """A registered model, version or alias is missing, or contradicts its tags."""
