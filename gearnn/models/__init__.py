"""The networks that GearNN can build, and how checkpoints are read into them."""

from gearnn.models.checkpoint import Checkpoint, read_checkpoint, read_metadata, save_checkpoint
from gearnn.models.load import build_model, load_model, model_names, problem_of_model, start_from

__all__ = [
    "Checkpoint",
    "build_model",
    "load_model",
    "model_names",
    "problem_of_model",
    "read_checkpoint",
    "read_metadata",
    "save_checkpoint",
    "start_from",
]
