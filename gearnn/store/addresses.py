"""Addresses of the network and of files: what is one, where it may lead, and how it is shown without its password."""

import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import url2pathname

from gearnn.errors import StreamError
from gearnn.store.files import inside

OVER_HTTP = ("http", "https")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRET = re.compile(
    r"(?<=://)"
    r"(?:[^/?#\s]*@"
    r"|[^/?#\s@:\[]+:(?!\d{1,5}(?:[/?#\s]|$))[^\s@]*@)"  # a password may hold the signs that end a host's name
)


def shown(text: str) -> str:
    """A text without the users and passwords of the addresses in it.

    >>> shown("http://ann:secret@host:5000/x cannot be fetched")
    'http://host:5000/x cannot be fetched'
    """
    return _SECRET.sub("", text)


def scheme_of(source: str) -> str:
    """The scheme of an address, in small letters; nothing for the name of a file, which may hold colons as well.

    >>> scheme_of("RTSP://camera/1"), scheme_of("2024-01-01T12:30:00.mp4"), scheme_of("C:/video.mp4")
    ('rtsp', '', '')
    """
    found = _ADDRESS.match(source)
    return found[1].lower() if found else ""


def file_at(address: str) -> Path:
    """The file that an address ``file://`` names.

    Raises:
        StreamError: it names another machine, or no file.
    """
    parts = _split(address)
    path = url2pathname(parts.path)
    if parts.netloc not in ("", "localhost") or not path:
        raise StreamError(f"{shown(address)!r}: expected file:///PATH of this machine")
    return Path(path)


def joined(base: str, name: str) -> str:
    """The address that a name is, seen from a base.

    Raises:
        StreamError: there is no such address.
    """
    try:
        return urljoin(base, name)
    except ValueError as error:
        raise StreamError(f"{shown(name)!r} at {shown(base)!r}: expected an address, but got: {error}") from error


def check_reachable(address: str, manifest: str) -> None:
    """Make sure that a manifest may lead to an address.

    One that came over HTTP may lead to HTTP only; one in a file also to files beside it and below.

    Args:
        address: that it names.
        manifest: its own address.

    Raises:
        StreamError: it may not; or the address is none.
    """
    parts, shown_address = _split(address), f"{shown(address)!r}"
    if parts.scheme in OVER_HTTP and parts.hostname:
        return
    if parts.scheme == "file" and scheme_of(manifest) == "file":
        folder, path = file_at(manifest).parent, file_at(address)
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
        inside(folder, name, f"{manifest}: {shown_address}", StreamError)
        return
    also = ", or files below its folder" if scheme_of(manifest) == "file" else ""
    raise StreamError(
        f"{shown(manifest)}: expected a manifest that names http:// and https://{also}, but it names {shown_address}"
    )


def _split(address: str) -> SplitResult:
    """The parts of an address; one that no library would take as it stands is refused."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 (whether it is a number is looked at only now)
    except ValueError as error:
        raise StreamError(f"{shown(address)!r}: expected an address, but got: {error}") from error
    if _CONTROL.search(unquote(address) if parts.scheme == "file" else address):
        raise StreamError(f"{shown(address)!r}: expected an address without control characters")
    return parts
