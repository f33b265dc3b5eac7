"""The commands ``gearnn data`` and ``gearnn cache``: frames before and while they are trained on."""

import re
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.terminal import console, counting, preflight_data, print_table, running
from gearnn.errors import DataError

data = typer.Typer(no_args_is_help=True, help="Look at the frames of a plan, or fetch a dataset.")
cache = typer.Typer(no_args_is_help=True, help="The cache of distorted frames, and local copies of buckets.")

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="plan in YAML, see docs/plans.md")]
OptionalPlan = Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="take the store of this plan")]
StoreOption = Annotated[str, typer.Option("--store", help="a store, where no plan is given")]


@data.command("check")
def check(
    plan: PlanFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder of the contact sheets")] = None,
) -> None:
    """Read all frames of a plan, count and measure them, and draw what the DNN will see at every level."""
    with running():
        from gearnn.plan import Plan
        from gearnn.plan.opened import Opened
        from gearnn.plan.preflight import check_levels, check_sizes
        from gearnn.store.files import home
        from tasks.inspecting.data import inspect_levels, inspect_splits, sheets_of

        checked = Plan.load(plan)
        opened = Opened(checked)
        check_sizes(opened)
        check_levels(opened)
        folder = output or home() / "checks" / plan.stem
        sheets_of(checked, folder)
        with counting("reading frames") as count:
            print_table(inspect_splits(checked, count), title=f"frames of {checked.data.name}")
        with counting("distorting frames") as count:
            cells = inspect_levels(checked, folder, count)
        print_table(cells, title=f"levels, measured on frames of the split {checked.data.splits.train}")
        console.print(f"contact sheets: {folder}", soft_wrap=True, highlight=False)


@data.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="pennfudan")],
    to: Annotated[Path, typer.Option(help="folder that will hold the dataset's folder")] = Path("data"),
    archive: Annotated[Path | None, typer.Option(help="an archive that was downloaded by hand")] = None,
    url: Annotated[str | None, typer.Option(help="a mirror; default: the authors' address")] = None,
) -> None:
    """Download a dataset, check its content, unpack it; a download that broke off goes on."""
    with running():
        from gearnn.datasets.fetch import fetch_dataset

        with counting("downloading", unit="bytes") as count:
            folder = fetch_dataset(name, to, url=url, archive=archive, on_bytes=count)
        console.print(f"{name} is complete in {folder}", soft_wrap=True, highlight=False)


@cache.command("fill")
def fill(plan: PlanFile) -> None:
    """Distort all frames of a plan at all of its levels, with all cores; goes on where it was stopped."""
    with running():
        from gearnn.levels import DistortionLevel
        from gearnn.plan import Plan
        from gearnn.plan.opened import Opened
        from tasks.adapting.frames import fill_frames

        checked = Plan.load(plan)
        preflight_data(checked)
        with counting("distorting frames") as count:
            filled = fill_frames(Opened(checked), [DistortionLevel(), *checked.distortion_levels], count)
        console.print(f"{filled.num_written:,} frames made, {_size(filled.num_bytes)}", highlight=False)
        if filled.failures:
            raise DataError("; ".join(f"level {level}: {reason}" for level, reason in filled.failures.items()))


@cache.command("show")
def show(plan: OptionalPlan = None, store: StoreOption = ".gearnn/store") -> None:
    """How much the cache holds, by level."""
    with running():
        from gearnn.datasets.cache import usage
        from gearnn.store.copies import copies

        folder = _frames(plan, store)
        entries = usage(folder)
        cells = [("level", "frames", "size")]
        cells += [(entry.name, f"{entry.num_files:,}", _size(entry.num_bytes)) for entry in entries]
        cells += [("all", f"{sum(e.num_files for e in entries):,}", _size(sum(e.num_bytes for e in entries)))]
        print_table(cells, title=f"distorted frames in {folder}")
        local = [("bucket", "objects", "size"), *((c.name, f"{c.num_files:,}", _size(c.num_bytes)) for c in copies())]
        if len(local) > 1:
            print_table(local, title="local copies of buckets")


@cache.command("clean")
def clean(
    plan: OptionalPlan = None,
    store: StoreOption = ".gearnn/store",
    level: Annotated[
        list[str] | None, typer.Option(help="only frames of this level; may be given several times")
    ] = None,
    copies: Annotated[bool, typer.Option("--copies", help="remove local copies of buckets, too")] = False,
) -> None:
    """Remove distorted frames; they are made again when they are needed."""
    with running():
        from gearnn.datasets.cache import clear
        from gearnn.levels import expand_levels
        from gearnn.store.copies import remove_copies

        folder = _frames(plan, store)
        names = None if level is None else [one.slug for one in expand_levels(level)]
        missing = [name for name in names or [] if not (folder / name).is_dir()]
        if missing:
            console.print(f"no frames of {', '.join(missing)} in {folder}", soft_wrap=True, highlight=False)
        _check_cache(folder)
        removed = clear(folder, names)
        console.print(f"removed {removed.num_files:,} frames, {_size(removed.num_bytes)}", highlight=False)
        if copies:
            gone = remove_copies()
            console.print(f"removed {gone.num_files:,} copies of objects, {_size(gone.num_bytes)}", highlight=False)


def _frames(plan: Path | None, store: str) -> Path:
    """Folder of the distorted frames of a plan's store, or of the one that is named."""
    from gearnn.plan import Plan
    from gearnn.store.storage import Store

    found = Store(Plan.load(plan).store if plan is not None else store)
    if not found.root.exists():
        raise DataError(f"store {found.location}: expected a store, but there is none; give the plan, or --store")
    return found.frames


def _check_cache(folder: Path) -> None:
    """Make sure that only distorted frames are removed: a folder that is named by mistake may hold others."""
    from gearnn.store.files import UNFINISHED

    ours = re.compile(rf"[a-z0-9-]+/[0-9a-f]{{2}}/([0-9a-f]{{64}}|{re.escape(UNFINISHED)})[^/]*")
    for path in folder.rglob("*"):
        if not path.is_dir() and not ours.fullmatch(path.relative_to(folder).as_posix()):
            raise DataError(f"{path}: expected nothing but distorted frames in {folder}; nothing was removed")


def _size(num_bytes: int) -> str:
    """Bytes as people read them; GB are 10^9."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"
