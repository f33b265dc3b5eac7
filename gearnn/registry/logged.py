"""Folders as versions of registered models: how every kind of version gets into MLflow."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gearnn.errors import RegistryError
from gearnn.registry import runs
from gearnn.registry.description import DESCRIPTION_FILE
from gearnn.registry.names import FACT_FILES, TAG_LOGGED_MODEL
from gearnn.registry.versions import IMAGE_COLUMN, PARAMETERS, Version, get_version, insisting
from gearnn.store.files import digest_of_file, inside

_REQUIREMENTS = ["gearnn", "torch", "safetensors", "pillow"]


def log_and_register(
    name: str,
    kind: str,
    data: Path,
    run_id: str,
    tags: Mapping[str, str],
    text: str,
    *,
    inputs: Sequence[Version] = (),
) -> Version:
    """Log a folder as a pyfunc of a run, and register it.

    Args:
        name: of the registered model.
        kind: name of the logged model.
        data: the folder, which :mod:`gearnn.registry.serving` loads.
        run_id: the run that it belongs to.
        tags: of the version, the logged model and its metadata.
        text: description, Markdown.
        inputs: versions that it was made from, for lineage.
    """
    client = runs.client()
    import mlflow
    from mlflow.entities import LoggedModelInput
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    with mlflow.start_run(run_id=run_id):  # log_model takes the run from this thread's active run
        if inputs:
            models = [LoggedModelInput(v.tags[TAG_LOGGED_MODEL]) for v in inputs]
            insisting(lambda: client.log_inputs(run_id, models=models))
        info = mlflow.pyfunc.log_model(
            name=kind,
            loader_module="gearnn.registry.serving",
            data_path=str(data),
            metadata={**tags, FACT_FILES: digests_below(data)},
            pip_requirements=_REQUIREMENTS,
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.binary, IMAGE_COLUMN)]),
                params=ParamSchema([ParamSpec(n, DataType.string, default) for n, default in PARAMETERS.items()]),
            ),
        )
    client.set_logged_model_tags(info.model_id, dict(tags))
    _ensure_registered_model(name)

    def create() -> Version:
        version = client.create_model_version(
            name,
            source=info.model_uri,
            run_id=run_id,
            tags={**tags, TAG_LOGGED_MODEL: info.model_id},
            description=text,
            model_id=info.model_id,
        )
        return get_version(name, str(version.version))

    return insisting(create)


def _ensure_registered_model(name: str) -> None:
    client = runs.client()
    from mlflow.exceptions import MlflowException

    if not client.search_registered_models(f"name = '{name}'"):
        try:
            client.create_registered_model(name)
        except MlflowException:  # another process was first
            client.get_registered_model(name)


def fill(folder: Path, files: Mapping[str, Path], description: Mapping[str, Any]) -> Path:
    """Lay files and a description into a new folder; returns it."""
    folder.mkdir()
    for name, source in files.items():
        path = inside(folder, name, "registry", RegistryError)
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, path)
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1, sort_keys=True))
    return folder


def digests_below(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its path with slashes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_of_file(path)[0] for path in files}


def identity_of(*parts: str) -> str:
    """sha256 of what a version was made from."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
