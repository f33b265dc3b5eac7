import pytest
from PIL import Image

from gearnn.distortions import Received, Sensed, distance, encode
from gearnn.errors import GearError, LevelError, SenseError, SeveralDistortionsError
from gearnn.gears.choice import Choice, Policy, Steady, check_hint, choose
from gearnn.levels import DistortionLevel

LEVEL = DistortionLevel.parse
GEARS = [LEVEL(text) for text in ("jpeg:quality=10", "jpeg:quality=30", "resolution:scale=0.5")]


def sensed(text: str, misfit: float = 0.25) -> Sensed:
    return Sensed(LEVEL(text), misfit)


def test_a_supported_level_gets_its_own_gear_and_others_the_nearest() -> None:
    own = choose(sensed("jpeg:quality=10"), GEARS, Policy())
    assert own == Choice(sensed=LEVEL("jpeg:quality=10"), used=LEVEL("jpeg:quality=10"), misfit=0.25)
    near = choose(sensed("jpeg:quality=23"), GEARS, Policy())
    assert (str(near.used), near.distance, near.off_map) == ("jpeg:quality=30", 7.0, "")
    octaves = choose(sensed("resolution:scale=0.25"), GEARS, Policy())
    assert (str(octaves.used), octaves.distance) == ("resolution:scale=0.5", 1.0)
    assert choose(sensed("pristine"), GEARS, Policy()).used.is_pristine


@pytest.mark.parametrize(("off_map", "used"), [("nearest", "jpeg:quality=30"), ("base", "pristine"), ("error", None)])
def test_a_distance_too_large(off_map: str, used: str | None) -> None:
    policy = Policy(off_map=off_map, max_distance={"jpeg": 5})  # type: ignore[arg-type]
    if used is None:
        with pytest.raises(GearError, match=r"jpeg:quality=40 is 10 away from jpeg:quality=30.*expected at most 5"):
            choose(sensed("jpeg:quality=40"), GEARS, policy)
        return
    choice = choose(sensed("jpeg:quality=40"), GEARS, policy)
    assert (str(choice.used), choice.distance) == (used, 10.0 if off_map == "nearest" else 60.0)
    assert choice.off_map == "10 away from jpeg:quality=30, more than 5"
    assert choose(sensed("jpeg:quality=35"), GEARS, policy).off_map == ""


def test_a_kind_without_adaptors() -> None:
    for policy in (Policy(), Policy(off_map="error")):
        with pytest.raises(GearError, match="no adaptor for the distortion brightness"):
            choose(sensed("brightness:factor=0.3"), GEARS, policy)
    choice = choose(sensed("brightness:factor=0.3"), GEARS, Policy(off_map="base"))
    assert (str(choice.used), choice.off_map) == ("pristine", "no adaptor for brightness")


def test_a_level_that_cannot_be_told() -> None:
    reason = SenseError("cannot be sensed")
    for policy in (Policy(), Policy(off_map="error")):
        with pytest.raises(SenseError, match="cannot be sensed"):
            choose(reason, GEARS, policy)
    choice = choose(reason, GEARS, Policy(off_map="base"))
    assert (choice.sensed, str(choice.used), choice.off_map) == (None, "pristine", "the level cannot be sensed")


def test_several_distortions_get_the_gear_of_the_strongest() -> None:
    several = SeveralDistortionsError("both", [sensed("jpeg:quality=35"), sensed("resolution:scale=0.5")])
    choice = choose(several, GEARS, Policy())  # 65 of 99 qualities against 1 of 4.3 octaves
    assert (str(choice.used), choice.off_map) == ("jpeg:quality=30", "several distortions")
    with pytest.raises(SeveralDistortionsError):
        choose(several, GEARS, Policy(off_map="error"))
    assert choose(several, GEARS, Policy(off_map="base")).used.is_pristine


