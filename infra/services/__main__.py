"""``python -m infra.services start|stop|status``: the servers of a folder from the command line."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from infra import services
from infra.services import NAMES, Ports, ServiceError, Services


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 where a server does not run."""
    parser = argparse.ArgumentParser(prog="python -m infra.services", description=services.__doc__.splitlines()[0])
    parser.add_argument("command", choices=["start", "stop", "status"])
    parser.add_argument("--folder", type=Path, default=services.FOLDER, help="data, logs, passwords [%(default)s]")
    parser.add_argument("--port", action="append", default=[], metavar="NAME=NUMBER", help="start: prefect=4201, say")
    parser.add_argument("--remove", action="store_true", help="stop: delete the data and the passwords as well")
    options = parser.parse_args(arguments)
    try:
        return {"start": _start, "stop": _stop, "status": _status}[options.command](options)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1


def _start(options: argparse.Namespace) -> int:
    running = services.start(options.folder, ports=_ports(options), say=lambda line: print(line, flush=True))
    print()
    for name in NAMES:
        print(f"{running.servers[name].title:9}{running.servers[name].address}")
    print(f"\nsource {options.folder}/env    what clients need, passwords included")
    print(f"{options.folder}/state.json    all passwords; the user is {services.USER} everywhere")
    return 0


def _ports(options: argparse.Namespace) -> Ports | None:
    if not options.port:
        return None
    known = Services.of(options.folder)
    ports = asdict(known.state.ports if known else Ports())
    for text in options.port:
        name, _, number = text.partition("=")
        if name not in ports or not number.isdecimal():
            raise ServiceError(f"expected --port NAME=NUMBER with a name among {', '.join(ports)}, but got {text!r}")
        ports[name] = int(number)
    return Ports(**ports)


def _stop(options: argparse.Namespace) -> int:
    if Services.of(options.folder) is None:
        print(f"no servers were started in {options.folder}")
    (services.remove if options.remove else services.stop)(options.folder)
    return 0


def _status(options: argparse.Namespace) -> int:
    known = Services.of(options.folder)
    if known is None:
        print(f"no servers were started in {options.folder}; python -m infra.services start")
        return 1
    words = {name: _condition(known, name) for name in NAMES}
    for name, word in words.items():
        print(f"{known.servers[name].title:9}{word:16}{known.servers[name].address}")
    return 0 if set(words.values()) == {"running"} else 1


def _condition(known: Services, name: str) -> str:
    if not known.alive(name):
        return "not running"
    return "running" if known.answers(name) else "does not answer"


if __name__ == "__main__":
    sys.exit(main())
