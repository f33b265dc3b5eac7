"""The networks that GearNN can build by name, and how checkpoints are read into them."""

from gearnn.models.load import Checkpoint, load_model, model_names, read_checkpoint, save_checkpoint

__all__ = ["Checkpoint", "load_model", "model_names", "read_checkpoint", "save_checkpoint"]
