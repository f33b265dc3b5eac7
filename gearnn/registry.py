"""The MLflow model registry: bases, and for every base and level a model with one version a retraining.

A base is the registered model ``<base>``, an adaptor ``<base>.<level slug>``. A version of an adaptor
names the exact version of its base in its tags, in its logged model's inputs, in the metadata of its
MLmodel file and in its description. Weights are safetensors; loading runs no pickled code, and no code that a
base names but from trusted packages.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gearnn import tracking
from gearnn import vocabulary as words
from gearnn.adaptor import Adaptor
from gearnn.description import DESCRIPTION_FILE, BaseDescription, open_description
from gearnn.errors import LevelError, RegistryError
from gearnn.gearbox import GearBox
from gearnn.layers import fingerprint
from gearnn.levels import DistortionLevel
from gearnn.problem import Problem, restore_problem

# Names inside a version, which its loader in gearnn/serving.py reads.
BASE_FILE, ADAPTOR_FILE = "base.safetensors", "adaptor.safetensors"
IMAGE_COLUMN = "image"
_REQUIREMENTS = ["gearnn", "torch", "safetensors", "pillow"]


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


# Registering


def register_base(
    name: str, weights: Path, base_fingerprint: str, description: BaseDescription, *, run_id: str, num_values: int
) -> Version:
    """Register a base; a base with the same weights and description is registered once.

    Args:
        name: of the registered model.
        weights: safetensors file.
        base_fingerprint: of these weights.
        description: how to build the network.
        run_id: the run it belongs to.
        num_values: size of the network in values.
    """
    identity = _identity(base_fingerprint, json.dumps(description.to_json(), sort_keys=True))
    version = find(name, identity) or _register_base(
        name, weights, base_fingerprint, description, run_id, num_values, identity
    )
    _set_alias(name, words.CHAMPION, version.version)  # the base that a plan names is the one in use
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
    tags = {
        words.TAG_KIND: "base",
        words.TAG_BASE_FINGERPRINT: base_fingerprint,
        words.TAG_NUM_VALUES: str(num_values),
        words.TAG_IDENTITY: identity,
    }
    with tempfile.TemporaryDirectory() as folder:
        data = _fill(Path(folder) / "base", {BASE_FILE: weights}, description.to_json())
        text = f"Base `{description.network}`, {num_values:,} values, fingerprint `{base_fingerprint}`."
        return _log_and_register(name, "base", data, run_id, tags, text)


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
    if adaptor.base_fingerprint != base.tags[words.TAG_BASE_FINGERPRINT]:
        raise RegistryError(f"{name}: expected an adaptor of {base.uri}, but its header names another base")
    known = find(name, identity)
    if known is not None:
        return known
    lineage = {
        words.TAG_KIND: "adaptor",
        words.TAG_LEVEL: str(adaptor.level),
        words.TAG_DISTORTION: adaptor.level.kind,
        words.TAG_BASE_URI: base.uri,
        words.TAG_BASE_FINGERPRINT: adaptor.base_fingerprint,
        words.TAG_BASE_IDENTITY: base.tags[words.TAG_IDENTITY],
        words.TAG_SHA256: hashlib.sha256(path.read_bytes()).hexdigest(),
        words.TAG_NUM_VALUES: str(adaptor.num_values),
        words.TAG_BOUND: str(adaptor.bound),
        words.TAG_IDENTITY: identity,
        **tags,
    }
    with tempfile.TemporaryDirectory() as folder:
        data = _fill(Path(folder) / "adaptor", {ADAPTOR_FILE: path}, {"base_uri": base.uri})
        link = f"Adapts [{base.name} version {base.version}](#/models/{base.name}/versions/{base.version})."
        version = _log_and_register(name, "adaptor", data, run_id, lineage, f"{link}\n\n{card}", base=base)
    _set_alias(name, words.CHALLENGER, version.version)
    return version


def promote(version: Version, metric: str) -> Version:
    """Make a version ``champion`` if there is none yet, or if it is better than the present one.

    Scores are compared only between adaptors of the same base on the same frames: a champion of another
    base, or one that was scored on other frames, gives way to the candidate.

    Args:
        version: the candidate.
        metric: name of the deciding metric on the versions' runs; larger is better.

    Returns:
        The version that is champion now.
    """
    try:
        champion = by_alias(version.name, words.CHAMPION)
    except RegistryError:
        champion = None
    if champion is not None and (champion.version == version.version or _keeps_its_place(champion, version, metric)):
        return champion
    _set_alias(version.name, words.CHAMPION, version.version)
    return get_version(version.name, version.version)


# Finding


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
    known = [v for v in ours if not _unknown_level(v)]
    known.sort(key=lambda v: (_base_of(v)[0], DistortionLevel.parse(v.tags[words.TAG_LEVEL]), -int(v.version)))
    return known + [v for v in ours if _unknown_level(v)]


def metrics(version: Version) -> dict[str, float]:
    """Metrics of the run that a version belongs to."""
    return dict(tracking.client().get_run(version.run_id).data.metrics)


# Loading


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
    found = by_alias(name, words.CHAMPION) if version is None else get_version(name, version)
    folder = _download(found)
    description = open_description(folder, trust)
    model = description.build(folder / BASE_FILE)
    expected = found.tags[words.TAG_BASE_FINGERPRINT]
    if fingerprint(model) != expected:
        raise RegistryError(f"registry: {found.uri} is damaged, its weights do not have fingerprint {expected[:16]}...")
    return model, restore_problem(description.problem), found


def load_adaptor(version: Version) -> Adaptor:
    """The adaptor of a version.

    Raises:
        RegistryError: its bytes are not those that were registered.
        AdaptorError: the file is damaged.
    """
    path = _download(version) / ADAPTOR_FILE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != version.tags[words.TAG_SHA256]:
        raise RegistryError(f"registry: {version.uri} is damaged, its file does not have the registered sha256")
    return Adaptor.load(path)


def load_gearbox(
    base: str,
    distortion: str | None,
    alias: str,
    problem: Problem | None = None,
    device: torch.device | None = None,
    trust: Collection[str] = (),
) -> GearBox:
    """See :meth:`gearnn.gearbox.GearBox.from_registry`; the base goes to the device before its gears are made."""
    model, registered_problem, version = load_base(base, trust=trust)
    found = adaptors(base, distortion)
    unknown = {v.name: reason for v in found if (reason := _unknown_level(v))}
    for name, reason in unknown.items():
        logging.getLogger("gearnn").warning("%s is left out: %s", name, reason)
    names = sorted({v.name for v in found} - unknown.keys())
    if not names:
        kind = "any distortion" if distortion is None else distortion
        raise RegistryError(f"registry: {base} has no adaptor for {kind} at {tracking.tracking_uri()}")
    chosen = [by_alias(name, alias) for name in names]
    for adaptor in chosen:
        if not _is_of(adaptor, version):
            raise RegistryError(
                f"registry: {adaptor.uri} ({alias}) adapts {adaptor.tags[words.TAG_BASE_URI]}, not {version.uri}; "
                f"run `gearnn adapt` for the present base"
            )
    return GearBox(model.to(device), [load_adaptor(v) for v in chosen], problem or registered_problem)


# Means


def _log_and_register(
    name: str, kind: str, data: Path, run_id: str, tags: Mapping[str, str], text: str, *, base: Version | None = None
) -> Version:
    """Log a folder as a pyfunc of a run, and register it."""
    client = tracking.client()
    import mlflow
    from mlflow.entities import LoggedModelInput
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    with mlflow.start_run(run_id=run_id):  # log_model takes the run from this thread's active run
        if base is not None:
            client.log_inputs(run_id, models=[LoggedModelInput(model_id=base.tags[words.TAG_LOGGED_MODEL])])
        info = mlflow.pyfunc.log_model(
            name=kind,
            loader_module="gearnn.serving",
            data_path=str(data),
            metadata=dict(tags),
            pip_requirements=_REQUIREMENTS,
            signature=ModelSignature(inputs=Schema([ColSpec(DataType.binary, IMAGE_COLUMN)])),
        )
    client.set_logged_model_tags(info.model_id, dict(tags))
    _ensure_registered_model(name)
    created = client.create_model_version(
        name,
        source=info.model_uri,
        run_id=run_id,
        tags={**tags, words.TAG_LOGGED_MODEL: info.model_id},
        description=text,
        model_id=info.model_id,
    )
    return get_version(name, str(created.version))


def _ensure_registered_model(name: str) -> None:
    client = tracking.client()
    from mlflow.exceptions import MlflowException

    if not client.search_registered_models(f"name = '{name}'"):
        try:
            client.create_registered_model(name)
        except MlflowException:  # another process was first
            client.get_registered_model(name)


def _fill(folder: Path, files: Mapping[str, Path], description: Mapping[str, Any]) -> Path:
    folder.mkdir()
    for name, source in files.items():
        (folder / name).write_bytes(source.read_bytes())
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1, sort_keys=True))
    return folder


def _download(version: Version) -> Path:
    """Folder with the files of a version."""
    tracking.client()
    import mlflow

    local = Path(mlflow.artifacts.download_artifacts(version.uri))
    folder = next((path.parent for path in sorted(local.rglob(DESCRIPTION_FILE))), None)
    if folder is None:
        raise RegistryError(f"registry: expected {version.uri} to hold {DESCRIPTION_FILE}, but it does not")
    return folder


def _identity(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _keeps_its_place(champion: Version, candidate: Version, metric: str) -> bool:
    """Whether a champion is comparable with the candidate and at least as good."""
    ours, theirs = champion.tags, candidate.tags
    if any(ours.get(t) != theirs.get(t) for t in (words.TAG_BASE_FINGERPRINT, words.TAG_PROMOTE_DATA)):
        return False
    if words.TAG_BASE_IDENTITY in ours and ours[words.TAG_BASE_IDENTITY] != theirs.get(words.TAG_BASE_IDENTITY):
        return False
    held, offered = metrics(champion).get(metric), metrics(candidate).get(metric)
    return held is not None and (offered is None or not offered > held)


def _is_of(adaptor: Version, base: Version) -> bool:
    """Whether an adaptor was made for a base with these weights and, where it says so, with these arguments."""
    same = adaptor.tags[words.TAG_BASE_FINGERPRINT] == base.tags[words.TAG_BASE_FINGERPRINT]
    identity = adaptor.tags.get(words.TAG_BASE_IDENTITY)
    return same and identity in (None, base.tags.get(words.TAG_IDENTITY))


def _set_alias(name: str, alias: str, version: str) -> None:
    tracking.client().set_registered_model_alias(name, alias, version)


def _unknown_level(version: Version) -> str:
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
