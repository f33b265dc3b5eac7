import pytest

from gearnn.errors import LevelError
from gearnn.levels import DistortionLevel


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
        ("blur:sigma=1", "unknown distortion 'blur'; expected one of brightness, jpeg"),
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