def test_a_frame_unlike_every_level_is_off_the_map_and_says_so() -> None:
    far = Sensed(LEVEL("jpeg:quality=12"), 1.5)
    assert choose(Sensed(far.level, 1.0), GEARS, Policy()).off_map == ""
    reason = "unlike every level of jpeg: a misfit of 1.5, more than 1"
    choice = choose(far, GEARS, Policy())
    assert (str(choice.used), choice.misfit, choice.off_map) == ("jpeg:quality=10", 1.5, reason)
    base = choose(far, GEARS, Policy(off_map="base"))
    assert (str(base.used), base.distance, base.off_map) == ("pristine", 88.0, reason)
    with pytest.raises(SenseError, match=f"sensed jpeg:quality=12, but the frame is {reason}; give the level instead"):
        choose(far, GEARS, Policy(off_map="error"))


def test_a_policy_sets_the_misfit_that_it_bears() -> None:
    far = Sensed(LEVEL("jpeg:quality=12"), 1.5)
    assert choose(far, GEARS, Policy(max_misfit={"jpeg": 2})).off_map == ""
    assert choose(far, GEARS, Policy(max_misfit={"jpeg": float("inf")})).off_map == ""
    assert choose(Sensed(far.level, 0.3), GEARS, Policy(max_misfit={"jpeg": 0.2})).off_map != ""
    assert choose(Sensed(far.level, 0.1 + 0.2), GEARS, Policy(max_misfit={"jpeg": 0.3})).off_map == ""


def test_each_part_of_a_combination_has_its_own_misfit() -> None:
    """Units differ: 4 is usual for brightness, and tables that far from any quality are none of libjpeg's."""
    level = LEVEL("brightness:factor=0.3+jpeg:quality=12")
    gears = [LEVEL("brightness:factor=0.3+jpeg:quality=10")]
    assert choose(Sensed(level, 4.5, misfits={"brightness": 4.0, "jpeg": 0.5}), gears, Policy()).off_map == ""
    odd = choose(Sensed(level, 4.5, misfits={"brightness": 0.5, "jpeg": 4.0}), gears, Policy())
    assert odd.off_map == "unlike every level of jpeg: a misfit of 4, more than 1"
    assert choose(Sensed(level, 4.5), gears, Policy()).off_map != ""  # who does not say whose misfit it is, is not sure


def test_kinds_that_looked_and_found_nothing_have_a_say() -> None:
    choice = choose(Sensed(LEVEL("jpeg:quality=10"), 0.0, misfits={"jpeg": 0.0, "brightness": 64.0}), GEARS, Policy())
    assert (str(choice.used), choice.misfit) == ("jpeg:quality=10", 0.0)
    assert choice.off_map == "unlike every level of brightness: a misfit of 64, more than 5.5"


def test_limits_hold_up_to_rounding() -> None:
    """0.1 is log2(3) from 0.3, as 0.2 is from 0.6, but not to the last digit."""
    limit = 1.584962500721156  # log2(3)
    for level, gear in (("0.3", "0.1"), ("0.6", "0.2"), ("0.15", "0.05"), ("0.9", "0.3")):
        policy = Policy(off_map="error", max_distance={"brightness": limit})
        if level != "0.9":  # to which pristine is nearer
            choice = choose(sensed(f"brightness:factor={level}", 0.0), [LEVEL(f"brightness:factor={gear}")], policy)
            assert choice.off_map == ""


def test_policies_are_checked() -> None:
    with pytest.raises(LevelError, match="max_misfit of brightness: expected a number of at least 0, but got nan"):
        Policy(max_misfit={"brightness": float("nan")})
    with pytest.raises(LevelError, match="unknown distortion 'brightnes', did you mean brightness"):
        Policy(max_misfit={"brightnes": 3})
    with pytest.raises(GearError, match="off_map: expected error, base, nearest, but got 'guess'"):
        Policy(off_map="guess")  # type: ignore[arg-type]
    with pytest.raises(LevelError, match=r"unknown distortion 'jpg'.*did you mean jpeg"):
        Policy(max_distance={"jpg": 1})
    with pytest.raises(LevelError, match="max_distance of jpeg: expected a number of at least 0, but got -1"):
        Policy(max_distance={"jpeg": -1})


