"""The command ``gearnn``: one file a group of commands."""

from flows.cli.app import main

__all__ = ["main"]
