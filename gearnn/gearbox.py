"""The online part (section 3.3): one base in memory, every level's adaptor beside it.

How the gears are held is in :mod:`gearnn.gears`, which gear a frame gets in :mod:`gearnn.gears.choice`, and
how frames run in :mod:`gearnn.gears.inference`; this is where they meet.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor, inference_mode, nn

from gearnn.adaptor import Adaptor
from gearnn.datasets.frames import Sample
from gearnn.distortions import Received, Sensed, Sensor, nearest
from gearnn.errors import DataError, GearError, GearNNError
from gearnn.evaluation.memory import Held, held_by
from gearnn.gears.checking import check, check_values, first_taken, why_not_apart
from gearnn.gears.choice import Policy, Steady
from gearnn.gears.examples import Example, examples
from gearnn.gears.holding import Gears, Hold
from gearnn.gears.in_place import InPlace
from gearnn.gears.inference import Engine, Frame, Hint, Inference, hints_for
from gearnn.gears.views import Views
from gearnn.layers import fingerprint
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.problems.problem import Problem

__all__ = ["GearBox", "Inference"]


class GearBox:
    """One base and its adaptors; keeps no state between calls.

    Args:
        base: the pre-trained network; put into evaluation mode. It runs at pristine levels itself.
        adaptors: at most one a level, all of this base.
        problem: batching and prediction, needed for frames rather than tensors.
        hold: ``views``, a network a level, for threads at different levels; ``in_place``, one network
            whose tensors keep their addresses, for exported programs and CUDA graphs.
        compute: device and precision of :meth:`infer`; None takes the base's device in float32.
        batch_size: most frames of one forward pass of :meth:`infer`.
        base_disk: bytes of the base's file, for :meth:`memory`.
        example: a batch of two frames as the network takes it, or a tuple of arguments, with which gears are
            checked once, on copies; None takes noise, as the problem gives it to the network or as its layers
            suggest. Where no such batch is found, that is logged, and the first one that runs is taken.

    Raises:
        AdaptorError: an adaptor belongs to another base.
        GearError: two adaptors are for one level; or a gear would not answer as a deep copy of the base with
            the adaptor's tensors does, for example because a module keeps weights between calls.
    """

    def __init__(
        self,
        base: nn.Module,
        adaptors: Iterable[Adaptor],
        problem: Problem | None = None,
        *,
        hold: Hold = "views",
        compute: Compute | None = None,
        batch_size: int = 8,
        base_disk: int | None = None,
        example: Any = None,
    ) -> None:
        self.base = base.eval()
        self.problem = problem
        self.compute = compute or Compute(device=next(base.parameters()).device, bf16=False)
        self.batch_size = batch_size
        by_level = _by_level(adaptors)
        base_fingerprint = fingerprint(base)
        for adaptor in by_level.values():
            adaptor.check(base, base_fingerprint)
        self._make = partial(_made, hold, base_fingerprint)
        self._unchecked = by_level  # adaptors whose gears no batch was found to check with
        self._alone = ""  # why frames of a batch influence each other; nothing where they do not
        self.gears: Gears = self._make(self.base, by_level, ())
        self._check_at_first(example)
        self._levels = tuple(by_level)
        self._keys: dict[DistortionLevel | str, DistortionLevel] = {level: level for level in by_level}
        self._keys |= {str(level): level for level in by_level}
        self._values = {level: adaptor.num_values for level, adaptor in by_level.items()}
        self._disk = {None: base_disk} | {level: len(adaptor.to_bytes()) for level, adaptor in by_level.items()}
        self.sensor = Sensor(by_level, [c for adaptor in by_level.values() for c in adaptor.calibration])

    @classmethod
    def from_registry(
        cls,
        base: str,
        distortion: str | None = None,
        alias: str = "champion",
        problem: Problem | None = None,
        trust: Collection[str] = (),
        hold: Hold = "views",
        compute: Compute | None = None,
    ) -> "GearBox":
        """Load a base and its adaptors from the MLflow model registry.

        Args:
            base: name of the registered base.
            distortion: kind, such as ``jpeg``; None takes adaptors of every kind.
            alias: which version of each adaptor.
            problem: batching and prediction; None takes what was registered with the base.
            trust: packages that a base of a user's own module may import, besides those in the
                environment's ``GEARNN_TRUST``.
            hold: see the class.
            compute: device and precision; None takes the CPU in float32.

        Raises:
            RegistryError: no such base, no adaptor of this kind, one without that alias, or a base that
                names code that is not trusted.
            AdaptorError: a version's bytes do not belong to the base.
        """
        from gearnn import registry

        loaded = registry.load_gearbox(base, distortion, alias, trust)
        return cls(
            loaded.base if compute is None else compute.place(loaded.base),  # before its gears are made
            loaded.adaptors,
            problem or loaded.problem,
            hold=hold,
            compute=compute,
            base_disk=loaded.base_disk,
        )

    def _check(self, tried: Iterable[Example], *, is_first: bool) -> Exception | None:
        """Check the gears with the first batch that the network takes; what it said to the last where there is none.

        Args:
            tried: the batches.
            is_first: whether nobody has the gears yet.

        Raises:
            GearError: see the class.
        """
        found = first_taken(self.base, tried)
        if isinstance(found, Exception):
            return found
        check(self._make, self.base, self._unchecked, found)
        if found.moving and is_first:  # every level needs its own of these
            self.gears = self._make(self.base, self._unchecked, found.moving)
        elif found.moving:
            raise GearError(
                f"a forward pass changes {found.moving[0]}; GearBox(..., example=batch) gives levels their own"
            )
        check_values(self.gears, self.base, self._unchecked, found.moving)
        self._alone = why_not_apart(self.base, found)
        self.gears.refuse_mixed(self._alone)
        self._unchecked = {}
        return None

    def _check_at_first(self, example: Any) -> None:
        """Check with a batch that is given, else with one that is found."""
        if not self._unchecked:
            return
        arguments = example if isinstance(example, tuple) else (example,)
        given = [Example(arguments=arguments)] if example is not None else None
        failed = self._check(given or examples(self.base, self.problem, self.compute), is_first=True)
        if failed is None:
            return
        reason = f"{type(failed).__name__}: {' '.join(str(failed).split())[:200]}"
        if given:
            raise GearError(f"example: expected a batch that the network takes, but it says {reason}") from failed
        logging.getLogger("gearnn").warning(
            "no batch was found that the network takes, so its gears are checked with the first one that runs; "
            "GearBox(..., example=batch) checks at once (the last one that was tried: %s)",
            reason,
        )

    def _check_once(self, batch: Any) -> None:
        """Check the gears with the first batch that runs, where none was found before."""
        if self._unchecked:
            self._check([Example(arguments=(batch,))], is_first=False)

    @property
    def levels(self) -> tuple[DistortionLevel, ...]:
        """Levels that have an adaptor."""
        return self._levels

    @property
    def most_frames(self) -> int:
        """Most frames of one forward pass of :meth:`infer`: one where frames of a batch influence each other."""
        return 1 if self._alone else self.batch_size

    @property
    def known_problem(self) -> Problem:
        """The problem.

        Raises:
            DataError: this gearbox was built without one.
        """
        if self.problem is None:
            raise DataError("expected a gearbox with a problem, because frames must be decoded and normalised")
        return self.problem

    @property
    def engine(self) -> Engine:
        """What senses, chooses and predicts with these gears, as they are now.

        Raises:
            DataError: this gearbox was built without a problem.
        """
        return Engine(
            sensor=self.sensor,
            levels=self._levels,
            network_for=self.mixed,
            problem=self.known_problem,
            compute=self.compute,
            most_frames=self.most_frames,
        )

    def model(self, level: DistortionLevel | str) -> nn.Module:
        """The network of one level; at a pristine level the base itself. Views only.

        Raises:
            GearError: this gearbox has no adaptor for the level, or holds its gears in place.
        """
        if not isinstance(self.gears, Views):
            raise GearError("gears in place are one network: `with gearbox.at(level) as network` lends it at a level")
        key = self._keys.get(level)
        return self.gears.network(key if key is not None else self._gear(level))

    def at(self, level: DistortionLevel | str) -> AbstractContextManager[nn.Module]:
        """The network of one level while a context is open; gears in place are locked meanwhile.

        Raises:
            GearError: this gearbox has no adaptor for the level.
        """
        return self.gears.at(self._gear(level))

    def shift(self, level: DistortionLevel | str) -> None:
        """Bring the one network of gears in place, ``gears.network``, to a level: all of its tensors or none.

        Raises:
            GearError: no adaptor for the level; a copy failed, and the network is where it was; or
                these gears are views, where nothing has to be shifted.
        """
        if not isinstance(self.gears, InPlace):
            raise GearError("views are not shifted: model(level) is the network of a level")
        self.gears.shift(self._gear(level))

    def mixed(self, levels: Sequence[DistortionLevel | str]) -> nn.Module:
        """A network for a batch whose frames have these levels; frame i gets what ``model(levels[i])`` would give.

        Raises:
            GearError: no adaptor for a level; or outputs of this network cannot be taken apart by frame.
        """
        gears = [self._gear(level) for level in levels]
        return _CheckedFirst(self, gears) if self._unchecked else self.gears.mixed(gears)

    def nearest(self, level: DistortionLevel | str) -> DistortionLevel:
        """The supported level next to this one, the base's pristine level included; ties go to the stronger distortion.

        Raises:
            GearError: there is no adaptor of this kind.
        """
        return nearest(DistortionLevel.parse(level), self._levels)

    def sense(self, data: bytes) -> Sensed:
        """The level of an encoded frame, among the kinds that this gearbox has adaptors for.

        Raises:
            SenseError: it cannot be sensed.
        """
        return self.sensor(Received(data))

    @inference_mode()
    def __call__(self, x: Tensor, level: DistortionLevel | str) -> Any:
        """One forward pass with the network of a level; x as the network takes it."""
        self._check_once(x)
        with self.gears.at(self._gear(level)) as network:
            return network(x)

    def infer(
        self,
        frames: Sequence[Frame],
        *,
        level: Hint | Sequence[Hint] = None,
        trust_level: bool = False,
        policy: Policy | None = None,
        steady: Steady | None = None,
    ) -> list[Inference]:
        """Sense the level of every frame, and run each with the gear that fits, frames of one size together.

        Args:
            frames: encoded images or clips, such as the contents of JPEG files; or decoded frames,
                which need a level unless it is seen in the pixels.
            level: the level where the bytes do not say it: one for all frames, or one a frame.
            trust_level: take the given level even where the bytes say another.
            policy: what happens to frames off the map of this gearbox.
            steady: the hysteresis of the stream that the frames belong to.

        Returns:
            One answer a frame, in order.

        Raises:
            SenseError: a frame's level cannot be sensed and was not given, or contradicts what was given.
            DataError: the bytes are no image, or a frame of a size that the network cannot take; or
                this gearbox was built without a problem.
            GearError: there is no adaptor of the sensed kind, or the policy refuses the distance.
        """
        answers = self.answers(frames, level=level, trust_level=trust_level, policy=policy, steady=steady)
        for answer in answers:
            if isinstance(answer, GearNNError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Inference)]

    def answers(
        self,
        frames: Sequence[Frame],
        *,
        level: Hint | Sequence[Hint] = None,
        trust_level: bool = False,
        policy: Policy | None = None,
        steady: Steady | None = None,
    ) -> list[Inference | GearNNError]:
        """As :meth:`infer`, but a frame that cannot be used leaves its error in its place and the others run."""
        engine, hints = self.engine, hints_for(frames, level)
        return engine.answers(frames, hints, trust_hint=trust_level, policy=policy or Policy(), steady=steady)

    def predict(self, samples: Sequence[Sample], levels: Sequence[DistortionLevel]) -> list[Any]:
        """Predictions of decoded frames at levels that are known; see :meth:`gearnn.gears.inference.Engine.predict`."""
        return self.engine.predict(samples, levels)

    def compile(self, **options: Any) -> None:
        """Compile the networks by ``torch.compile`` at their next call: views share one compiled program.

        Args:
            options: of ``torch.compile``, such as ``mode``.
        """
        for network in self.gears.networks():
            network.compile(**options)

    def memory(self) -> list[Held]:
        """What is kept: the base, then every level's adaptor; values, bytes resident and bytes on disk."""
        own: Mapping[DistortionLevel, Sequence[Tensor]] = {lv: self.gears.own_tensors(lv) for lv in self._levels}
        return held_by(self.base, own, self._values, self._disk, self._kept())

    def _kept(self) -> list[Tensor]:
        """Every tensor of the networks, and those kept beside them for all levels."""
        networks = [*self.gears.networks(), self.base]
        of_networks = [t for network in networks for t in (*network.parameters(), *network.buffers())]
        return [*of_networks, *self.gears.shared_tensors()]

    def _gear(self, level: DistortionLevel | str) -> DistortionLevel | None:
        """The level as the gears know it; None for the base.

        Raises:
            GearError: no adaptor for it.
        """
        if level in self._keys:
            return self._keys[level]
        level = DistortionLevel.parse(level)
        if level in self._keys:
            return level
        if level.is_pristine:
            return None
        have = ", ".join(map(str, self._levels)) or "none"
        raise GearError(f"no adaptor for {level}; this gearbox has {have}; nearest(level) finds the one to use")


