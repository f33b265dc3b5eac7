"""Versions of registered models: what they are, and how they are found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gearnn import tracking
from gearnn import vocabulary as words
from gearnn.errors import LevelError, RegistryError
from gearnn.levels import DistortionLevel

# Names inside a version, which its loader in gearnn/serving.py reads.
BASE_FILE, ADAPTOR_FILE = "base.safetensors", "adaptor.safetensors"
IMAGE_COLUMN = "image"
ADAPTORS_FOLDER = "adaptors"
PARAMETERS = {"level": "", "off_map": "nearest"}
"""Parameters of every served model with their defaults; see :meth:`gearnn.serving.Predictor.predict`."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: of the registered model.
        version: number, from "1".
        run_id: the run whose metrics decide about it.
        tags: see :mod:`gearnn.vocabulary`.
        aliases: such as ``champion``.
    """

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """``models:/<name>/<version>``."""
        return f"models:/{self.name}/{self.version}"


def get_version(name: str, version: str) -> Version:
    """One version.

    Raises:
        RegistryError: there is none.
    """
    server = tracking.client()
    from mlflow.exceptions import MlflowException

    try:
        return _version(server.get_model_version(name, version))
    except MlflowException as error:
        raise RegistryError(f"registry: no version {version} of {name} at {tracking.tracking_uri()}") from error


def by_alias(name: str, alias: str) -> Version:
    """The version that carries an alias.

    Raises:
        RegistryError: no such model, or none of its versions carries the alias.
    """
    server = tracking.client()
    from mlflow.exceptions import MlflowException

    try:
        return _version(server.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        raise RegistryError(f"registry: no {alias} of {name} at {tracking.tracking_uri()}") from error


def find(name: str, identity: str) -> Version | None:
    """The version with an identity, or None."""
    query = f"name = '{name}' and tags.`{words.TAG_IDENTITY}` = '{identity}'"
    found = tracking.client().search_model_versions(query)
    return get_version(name, str(found[0].version)) if found else None


def adaptors(base: str | None = None, distortion: str | None = None) -> list[Version]:
    """All versions of all adaptors, newest first within a level.

    Args:
        base: name of a registered base; None lists those of every base.
        distortion: kind, such as ``jpeg``; None lists every kind.
    """
    query = f"tags.`{words.TAG_KIND}` = 'adaptor'"
    if distortion is not None:
        query += f" and tags.`{words.TAG_DISTORTION}` = '{distortion}'"
    versions = [get_version(v.name, str(v.version)) for v in tracking.client().search_model_versions(query)]
    ours = [v for v in versions if base is None or _base_of(v)[0] == base]
    known = [v for v in ours if not unknown_level(v)]
    known.sort(key=lambda v: (_base_of(v)[0], DistortionLevel.parse(v.tags[words.TAG_LEVEL]), -int(v.version)))
    return known + [v for v in ours if unknown_level(v)]


def metrics(version: Version) -> dict[str, float]:
    """Metrics of the run that a version belongs to."""
    return dict(tracking.client().get_run(version.run_id).data.metrics)


def set_alias(name: str, alias: str, version: str) -> None:
    """Give a version an alias; the version that had it loses it."""
    tracking.client().set_registered_model_alias(name, alias, version)


def unknown_level(version: Version) -> str:
    """Why the level of an adaptor cannot be read here, such as a kind whose package is not installed; or nothing."""
    try:
        DistortionLevel.parse(version.tags[words.TAG_LEVEL])
    except LevelError as error:
        return str(error)
    return ""


def _base_of(version: Version) -> tuple[str, str]:
    """Name and version of the base that an adaptor belongs to."""
    name, _, number = version.tags.get(words.TAG_BASE_URI, "").removeprefix("models:/").partition("/")
    return name, number


def _version(entity: Any) -> Version:
    return Version(
        name=entity.name,
        version=str(entity.version),
        run_id=entity.run_id,
        tags=dict(entity.tags),
        aliases=tuple(sorted(entity.aliases)),
    )
