"""What GearNN is called: its version, which plans and checks name, and its packages."""

__version__ = "0.1.0"

OWN_PACKAGES = "gearnn", "tasks", "flows"
"""What is installed under this name; no module of a user's can have one of these names."""
