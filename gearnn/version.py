"""The version of GearNN, which plans and checks name."""

__version__ = "0.1.0"
