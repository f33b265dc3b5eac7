"""Downloading datasets that may be downloaded; a broken download goes on from where it stopped."""

import hashlib
import lzma
import shutil
import tempfile
import textwrap
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from gearnn.datasets import pennfudan
from gearnn.errors import DataError
from gearnn.store.addresses import shown
from gearnn.store.files import digest_of_file, inside, telling_of_disks

ADVICE = {
    "camvid": "GearNN may not pass CamVid on; put the SegNet tutorial's folders (train, trainannot, val, valannot) "
    "anywhere, and name their parent in data.root",
    "cityscapes": "Cityscapes needs a login at cityscapes-dataset.com; unpack leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip (for sequences also leftImg8bit_sequence_trainvaltest.zip) into one folder, and name it "
    "in data.root",
    "streets": "streets are rendered by GearNN itself and need no files",
    "folder": "`folder` is for your own frames: <root>/<split>/images and <root>/<split>/masks",
}
_TRIES, _PAUSE_S, _TIMEOUT_S = 4, 1.0, 30
_CHUNK = 1 << 12  # small, because what a broken connection leaves of the last one is lost
_LARGEST_ARCHIVE = 1 << 30


def fetch_dataset(
    name: str,
    to: Path,
    *,
    url: str | None = None,
    archive: Path | None = None,
    on_bytes: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Bring a dataset into a folder and check it, file by file, against its published content.

    Args:
        name: ``pennfudan``; other names are answered with what to do instead.
        to: folder that will hold the dataset's own folder.
        url: where the archive is; None takes the authors' address.
        archive: an archive that was downloaded by hand, instead of downloading.
        on_bytes: called with (bytes here, bytes in all or None).

    Returns:
        The dataset's folder; nothing is downloaded where it is complete already.

    Raises:
        DataError: another name, no network, or content that is not the published one.
    """
    if name != "pennfudan":
        advice = ADVICE.get(name, f"expected pennfudan, or one of {', '.join(ADVICE)}")
        raise DataError(f"data fetch {name}: cannot be downloaded; {advice}")
    target = to / "PennFudanPed"
    if target.is_dir() and content_digest(target) == pennfudan.CONTENT_SHA256:
        return target
    if target.exists():
        raise DataError(f"data fetch: {target} exists, but its content is not the published one; move it away first")
    to.mkdir(parents=True, exist_ok=True)
    part = archive or to / "PennFudanPed.zip.part"
    if archive is None:
        _download(url or pennfudan.URL, part, on_bytes)
    elif not archive.is_file():
        raise DataError(f"data fetch: archive {archive}: no such file")
    _unpack(part, target, remove_if_wrong=archive is None)
    if archive is None:
        part.unlink()
    return target


def content_digest(root: Path) -> str:
    """sha256 over the names and contents of Penn-Fudan's frames and masks, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(path for name in pennfudan.folders("train") for path in (root / name).glob("*.png")):
        total.update(f"{path.relative_to(root).as_posix()} {digest_of_file(path)[0]}\n".encode())
    return total.hexdigest()


def _download(url: str, part: Path, on_bytes: Callable[[int, int | None], None] | None) -> None:
    import requests

    attempt = 1
    while True:
        have = part.stat().st_size if part.is_file() else 0
        try:
            _download_rest(url, part, on_bytes)
            return
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 500
            refused = isinstance(error, ValueError) or (status < 500 and status != requests.codes.too_many_requests)
            attempt = 1 if part.is_file() and part.stat().st_size > have else attempt + 1
            if attempt > _TRIES or refused:
                reason = textwrap.shorten(shown(f"{type(error).__name__}: {error}"), 160, placeholder=" ...")
                raise DataError(
                    f"data fetch: expected {shown(url)} to answer, but got: {reason}; without a network, download "
                    f"PennFudanPed.zip elsewhere and pass it with --archive; the same command goes on with a "
                    f"download that broke off"
                ) from error
        time.sleep(_PAUSE_S * 2 ** (attempt - 1))


def _download_rest(url: str, part: Path, on_bytes: Callable[[int, int | None], None] | None) -> None:
    """Append what is missing; a server that cannot resume starts anew."""
    import requests

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all bytes are here already; the check of the content decides
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with telling_of_disks(part), part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if on_bytes is not None:
                    on_bytes(have, total)
    if total is not None and have != total:
        raise requests.ConnectionError(f"the connection ended after {have} of {total} bytes")


def _unpack(archive: Path, target: Path, *, remove_if_wrong: bool) -> None:
    """Unpack beside the target and move it there once its content is the published one."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as folder:
        unpacked = Path(folder) / target.name
        with telling_of_disks(target):
            problem = _extract(archive, Path(folder)) or _difference(unpacked)
        if problem:
            if remove_if_wrong:
                archive.unlink()
            raise DataError(f"data fetch: {archive}: expected Penn-Fudan's archive, but {problem}; download it again")
        shutil.move(unpacked, target)


def _extract(archive: Path, folder: Path) -> str:
    """Unpack an archive; what is wrong with it, or nothing."""
    try:
        with zipfile.ZipFile(archive) as file:
            if sum(entry.file_size for entry in file.infolist()) > _LARGEST_ARCHIVE:
                return "it would unpack to more than 1 GiB"
            for entry in file.infolist():
                inside(folder, entry.filename.removesuffix("/"), "its list of files", DataError)
            file.extractall(folder)
    except (DataError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError) as error:
        return f"it cannot be unpacked: {error}"
    return ""


def _difference(root: Path) -> str:
    """How a folder differs from the published content, or nothing."""
    found = content_digest(root)
    if found == pennfudan.CONTENT_SHA256:
        return ""
    number = len(list((root / "PNGImages").glob("*.png")))
    return f"its {number} frames and their masks have sha256 {found[:16]}..., not {pennfudan.CONTENT_SHA256[:16]}..."