def used(steady: Steady, *levels: str) -> list[str]:
    return [str(steady(choose(sensed(level, 0.0), GEARS, Policy())).used) for level in levels]


def q(*qualities: int) -> list[str]:
    return [f"jpeg:quality={quality}" for quality in qualities]


def test_jitter_between_two_gears_does_not_shift() -> None:
    assert used(Steady(), *q(18, 22, 19, 21, 22, 18)) == q(*[10] * 6)


def test_a_gear_that_is_twice_as_near_shifts_at_once() -> None:
    assert used(Steady(), *q(10, 24, 10, 30)) == q(10, 30, 10, 30)
    assert used(Steady(margin=0.0), *q(18, 22, 18)) == q(10, 30, 10)


def test_exactly_at_the_margin_the_stronger_distortion_runs() -> None:
    """Between gears 10 and 40, a quality of 20 or 30 is exactly twice as near to one as to the other."""
    gears = [LEVEL(text) for text in ("jpeg:quality=10", "jpeg:quality=40")]

    def ran(*levels: int) -> list[str]:
        steady = Steady()
        return [str(steady(choose(sensed(level), gears, Policy())).used) for level in q(*levels)]

    assert ran(40, 20) == q(40, 10)
    assert ran(10, 30) == q(10, 10)
    assert ran(10, 31) == q(10, 40)


def test_ties_of_logarithms_do_not_shift_a_stream_to_the_weaker_gear() -> None:
    """0.3 is exactly as far from 0.9 as from 0.1."""
    gears = [LEVEL(f"brightness:factor={factor}") for factor in ("0.1", "0.9")]
    steady = Steady(margin=0.0)
    got = [
        str(steady(choose(sensed(f"brightness:factor={f}", 0), gears, Policy())).used) for f in ("0.1", "0.3", "0.3")
    ]
    assert got == ["brightness:factor=0.1"] * 3


def test_patience_shifts_when_all_ask_for_it() -> None:
    assert used(Steady(patience=3), *q(18, 22, 22, 22, 22)) == q(10, 10, 10, 30, 30)
    assert used(Steady(patience=3), *q(18, 22, 22, 18, 22, 22)) == q(*[10] * 6)


def test_another_kind_shifts_at_once_and_the_distance_told_is_that_of_the_gear_that_runs() -> None:
    assert used(Steady(), "jpeg:quality=10", "resolution:scale=0.5") == ["jpeg:quality=10", "resolution:scale=0.5"]
    steady = Steady()
    steady(choose(sensed("jpeg:quality=10"), GEARS, Policy()))
    held = steady(choose(sensed("jpeg:quality=21"), GEARS, Policy()))
    assert (str(held.used), held.distance) == ("jpeg:quality=10", 11.0)


def test_a_gear_that_the_policy_does_not_allow_is_not_held() -> None:
    steady, policy = Steady(), Policy(off_map="error", max_distance={"jpeg": 9})
    shifted = [str(steady(choose(sensed(level), GEARS, policy)).used) for level in q(10, 19, 21)]
    assert shifted == q(10, 10, 30)


def test_frames_that_run_the_base_for_want_of_a_gear_are_not_held_up() -> None:
    steady, policy = Steady(), Policy(off_map="base")
    assert str(steady(choose(sensed("jpeg:quality=10"), GEARS, policy)).used) == "jpeg:quality=10"
    assert str(steady(choose(sensed("brightness:factor=0.3"), GEARS, policy)).used) == "pristine"
    assert str(steady(choose(sensed("jpeg:quality=10"), GEARS, policy)).used) == "jpeg:quality=10"


