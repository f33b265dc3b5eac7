"""Versions of registered models: what they are, and how they are found."""

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gearnn.errors import LevelError, RegistryError
from gearnn.levels import DistortionLevel
from gearnn.registry import runs
from gearnn.registry.names import (
    TAG_BASE_FINGERPRINT,
    TAG_BASE_IDENTITY,
    TAG_BASE_URI,
    TAG_DISTORTION,
    TAG_IDENTITY,
    TAG_KIND,
    TAG_LEVEL,
)

# Names inside a version, which its loader in gearnn/registry/serving.py reads.
BASE_FILE, ADAPTOR_FILE = "base.safetensors", "adaptor.safetensors"
IMAGE_COLUMN = "image"
ADAPTORS_FOLDER = "adaptors"
_ATTEMPTS = 8
_COLLISIONS = "Model Version creation error", "UniqueViolation", "UNIQUE constraint"
T = TypeVar("T")
PARAMETERS = {"level": "", "off_map": "nearest"}
"""Parameters of every served model with their defaults; see :meth:`gearnn.registry.serving.Predictor.predict`."""


class Tags(dict[str, str]):
    """Tags of a version; one that is missing is a :class:`RegistryError`, because people can remove tags."""

    uri = ""

    def __missing__(self, name: str) -> str:
        raise RegistryError(f"registry: {self.uri} is damaged, expected the tag {name}, which GearNN gave it")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: of the registered model.
        version: number, from "1".
        run_id: the run whose metrics decide about it.
        tags: see :mod:`gearnn.registry.names`.
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
    server = runs.client()
    from mlflow.exceptions import MlflowException

    try:
        return _version(server.get_model_version(name, version))
    except MlflowException as error:
        raise RegistryError(f"registry: no version {version} of {name} at {runs.shown_uri()}") from error


def by_alias(name: str, alias: str) -> Version:
    """The version that carries an alias.

    Raises:
        RegistryError: no such model, or none of its versions carries the alias.
    """
    server = runs.client()
    from mlflow.exceptions import MlflowException

    try:
        return _version(server.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        raise RegistryError(f"registry: no {alias} of {name} at {runs.shown_uri()}") from error


def aliased(name: str, alias: str) -> Version | None:
    """The version that carries an alias, or None."""
    try:
        return by_alias(name, alias)
    except RegistryError:
        return None


def find(name: str, identity: str) -> Version | None:
    """The version with an identity, the oldest if there are several, or None."""
    numbers = numbers_of(name, identity)
    return get_version(name, str(numbers[0])) if numbers else None


def numbers_of(name: str, identity: str) -> list[int]:
    """Numbers of the versions with an identity, rising."""
    query = f"name = '{name}' and tags.`{TAG_IDENTITY}` = '{identity}'"
    return sorted(int(v.version) for v in runs.client().search_model_versions(query))


def newest_of(name: str) -> int:
    """The largest number of a registered model's versions; 0 if there are none."""
    return max((int(v.version) for v in runs.client().search_model_versions(f"name = '{name}'")), default=0)


def adaptors(base: str | None = None, distortion: str | None = None) -> list[Version]:
    """All versions of all adaptors, newest first within a level.

    Args:
        base: name of a registered base; None lists those of every base.
        distortion: kind, such as ``jpeg``; None lists every kind.
    """
    query = f"tags.`{TAG_KIND}` = 'adaptor'"
    if distortion is not None:
        query += f" and tags.`{TAG_DISTORTION}` = '{distortion}'"
    versions = _versions(query)
    ours = [v for v in versions if base is None or _base_of(v)[0] == base]
    known = [v for v in ours if not unknown_level(v)]
    known.sort(key=lambda v: (_base_of(v)[0], DistortionLevel.parse(v.tags[TAG_LEVEL]), -int(v.version)))
    return known + [v for v in ours if unknown_level(v)]


def bases() -> dict[str, Version]:
    """All versions of all bases, by their URI."""
    return {v.uri: v for v in _versions(f"tags.`{TAG_KIND}` = 'base'")}


def _versions(query: str) -> list[Version]:
    found = _pages(runs.client().search_model_versions, query)
    aliases = _aliases() if found else {}
    return [replace(_version(v), aliases=aliases.get((v.name, str(v.version)), ())) for v in found]


def metrics(version: Version) -> dict[str, float]:
    """Metrics of the run that a version belongs to."""
    return dict(runs.client().get_run(version.run_id).data.metrics)


def set_alias(name: str, alias: str, version: str) -> None:
    """Give a version an alias; the version that had it loses it.

    Raises:
        RegistryError: no such version.
    """
    server = runs.client()
    from mlflow.exceptions import MlflowException

    try:
        insisting(lambda: server.set_registered_model_alias(name, alias, version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise RegistryError(f"registry: no version {version} of {name} at {runs.shown_uri()}") from error


def insisting(call: Callable[[], T]) -> T:
    """Call, and call again after a pause where MLflow fails because somebody does the same at this moment.

    Its store looks whether an entry is there and then inserts it; two at once both insert.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except MlflowException as error:
            if not any(sign in str(error) for sign in _COLLISIONS):
                raise
            time.sleep(random.uniform(0, 0.2 * attempt))
    return call()


def drop_alias(name: str, alias: str) -> None:
    """Take an alias away from whichever version has it."""
    runs.client().delete_registered_model_alias(name, alias)


def unknown_level(version: Version) -> str:
    """Why the level of an adaptor cannot be read here, such as a kind whose package is not installed; or nothing."""
    try:
        DistortionLevel.parse(version.tags[TAG_LEVEL])
    except (LevelError, RegistryError) as error:
        return str(error)
    return ""


def is_of(adaptor: Version, base: Version) -> bool:
    """Whether an adaptor was made for a base with these weights and, where it says so, with these arguments."""
    same = adaptor.tags[TAG_BASE_FINGERPRINT] == base.tags[TAG_BASE_FINGERPRINT]
    identity = adaptor.tags.get(TAG_BASE_IDENTITY)
    return same and identity in (None, base.tags.get(TAG_IDENTITY))


def json_of(text: str, what: str) -> dict[str, Any]:
    """What a tag says that holds an object as JSON.

    Args:
        text: the tag.
        what: which tag of what, for the message.

    Raises:
        RegistryError: somebody changed it.
    """
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise RegistryError(f"registry: {what}: expected an object as JSON, but got {text!r:.60}") from error


def _base_of(version: Version) -> tuple[str, str]:
    """Name and version of the base that an adaptor belongs to."""
    name, _, number = version.tags.get(TAG_BASE_URI, "").removeprefix("models:/").partition("/")
    return name, number


def _aliases() -> dict[tuple[str, str], tuple[str, ...]]:
    """Aliases of all versions, which searching for versions does not give: (name, version) -> aliases."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for model in _pages(runs.client().search_registered_models):
        for alias, version in sorted(model.aliases.items()):
            key = model.name, str(version)
            found[key] = (*found.get(key, ()), alias)
    return found


def _pages(search: Callable[..., Any], query: str | None = None) -> list[Any]:
    """All that a search finds, page by page."""
    page = search(filter_string=query, max_results=1000)
    found = list(page)
    while page.token:
        page = search(filter_string=query, max_results=1000, page_token=page.token)
        found += page
    return found


def _version(entity: Any) -> Version:
    tags = Tags(entity.tags)
    tags.uri = f"models:/{entity.name}/{entity.version}"
    return Version(
        name=entity.name,
        version=str(entity.version),
        run_id=entity.run_id,
        tags=tags,
        aliases=tuple(sorted(entity.aliases)),
    )
