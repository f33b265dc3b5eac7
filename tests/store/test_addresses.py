from pathlib import Path

import pytest

from gearnn.errors import StreamError
from gearnn.store.addresses import check_reachable, file_at, joined, scheme_of, shown


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("http://ann:secret@host:5000/x", "http://host:5000/x"),
        ("rtsp://ann:se/cr?et#@host/x", "rtsp://host/x"),
        ("http://ann:s3:cr@et@host/x", "http://host/x"),
        ("http://ann@host/x", "http://host/x"),
        ("'http://a:b@host:1/' and rtsp://c:d@e/: refused", "'http://host:1/' and rtsp://e/: refused"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://host:80/a@2x.png http://host/a@b", "http://host:80/a@2x.png http://host/a@b"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_addresses_are_shown_without_their_passwords(text: str, plain: str) -> None:
    assert shown(text) == plain


@pytest.mark.parametrize("name", ["2024-01-01T12:30:00.mp4", "cam1:front.mp4", "C:/a.mp4", "file:a", "a/http://b", ""])
def test_a_name_with_a_colon_is_no_address(name: str) -> None:
    assert scheme_of(name) == ""


@pytest.mark.parametrize("address", ["http://h/a", "https://h:1/a%20b", "http://user:word@h/a?b=c"])
def test_a_manifest_may_name_http_wherever_it_is(tmp_path: Path, address: str) -> None:
    check_reachable(address, "https://host/m.mpd")
    check_reachable(address, (tmp_path / "m.mpd").as_uri())


def test_a_manifest_in_a_file_may_name_files_below_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a folder: 100%"
    folder.mkdir()
    manifest = (folder / "m.mpd").as_uri()
    for path in (folder / "video.mp4", folder / "low" / "12:30.m4s", folder / "a%20b.ts"):
        check_reachable(path.as_uri(), manifest)
        assert file_at(path.as_uri()) == path
    (tmp_path / "precious").write_text("precious")
    (folder / "link.mp4").symlink_to(tmp_path / "precious")
    outside = [tmp_path / "precious", Path("/etc/passwd"), Path("/dev/zero"), folder / "link.mp4", folder]
    encoded = [f"{folder.as_uri()}/..%2Fprecious", f"{folder.as_uri()}/low/../../precious", f"{folder.as_uri()}/a%00b"]
    for address in [path.as_uri() for path in outside] + encoded:
        with pytest.raises(StreamError, match=r"expected (the name of a file inside of its folder|an address without)"):
            check_reachable(address, manifest)


FILES = ["file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "file://host/a", "pipe:0", "concat:a|b", "a"]
ODD = ["ftp://h/a", "data:,a", "http:///a", "http://h:port/a", "http://[::1/a", "http://h/\x01", "gopher://h/", ""]


@pytest.mark.parametrize("address", [*FILES, *ODD])
def test_a_manifest_from_the_network_may_name_http_only(address: str) -> None:
    with pytest.raises(StreamError, match=r"expected a(n address| manifest that names http:// and https://, but it)"):
        check_reachable(address, "http://host/m.mpd")


def test_files_of_other_machines_are_refused(tmp_path: Path) -> None:
    assert file_at("file://localhost/a") == Path("/a")
    for address in ("file://host/share", "file://"):
        with pytest.raises(StreamError, match="expected file:///PATH of this machine"):
            file_at(address)


def test_what_is_no_address_is_one_line() -> None:
    assert joined("http://h/a/m.mpd", "../b") == "http://h/b"
    with pytest.raises(StreamError, match=r"'a' at 'http://\[::1': expected an address, but got: Invalid IPv6"):
        joined("http://[::1", "a")
