"""A dataset as one distortion level sees it.

Every frame is distorted once, whole, before any resize, crop or flip of training, and the bytes that
a device would have sent (for JPEG the JPEG itself) are kept in a folder, keyed by content. Two
processes may fill the folder at once: a file appears whole or not at all. A file's name ends with a digest
of its bytes, so that one that was altered since is noticed and made anew.
"""

import hashlib
import logging
from pathlib import Path

from gearnn.datasets.frames import FrameDataset, Sample
from gearnn.distortions import codec_version, decode, encode_clip, sees_clips, suffix_of
from gearnn.levels import DistortionLevel
from gearnn.store.files import written_whole

_DIGITS = 32
"""Of a file's sha256 in its name."""


class DistortedDataset:
    """Frames of a split at one level, with their truth.

    Args:
        dataset: the undistorted frames.
        level: what happens to them.
        cache: folder for the encoded frames; shared by all levels and datasets. None keeps nothing.
    """

    def __init__(self, dataset: FrameDataset, level: DistortionLevel, cache: Path | None = None) -> None:
        self.dataset = dataset
        self.level = level
        self._folder = None if cache is None else cache / level.slug
        self._version = codec_version(level)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image = decode(self.encoded(index))
        return Sample(image=image, target=self.dataset.target(index), name=self.dataset.name(index))

    def encoded(self, index: int) -> bytes:
        """The bytes that a device at this level sends for a frame; from the cache where it has them unaltered."""
        key = self._key(index)
        known = self._found(key)
        data = None if known is None else self._unaltered(known, key)
        if data is not None:
            return data
        data = self.encode(index)
        path = self.path_for(index, data)
        if path is not None:
            with written_whole(path) as file:
                file.write(data)
        if known is not None:
            logging.getLogger("gearnn").warning(
                "frame %s: %s was altered, and is made anew", self.dataset.name(index), known
            )
            if known != path:
                known.unlink(missing_ok=True)
        return data

    def encode(self, index: int) -> bytes:
        """The same, encoded anew."""
        frames = self.dataset.clip(index) if sees_clips(self.level) else [self.dataset.frame(index)]
        return encode_clip(frames, self.level)

    def path(self, index: int) -> Path | None:
        """The file in which the cache has a frame; None where it has none."""
        return self._found(self._key(index))

    def path_for(self, index: int, data: bytes) -> Path | None:
        """Where the cache keeps these bytes of a frame; None without a cache."""
        if self._folder is None:
            return None
        key = self._key(index)
        return self._folder / key[:2] / f"{key}-{_digest(key, data)}{suffix_of(self.level)}"

    def _key(self, index: int) -> str:
        """sha256 of all that determines a frame's bytes; nothing without a cache."""
        if self._folder is None:
            return ""
        content = f"{self.dataset.frame_digest(index)} {self.level} {self._version}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _found(self, key: str) -> Path | None:
        if self._folder is None:
            return None
        return min((self._folder / key[:2]).glob(f"{key}-*"), default=None)

    def _unaltered(self, path: Path, key: str) -> bytes | None:
        """The bytes of a cached file, if they are those that were written."""
        try:
            data = path.read_bytes()
        except OSError:  # another process cleared the cache, or the disk cannot read it
            return None
        return data if path.name == f"{key}-{_digest(key, data)}{suffix_of(self.level)}" else None


def _digest(key: str, data: bytes) -> str:
    """Of a frame's bytes together with which frame they are of."""
    return hashlib.sha256(key.encode() + data).hexdigest()[:_DIGITS]
