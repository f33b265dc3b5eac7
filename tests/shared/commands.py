"""The command ``gearnn`` in this process."""

from typer.testing import CliRunner, Result

from flows.cli import app as cli


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