class _CheckedFirst(nn.Module):
    """A network for a mixed batch, of gears that no batch was found to check with before."""

    def __init__(self, gearbox: GearBox, levels: Sequence[DistortionLevel | None]) -> None:
        super().__init__()
        self._gearbox, self._levels = gearbox, levels

    def forward(self, batch: Any) -> Any:
        self._gearbox._check_once(batch)
        return self._gearbox.gears.mixed(self._levels)(batch)


def _by_level(adaptors: Iterable[Adaptor]) -> dict[DistortionLevel, Adaptor]:
    found: dict[DistortionLevel, Adaptor] = {}
    for adaptor in adaptors:
        if adaptor.level in found:
            raise GearError(f"expected one adaptor for {adaptor.level}, but got two")
        found[adaptor.level] = adaptor
    return found


def _made(
    hold: Hold,
    base_fingerprint: str,
    base: nn.Module,
    adaptors: Mapping[DistortionLevel, Adaptor],
    moving: Sequence[str],
) -> Gears:
    if hold == "views":
        return Views(base, adaptors, base_fingerprint, moving)
    if hold != "in_place":
        raise GearError(f"hold: expected views or in_place, but got {hold!r}")
    if moving:
        raise GearError(
            f"gears in place: expected a network whose forward pass changes none of its tensors, but it changes "
            f"{moving[0]}; hold='views' gives every level its own"
        )
    return InPlace(base, adaptors)
