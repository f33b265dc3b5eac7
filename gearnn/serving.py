"""Where MLflow looks for the loader of versions that were registered before it moved to the registry's room."""

from gearnn.registry.serving import _load_pyfunc

__all__ = ["_load_pyfunc"]
