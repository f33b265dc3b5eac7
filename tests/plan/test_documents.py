import pytest
import yaml

from gearnn.errors import PlanError
from gearnn.plan.documents import read_yaml

MERGED = """
base: &base {name: drn, kwargs: {depth: 22}}
other: &other
  <<: *base
  name: drn_quarter
third: {<<: [*other, {more: 1}], kwargs: *other}
fourth: [*other, *base]
1: one
"1": text
"""


def test_what_is_no_error_is_read_as_yaml_reads_it() -> None:
    for text in (MERGED, "", "[1, 2]", "a: 2024-01-01", '{"a": {"b": [1, 2.5, null, "x"]}}'):
        assert read_yaml(text, source="a") == yaml.safe_load(text)
    assert read_yaml(MERGED, source="a")["other"] == {"name": "drn_quarter", "kwargs": {"depth": 22}}


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("seed: 1\nlevels: a\nseed: 2", "seed", (1, 3)),
        ("a:\n  b:\n    - c: 1\n      d: 2\n      c: 3", "a.b.0.c", (3, 5)),
        ('{"a": 1,\n "a": 1}', "a", (1, 2)),
        ("1: a\n0x1: b", "1", (1, 2)),
        ("base: &b {name: a}\nx:\n  <<: *b\n  name: b\n  name: c", "x.name", (4, 5)),
        ("base: &b {name: a, name: b}\nx: *b", "base.name", (1, 1)),
        ("base: &b {name: a}\nx:\n  <<: *b\n  <<: *b", "x.<<", (3, 4)),
        ("? [a, b]\n: 1\n? [a, b]\n: 2", "[a, b]", (1, 3)),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(text: str, key: str, lines: tuple[int, int]) -> None:
    with pytest.raises(PlanError) as caught:
        read_yaml(text, source="plan p.yaml")
    where = f"stands in line {lines[0]} and again in line {lines[1]}; remove one of them"
    assert str(caught.value).replace("\n", "") == f"plan p.yaml: expected every key once, but {key} {where}"


@pytest.mark.parametrize("text", ["[1, 2", "a: b: c", "a: &x [*y]", "--- 1\n--- 2", "a: !!python/name:os.system x"])
def test_what_is_no_yaml_is_told_in_one_line(text: str) -> None:
    with pytest.raises(PlanError, match=r"^plan p: expected YAML, but got: ") as caught:
        read_yaml(text, source="plan p")
    assert "\n" not in str(caught.value)


def test_a_mapping_that_holds_itself_is_read() -> None:
    content = read_yaml("a: &a {b: 1, c: *a}", source="a")
    assert content["a"]["c"] is content["a"]


def test_many_anchors_of_anchors_take_no_time() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
    assert len(read_yaml(text, source="a")["a19"]) == 9
