"""Whether the files of a version are those that were registered; asked before anything in them is used.

What a version was made from is its identity, a tag: weights and description of a base, the digest of an
adaptor, both for a gearbox. The tags are on the server and, beside the files, in MLflow's MLmodel, which
also lists the digest of every file. Whoever may write all of these chooses what is loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from gearnn.errors import RegistryError
from gearnn.layers import fingerprint
from gearnn.registry.description import DESCRIPTION_FILE, read_description
from gearnn.registry.logged import digests_below, identity_of
from gearnn.registry.names import FACT_FILES, TAG_BASE_FINGERPRINT, TAG_BASE_URI, TAG_IDENTITY, TAG_KIND, TAG_SHA256
from gearnn.registry.versions import ADAPTOR_FILE, ADAPTORS_FOLDER
from gearnn.store.files import digest_of_file

_MLMODEL = "MLmodel"
_ABOVE = 3  # folders between MLmodel and the files, which MLflow lays into data/<kind>


def facts_beside(folder: Path) -> dict[str, Any]:
    """What MLmodel, beside a version's files, says of the version: its tags, and the digests of its files.

    Raises:
        RegistryError: there is no MLmodel, or it is damaged.
    """
    path = next((p / _MLMODEL for p in list(folder.parents)[:_ABOVE] if (p / _MLMODEL).is_file()), None)
    if path is None:
        raise RegistryError(f"registry: {folder}: expected MLflow's file {_MLMODEL} above it, but there is none")
    try:
        metadata = yaml.safe_load(path.read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RegistryError(f"registry: {path}: expected MLflow's description of a model, but got: {reason}") from error
    if not isinstance(metadata, dict) or not {TAG_KIND, TAG_IDENTITY} <= metadata.keys():
        raise RegistryError(f"registry: {path}: expected the metadata of a version that GearNN registered")
    return metadata


def check_files(folder: Path, tags: Mapping[str, Any], what: str) -> None:
    """Make sure that the files of a version are those that were registered; weights of a base are left out.

    What a base's weights are is known once they are loaded, by their fingerprint; where MLmodel lists
    the digests of the files, they are checked here as well.

    Args:
        folder: with the files of the version.
        tags: of the version, from the server where it is asked, else from :func:`facts_beside`.
        what: whose files they are, for messages.

    Raises:
        RegistryError: a file was altered, is missing, or is there too much.
    """
    listed = facts_beside(folder).get(FACT_FILES)
    if listed is not None:
        _check_listed(folder, listed, what)
    if tags.get(TAG_KIND) == "adaptor":
        _check_adaptor(folder, tags, what)
    else:
        _check_identity(folder, tags, what)


def check_weights(model: nn.Module, tags: Mapping[str, Any], what: str) -> None:
    """Make sure that a base that was loaded has the registered weights.

    Raises:
        RegistryError: it does not.
    """
    expected = str(tags.get(TAG_BASE_FINGERPRINT))
    if fingerprint(model) != expected:
        raise RegistryError(f"registry: {what} is damaged, its weights do not have fingerprint {expected[:16]}...")


def _check_listed(folder: Path, listed: Any, what: str) -> None:
    if not isinstance(listed, dict):
        raise RegistryError(f"registry: {what} is damaged, its {_MLMODEL} lists no files")
    found = digests_below(folder)
    for name in sorted(found.keys() | listed.keys(), key=str):
        if found.get(name) != listed.get(name):
            state = "altered" if name in found and name in listed else "missing" if name in listed else "unexpected"
            raise _altered(what, str(name), state)


def _check_adaptor(folder: Path, tags: Mapping[str, Any], what: str) -> None:
    path = folder / ADAPTOR_FILE
    if not path.is_file() or digest_of_file(path)[0] != tags.get(TAG_SHA256):
        raise _altered(what, ADAPTOR_FILE)
    if read_description(folder) != {"base_uri": tags.get(TAG_BASE_URI)}:
        raise _altered(what, DESCRIPTION_FILE)


def _check_identity(folder: Path, tags: Mapping[str, Any], what: str) -> None:
    """Of a base or a gearbox, from what :mod:`registering` and :mod:`bundling` made it."""
    description = json.dumps(read_description(folder), sort_keys=True)
    identity = identity_of(str(tags.get(TAG_BASE_FINGERPRINT)), description)
    if tags.get(TAG_KIND) == "gearbox":
        digests = [digest_of_file(path)[0] for path in sorted((folder / ADAPTORS_FOLDER).glob("*"))]
        identity = identity_of(identity, *sorted(digests))
    if identity != tags.get(TAG_IDENTITY):
        is_gearbox = tags.get(TAG_KIND) == "gearbox"
        raise _altered(what, f"{DESCRIPTION_FILE} or {ADAPTORS_FOLDER}" if is_gearbox else DESCRIPTION_FILE)


def _altered(what: str, name: str, state: str = "altered") -> RegistryError:
    return RegistryError(
        f"registry: {what} is damaged, expected its files as they were registered, but {name} is {state}"
    )
