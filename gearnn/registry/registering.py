"""Bases and adaptors as new versions; which of them are in use is decided in :mod:`gearnn.registry.promoting`."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gearnn.adaptor import Adaptor
from gearnn.errors import CheckpointError, RegistryError
from gearnn.layers import unusable
from gearnn.models.checkpoint import read_checkpoint
from gearnn.registry import runs
from gearnn.registry.description import BaseDescription
from gearnn.registry.logged import fill, identity_of, log_and_register
from gearnn.registry.names import (
    CHALLENGER,
    CHAMPION,
    TAG_BASE_FINGERPRINT,
    TAG_BASE_IDENTITY,
    TAG_BASE_URI,
    TAG_BOUND,
    TAG_DISTORTION,
    TAG_IDENTITY,
    TAG_KIND,
    TAG_LEVEL,
    TAG_MADE_FROM,
    TAG_NUM_VALUES,
    TAG_SHA256,
)
from gearnn.registry.once import register_once
from gearnn.registry.promoting import challenge
from gearnn.registry.versions import ADAPTOR_FILE, BASE_FILE, Version, aliased, get_version, set_alias


def register_base(
    name: str, weights: Path, base_fingerprint: str, description: BaseDescription, *, run_id: str, num_values: int
) -> Version:
    """Register a base; a base with the same weights and description is registered once.

    A name's first base is its champion. Another one stays challenger until :func:`promote_base`, because
    the adaptors in use belong to the champion.

    Args:
        name: of the registered model.
        weights: safetensors file.
        base_fingerprint: of these weights.
        description: how to build the network.
        run_id: the run it belongs to.
        num_values: size of the network in values.

    Raises:
        CheckpointError: the weights are not finite as float32.
    """
    identity = identity_of(base_fingerprint, json.dumps(description.to_json(), sort_keys=True))
    version = register_once(
        name,
        identity,
        lambda: _register_base(name, weights, base_fingerprint, description, run_id, num_values, identity),
    )
    champion = aliased(name, CHAMPION)
    if champion is None or champion.version != version.version:
        set_alias(name, CHAMPION if champion is None else CHALLENGER, version.version)
    return get_version(name, version.version)


def _register_base(
    name: str,
    weights: Path,
    base_fingerprint: str,
    description: BaseDescription,
    run_id: str,
    num_values: int,
    identity: str,
) -> Version:
    for tensor_name, tensor in read_checkpoint(weights).tensors.items():
        if why := unusable(tensor_name, tensor):
            raise CheckpointError(f"{name}: expected finite values that fit float32, but {tensor_name} has {why}")
    tags = {
        TAG_KIND: "base",
        TAG_BASE_FINGERPRINT: base_fingerprint,
        TAG_NUM_VALUES: str(num_values),
        TAG_IDENTITY: identity,
    }
    with tempfile.TemporaryDirectory() as folder:
        data = fill(Path(folder) / "base", {BASE_FILE: weights}, description.to_json())
        text = f"Base `{description.network}`, {num_values:,} values, fingerprint `{base_fingerprint}`."
        return log_and_register(name, "base", data, run_id, tags, text)


def register_adaptor(
    base: Version, path: Path, *, run_id: str, identity: str, tags: Mapping[str, str], card: str
) -> Version:
    """Register an adaptor as a new version of ``<base>.<slug>``, with lineage to the exact base version.

    The new version becomes ``challenger``; :func:`promote` decides about ``champion``.

    Args:
        base: the base's version.
        path: the adaptor's file.
        run_id: the level's run, which holds the metrics that decide.
        identity: sha256 of what it was made from; a known identity is not registered again.
        tags: further tags, such as digests of plan and data.
        card: scorecard in Markdown, for the description.

    Raises:
        AdaptorError: the file is damaged.
        RegistryError: the adaptor belongs to another base.
    """
    adaptor = Adaptor.load(path)
    name = f"{base.name}.{adaptor.level.slug}"
    if adaptor.base_fingerprint != base.tags[TAG_BASE_FINGERPRINT]:
        raise RegistryError(f"{name}: expected an adaptor of {base.uri}, but its header names another base")
    lineage = {
        TAG_KIND: "adaptor",
        TAG_LEVEL: str(adaptor.level),
        TAG_DISTORTION: adaptor.level.kind,
        TAG_BASE_URI: base.uri,
        TAG_BASE_FINGERPRINT: adaptor.base_fingerprint,
        TAG_BASE_IDENTITY: base.tags[TAG_IDENTITY],
        TAG_SHA256: hashlib.sha256(path.read_bytes()).hexdigest(),
        TAG_NUM_VALUES: str(adaptor.num_values),
        TAG_BOUND: str(adaptor.bound),
        TAG_IDENTITY: identity,
        **tags,
    }

    def register() -> Version:
        with tempfile.TemporaryDirectory() as folder:
            data = fill(Path(folder) / "adaptor", {ADAPTOR_FILE: path}, {"base_uri": base.uri})
            link = f"Adapts [{base.name} version {base.version}](#/models/{base.name}/versions/{base.version})."
            return log_and_register(name, "adaptor", data, run_id, lineage, f"{link}\n\n{card}", inputs=[base])

    version = register_once(name, identity, register)
    made_from = tags.get(TAG_MADE_FROM, "")
    if made_from and version.tags.get(TAG_MADE_FROM) != made_from:  # other ingredients, the same adaptor
        runs.client().set_model_version_tag(name, version.version, TAG_MADE_FROM, made_from)
    challenge(version)
    return version
