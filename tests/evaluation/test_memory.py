import pytest
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.evaluation import solutions
from gearnn.evaluation.memory import memory_table, nominal_values, resident_bytes
from gearnn.layers import layers_of, named

DRN_D_22, DRN_D_38 = 15_907_139, 26_022_723


@pytest.mark.parametrize(
    ("solution", "jpeg", "resolution", "overhead"),
    [
        (solutions.ADAPTOR, 16_193_465, 26_334_993, (1.8, 1.2)),
        (solutions.BASE, 15_907_139, 26_022_723, (0, 0)),
        (solutions.STABILITY, 15_907_139, 26_022_723, (0, 0)),
        (solutions.MIXED, 15_907_139, 26_022_723, (0, 0)),
        (solutions.FULL, 159_071_390, 182_159_061, (900, 600)),
    ],
)
def test_table_1_is_reproduced_to_the_value(
    solution: str, jpeg: int, resolution: int, overhead: tuple[float, float]
) -> None:
    for size, levels, wanted, percent in ((DRN_D_22, 9, jpeg, overhead[0]), (DRN_D_38, 6, resolution, overhead[1])):
        bound = size * 2 // 1000
        (row,) = memory_table(size, bound, levels, {solution: (size, 0, 0)})
        assert nominal_values(solution, size, bound, levels) == row.nominal == wanted
        assert row.overhead == pytest.approx(percent, abs=0.05)


def test_brightness_charges_nineteen_levels_where_the_paper_charges_twenty() -> None:
    bound = DRN_D_38 * 2 // 1000
    assert nominal_values(solutions.ADAPTOR, DRN_D_38, bound, 19) / DRN_D_38 == pytest.approx(1.038, abs=1e-4)


def test_what_has_no_bound_is_charged_as_it_is() -> None:
    (row,) = memory_table(1000, 10, 3, {solutions.BATCHNORM: (1300, 4, 5)})
    assert (row.nominal, row.values, row.disk, row.resident) == (1300, 1300, 4, 5)
    assert row.overhead == pytest.approx(30.0)


def test_a_gearbox_keeps_one_base_and_its_adaptors_and_no_more(tiny: nn.Module) -> None:
    alone = resident_bytes([tiny])
    assert alone == sum(t.numel() * t.element_size() for t in (*tiny.parameters(), *tiny.buffers()))
    head = named(layers_of(tiny), ["head"])
    networks = [Adaptor.extract(tiny, tiny, head, f"jpeg:quality={q}").apply(tiny) for q in (5, 10)]
    assert resident_bytes([tiny, *networks]) == alone + 2 * 45 * 4
    assert resident_bytes([tiny, nn.Identity()]) == alone
