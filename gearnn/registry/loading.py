"""Versions as networks, adaptors and gearboxes, checked against what was registered."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.errors import RegistryError
from gearnn.problems.problem import Problem
from gearnn.registry import runs
from gearnn.registry.description import DESCRIPTION_FILE, open_description
from gearnn.registry.names import ARCHIVED, CHAMPION, TAG_BASE_URI
from gearnn.registry.unaltered import check_files, check_weights
from gearnn.registry.versions import (
    ADAPTOR_FILE,
    BASE_FILE,
    Version,
    adaptors,
    by_alias,
    get_version,
    is_of,
    unknown_level,
)


def load_base(name: str, version: str | None = None, trust: Collection[str] = ()) -> tuple[nn.Module, Problem, Version]:
    """A base with its problem.

    Args:
        name: of the registered model.
        version: number; None takes the champion.
        trust: packages whose code it may name, see :func:`open_description`.

    Raises:
        RegistryError: no such version, its weights do not have the registered fingerprint, or it names
            code that is not trusted.
    """
    found = by_alias(name, CHAMPION) if version is None else get_version(name, version)
    model, problem, _ = _open_base(found, trust)
    return model, problem, found


def load_adaptor(version: Version) -> Adaptor:
    """The adaptor of a version.

    Raises:
        RegistryError: its bytes are not those that were registered.
        AdaptorError: the file is damaged.
    """
    return Adaptor.load(adaptor_file(version))


def adaptor_file(version: Version) -> Path:
    """The file of an adaptor's version.

    Raises:
        RegistryError: its bytes are not those that were registered.
    """
    return download(version) / ADAPTOR_FILE


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a gearbox is made of.

    Attributes:
        base: on the CPU.
        problem: that was registered with it.
        adaptors: one a level.
        base_disk: bytes of the file of the base's weights.
    """

    base: nn.Module
    problem: Problem
    adaptors: Sequence[Adaptor]
    base_disk: int


def load_gearbox(base: str, distortion: str | None, alias: str, trust: Collection[str] = ()) -> Loaded:
    """What :meth:`gearnn.gearbox.GearBox.from_registry` makes a gearbox of."""
    version = by_alias(base, CHAMPION)
    model, problem, weights = _open_base(version, trust)
    found = adaptors(base, distortion)
    unknown = {v.name: reason for v in found if (reason := unknown_level(v))}
    for name, reason in unknown.items():
        logging.getLogger("gearnn").warning("%s is left out: %s", name, reason)
    chosen = _chosen(base, distortion, alias, [v for v in found if v.name not in unknown])
    for adaptor in chosen:
        if not is_of(adaptor, version):
            raise RegistryError(
                f"registry: {adaptor.uri} ({alias}) adapts {adaptor.tags[TAG_BASE_URI]}, not {version.uri}; "
                f"run `gearnn adapt` for the present base"
            )
    return Loaded(
        base=model, problem=problem, adaptors=list(map(load_adaptor, chosen)), base_disk=weights.stat().st_size
    )


def _chosen(base: str, distortion: str | None, alias: str, found: Sequence[Version]) -> list[Version]:
    """The version of every level that carries the alias; levels without one are logged, retired ones are not."""
    kind = "any distortion" if distortion is None else distortion
    if not found:
        raise RegistryError(f"registry: {base} has no adaptor for {kind} at {runs.shown_uri()}")
    names = {v.name for v in found}
    chosen = {v.name: v for v in found if alias in v.aliases}
    retired = {v.name for v in found if ARCHIVED in v.aliases}
    if not chosen:
        raise RegistryError(
            f"registry: none of the adaptors of {base} for {kind} is {alias} at {runs.shown_uri()}; "
            f"`gearnn adaptors` shows why not, and an alias can be set in the MLflow UI"
        )
    for name in sorted(names - chosen.keys() - retired):
        logging.getLogger("gearnn").warning("%s is left out: none of its versions is %s", name, alias)
    return [chosen[name] for name in sorted(chosen)]


def _open_base(version: Version, trust: Collection[str]) -> tuple[nn.Module, Problem, Path]:
    """A base, its problem and the file of its weights."""
    folder = download(version)
    description = open_description(folder, trust)
    model = description.build(folder / BASE_FILE)
    check_weights(model, version.tags, version.uri)
    return model, description.restore_problem(), folder / BASE_FILE


def download(version: Version) -> Path:
    """Folder with the files of a version, which are those that were registered.

    A base's weights are checked where they are loaded, by their fingerprint.

    Raises:
        RegistryError: they are not, or there are none.
    """
    runs.client()
    import mlflow

    local = Path(mlflow.artifacts.download_artifacts(version.uri))
    folder = next((path.parent for path in sorted(local.rglob(DESCRIPTION_FILE))), None)
    if folder is None:
        raise RegistryError(f"registry: expected {version.uri} to hold {DESCRIPTION_FILE}, but it does not")
    check_files(folder, version.tags, version.uri)
    return folder