@pytest.mark.parametrize("unsure", ["jpeg:quality=30", "jpeg:quality=100", "resolution:scale=0.5"])
def test_a_frame_unlike_every_level_never_shifts(unsure: str) -> None:
    steady = Steady(patience=2)
    first = steady(choose(sensed(unsure, 99), GEARS, Policy()))
    assert first.used == choose(sensed(unsure), GEARS, Policy()).used  # with nothing to hold, the nearest
    assert str(steady(choose(sensed("jpeg:quality=21"), GEARS, Policy())).used) == "jpeg:quality=30"  # nothing was held
    assert str(steady(choose(sensed("jpeg:quality=10"), GEARS, Policy())).used) == "jpeg:quality=10"
    for _ in range(3):  # more than the patience
        held = steady(choose(sensed(unsure, 99), GEARS, Policy()))
        assert (str(held.sensed), str(held.used), held.is_sure) == (unsure, "jpeg:quality=10", False)
        assert held.distance == distance(LEVEL(unsure), LEVEL("jpeg:quality=10"))
        assert held.off_map.startswith("unlike every level of ")


def test_unsure_frames_do_not_count_for_the_patience() -> None:
    steady = Steady(patience=2)
    frames = [("10", 0.0), ("21", 0.0), ("21", 99.0), ("21", 0.0)]
    got = [str(steady(choose(sensed(f"jpeg:quality={v}", m), GEARS, Policy())).used) for v, m in frames]
    assert got == q(10, 10, 10, 30)


def test_a_policy_that_runs_the_base_for_unsure_frames_runs_it_and_the_gear_before_stays() -> None:
    steady, policy = Steady(), Policy(off_map="base")
    assert str(steady(choose(sensed("jpeg:quality=10"), GEARS, policy)).used) == "jpeg:quality=10"
    for unsure in (sensed("jpeg:quality=10", 99), SenseError("nothing is known")):
        assert str(steady(choose(unsure, GEARS, policy)).used) == "pristine"
    assert str(steady(choose(sensed("jpeg:quality=21"), GEARS, policy)).used) == "jpeg:quality=10"


def test_hysteresis_is_checked() -> None:
    with pytest.raises(GearError, match="a patience of at least 1"):
        Steady(patience=0)


@pytest.mark.parametrize("hint", ["jpeg:quality=10", "jpeg:quality=1", "resolution:scale=0.5", "brightness:factor=0.3"])
def test_hints_that_mean_the_same_gear_or_another_kind_contradict_nobody(photo: Image.Image, hint: str) -> None:
    check_hint(LEVEL(hint), Received(encode(photo, "jpeg:quality=12")), GEARS)


@pytest.mark.parametrize(
    "hint", ["jpeg:quality=30", "pristine", "jpeg:quality=100", "resolution:scale=0.5+jpeg:quality=90"]
)
def test_a_hint_that_contradicts_the_bytes_is_refused(photo: Image.Image, hint: str) -> None:
    gears = [*GEARS, LEVEL("resolution:scale=0.5+jpeg:quality=10")]
    with pytest.raises(SenseError, match=r"expected a frame of .*, as the hint says, but its bytes say .*quality=12; "):
        check_hint(LEVEL(hint), Received(encode(photo, "jpeg:quality=12")), gears)


def test_a_hint_of_the_first_save_contradicts_nobody(photo: Image.Image) -> None:
    twice = Received(encode(photo, "jpeg:quality=10+jpeg:quality=90"))
    check_hint(LEVEL("jpeg:quality=10"), twice, GEARS)
    check_hint(LEVEL("jpeg:quality=90"), twice, GEARS)
    with pytest.raises(SenseError, match=r"expected a frame of jpeg:quality=30.*bytes say jpeg:quality=90"):
        check_hint(LEVEL("jpeg:quality=30"), twice, GEARS)
