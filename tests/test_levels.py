import pytest

from gearnn.errors import LevelError
from gearnn.levels import LEVEL_SETS, DistortionLevel, expand_levels


@pytest.mark.parametrize("text", ["jpeg:quality=10", "brightness:factor=0.3", "brightness:factor=0.3+jpeg:quality=30"])
def test_a_level_is_written_as_it_was_read(text: str) -> None:
    assert str(DistortionLevel.parse(text)) == text


def test_writing_is_canonical() -> None:
    assert str(DistortionLevel.parse(" brightness:factor=2.0 ")) == "brightness:factor=2"
    assert DistortionLevel.parse("brightness:factor=2.0") == DistortionLevel.parse("brightness:factor=2")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("jpeg:quality=10", "jpeg-quality-10"),
        ("brightness:factor=0.3", "brightness-factor-0p3"),
        ("brightness:factor=0.3+jpeg:quality=30", "brightness-factor-0p3-jpeg-quality-30"),
        ("pristine", "pristine"),
    ],
)
def test_a_slug_names_a_level_where_few_characters_are_allowed(text: str, slug: str) -> None:
    assert DistortionLevel.parse(text).slug == slug


@pytest.mark.parametrize(
    "text", ["pristine", "jpeg:quality=100", "brightness:factor=1", "jpeg:quality=100+brightness:factor=1"]
)
def test_the_base_runs_at_pristine_levels(text: str) -> None:
    assert DistortionLevel.parse(text).is_pristine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fog:density=1", "unknown distortion 'fog'; expected one of brightness, h264, jpeg, resolution"),
        ("jpeg:quality=0", "expected quality to be an integer from 1 to 100, but got 0"),
        ("jpeg:quality=101", "expected quality to be an integer from 1 to 100, but got 101"),
        ("jpeg:quality=3.5", "expected quality to be an integer from 1 to 100, but got '3.5'"),
        ("jpeg:q=3", "jpeg has no parameter 'q'; it takes quality"),
        ("jpeg", "expected a value for quality, such as 'jpeg:quality=1'"),
        ("jpeg:10", "expected 'kind:name=value', such as 'jpeg:quality=1', but got 'jpeg:10'"),
        ("brightness:factor=nan", "expected factor to be a number from 0.05 to 4.0, but got nan"),
        ("", "unknown distortion ''"),
    ],
)
def test_a_wrong_level_is_named_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(LevelError) as caught:
        DistortionLevel.parse(text)
    assert message in str(caught.value)


def test_the_papers_level_sets_are_whole() -> None:
    sizes = {name: len(expand_levels(name)) for name in LEVEL_SETS}
    # Section 4.3: seven resolutions, one of them the original; CRF 15 to 24; Q 10 to 100; 0.1 to 2.0.
    assert sizes == {"paper/resolution": 6, "paper/h264": 10, "paper/jpeg": 10, "paper/brightness": 20}
    adapted = {name: sum(not level.is_pristine for level in expand_levels(name)) for name in LEVEL_SETS}
    assert adapted == {"paper/resolution": 6, "paper/h264": 10, "paper/jpeg": 9, "paper/brightness": 19}


def test_braces_make_products_and_ranges() -> None:
    found = expand_levels(["brightness:factor={0.3,0.5}+jpeg:quality={10..30..10}", "pristine"])
    assert [str(level) for level in found] == [
        *(f"brightness:factor={f}+jpeg:quality={q}" for f in (0.3, 0.5) for q in (10, 20, 30)),
        "pristine",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paper/fog", "unknown level set 'paper/fog'; expected one of paper/resolution, paper/h264"),
        ("jpeg:quality={1..2000}", "expected at most 1000 levels, but it names more"),
        ("jpeg:quality={10..90..0}", "expected a range {first..last..step} with a step, but got a step of 0"),
        ("jpeg:quality={10..90", "expected braces of several items, {a,b}, or a range of integers"),
        ("brightness:factor={0.1..0.5..0.1}", "expected braces of several items"),
        ("jpeg:quality={10}", "expected braces of several items"),
        ("jpg:quality=10", "unknown distortion 'jpg', did you mean jpeg; expected one of"),
        ("jpeg:quality={10,400}", "expected quality to be an integer from 1 to 100, but got 400"),
    ],
)
def test_wrong_sets_are_told(text: str, message: str) -> None:
    with pytest.raises(LevelError) as caught:
        expand_levels(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["jpeg:quality={10,20}", "paper/jpeg"])
def test_several_levels_where_one_is_expected_are_told(text: str) -> None:
    with pytest.raises(LevelError, match="expected one level, but this names several"):
        DistortionLevel.parse(text)


def test_different_values_are_never_written_alike() -> None:
    one, other = (DistortionLevel.parse(f"brightness:factor={factor}") for factor in ("0.1234561", "0.1234563"))
    assert str(one) != str(other)
    assert DistortionLevel.parse(str(one)) == one
