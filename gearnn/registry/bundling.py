"""A base with all of its adaptors in use as one registered model, to be served."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gearnn.errors import RegistryError
from gearnn.registry import runs
from gearnn.registry.description import read_description
from gearnn.registry.loading import adaptor_file, download
from gearnn.registry.logged import fill, identity_of, log_and_register
from gearnn.registry.names import (
    CHAMPION,
    TAG_ADAPTORS,
    TAG_BASE_FINGERPRINT,
    TAG_BASE_URI,
    TAG_IDENTITY,
    TAG_KIND,
    TAG_LEVEL,
    TAG_SHA256,
)
from gearnn.registry.once import register_once
from gearnn.registry.versions import (
    ADAPTORS_FOLDER,
    BASE_FILE,
    Version,
    adaptors,
    aliased,
    by_alias,
    get_version,
    is_of,
    json_of,
    set_alias,
    unknown_level,
)


def gearbox_name(base: str) -> str:
    """Name of the registered model that holds a base with its adaptors."""
    return f"{base}.gearbox"


def register_gearbox(base: str, alias: str = CHAMPION) -> Version:
    """Register a base with all of its adaptors that carry an alias; the same set is registered once.

    The version of the present set gets the same alias. Adaptors of an older version of the base, and
    levels without that alias, are left out.

    Args:
        base: name of the registered base; its champion is taken.
        alias: which version of each adaptor.

    Raises:
        RegistryError: no such base, or no adaptor that belongs to it.
    """
    version = by_alias(base, CHAMPION)
    chosen = chosen_for(version, alias)
    if not chosen:
        raise RegistryError(f"registry: {version.uri} has no adaptor that is {alias} at {runs.shown_uri()}")
    identity = identity_of(version.tags[TAG_IDENTITY], *sorted(v.tags[TAG_SHA256] for v in chosen))
    name = gearbox_name(base)
    found = register_once(name, identity, lambda: _register(name, version, chosen, identity))
    set_alias(name, alias, found.version)
    return get_version(name, found.version)


def contents(gearbox: Version) -> list[tuple[str, str]]:
    """(level, name and version of its adaptor) of what a gearbox's version holds, the base first.

    Raises:
        RegistryError: its tags were altered.
    """
    held = json_of(gearbox.tags[TAG_ADAPTORS], f"{gearbox.uri}, tag {TAG_ADAPTORS}")
    uris = {"base": gearbox.tags[TAG_BASE_URI], **held}
    return [(level, str(uri).removeprefix("models:/")) for level, uri in uris.items()]


def chosen_for(base: Version, alias: str = CHAMPION) -> list[Version]:
    """The adaptors of a base's version that carry an alias."""
    found = []
    for name in sorted({v.name for v in adaptors(base.name) if not unknown_level(v)}):
        version = aliased(name, alias)
        if version is not None and is_of(version, base):
            found.append(version)
    return found


def _register(name: str, base: Version, chosen: Sequence[Version], identity: str) -> Version:
    source = download(base)
    description = read_description(source)
    files = {BASE_FILE: source / BASE_FILE}
    files |= {f"{ADAPTORS_FOLDER}/{v.name.rpartition('.')[2]}.safetensors": adaptor_file(v) for v in chosen}
    tags = {
        TAG_KIND: "gearbox",
        TAG_BASE_URI: base.uri,
        TAG_BASE_FINGERPRINT: base.tags[TAG_BASE_FINGERPRINT],
        TAG_ADAPTORS: json.dumps({v.tags[TAG_LEVEL]: v.uri for v in chosen}),
        TAG_SHA256: hashlib.sha256("".join(v.tags[TAG_SHA256] for v in chosen).encode()).hexdigest(),
        TAG_IDENTITY: identity,
    }
    with tempfile.TemporaryDirectory() as folder:
        data = fill(Path(folder) / "gearbox", files, description)
        text = _text([base, *chosen])
        return log_and_register(name, "gearbox", data, base.run_id, tags, text, inputs=[base, *chosen])


def _text(versions: Sequence[Version]) -> str:
    """What it holds, as a table with links."""
    links = (f"[{v.name} version {v.version}](#/models/{v.name}/versions/{v.version})" for v in versions)
    levels = (v.tags.get(TAG_LEVEL, "base") for v in versions)
    rows = [f"| {level} | {link} |" for level, link in zip(levels, links, strict=True)]
    return "\n".join(["A base with its adaptors, to be served.", "", "| level | version |", "|---|---|", *rows])
