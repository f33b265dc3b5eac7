"""Looking at a plan's frames before training: tables of splits and levels, and a contact sheet a level."""

from collections.abc import Callable
from pathlib import Path

from gearnn.datasets.inspect import LevelFacts, SplitFacts, contact_sheet, describe_level, describe_split, spread
from gearnn.levels import DistortionLevel
from gearnn.plan import Plan
from gearnn.plan.opened import ROLES, Opened
from gearnn.store.outputs import Outputs

_MEASURED_FRAMES = 24
_CLASSES_TOLD = 4

Count = Callable[[int, int], None]


def inspect_splits(plan: Plan, on_done: Count) -> list[tuple[str, ...]]:
    """The table of splits, headings first; every frame and label is read.

    Raises:
        DataError: the first file that cannot be used.
    """
    opened = Opened(plan)
    roles: dict[str, list[str]] = {}
    for role in ROLES:
        roles.setdefault(opened.split(role), []).append(role)
    cells: list[tuple[str, ...]] = [("split", "serves", "frames", "sizes", "classes", "without truth")]
    for split, dataset in opened.splits().items():
        facts = describe_split(dataset, on_done)
        cells.append(_split_line(split, ", ".join(roles[split]), facts))
    return cells


def inspect_levels(plan: Plan, folder: Path, on_done: Count) -> list[tuple[str, ...]]:
    """The table of levels, headings first; the contact sheets go into ``folder`` as ``<level slug>.png``.

    Raises:
        DataError: frames cannot be encoded at a level; it is named.
        OutputError: a file of that name is no contact sheet.
    """
    outputs, opened = sheets_of(plan, folder), Opened(plan)
    cells: list[tuple[str, ...]] = [("level", "received", "bytes a frame", "bits a pixel", "PSNR", "sensed")]
    levels = (DistortionLevel(), *plan.distortion_levels)
    for number, level in enumerate(levels, start=1):
        samples = opened.samples("train", level)
        facts = describe_level(samples, spread(len(samples), _MEASURED_FRAMES))
        with outputs.fresh(f"{level.slug}.png") as path:
            contact_sheet(samples, facts).save(path, optimize=True)
        cells.append(_level_line(facts))
        on_done(number, len(levels))
    return cells


def sheets_of(plan: Plan, folder: Path) -> Outputs:
    """Where the contact sheets go.

    Raises:
        OutputError: one would take the place of a file that is none.
    """
    outputs = Outputs(folder)
    outputs.check(*(f"{level.slug}.png" for level in (DistortionLevel(), *plan.distortion_levels)))
    return outputs


def _split_line(split: str, served: str, facts: SplitFacts) -> tuple[str, ...]:
    sizes = sorted(facts.sizes)
    by = [f"{width}x{height}" for width, height in sizes]
    shown = by[0] if len(by) == 1 else f"{len(by)} sizes, {by[0]} to {by[-1]}"
    largest = sorted(facts.class_shares.items(), key=lambda entry: -entry[1])
    absent = [name for name, share in facts.class_shares.items() if share == 0]
    told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in largest[:_CLASSES_TOLD] if share > 0)
    told += f", {len(largest) - _CLASSES_TOLD} more" if len(largest) > _CLASSES_TOLD else ""
    if facts.counted == "instances":  # the background is no instance
        absent = absent[1:] if absent[:1] == list(facts.class_shares)[:1] else absent
    told += f" of {facts.num_counted:,} {facts.counted}" if facts.counted != "pixels" else " of pixels"
    told += f"; absent: {', '.join(absent)}" if absent else ""
    without = f"{100 * facts.void_share:.1f} %"
    if facts.counted == "instances":
        without = f"{len(facts.empty)} frames have no instance" + (
            f": {', '.join(facts.empty[:3])}" if facts.empty else ""
        )
    return split, served, f"{facts.num_frames:,}", shown, told, without


def _level_line(facts: LevelFacts) -> tuple[str, ...]:
    return (
        facts.level,
        f"{facts.size[0]}x{facts.size[1]}",
        f"{facts.bytes_per_frame:,.0f}",
        f"{facts.bits_per_pixel:.2f}",
        "exact" if facts.psnr_db == float("inf") else f"{facts.psnr_db:.1f} dB",
        facts.sensed,
    )
