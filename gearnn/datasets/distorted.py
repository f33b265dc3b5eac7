"""A dataset as one distortion level sees it.

Every frame is distorted once, whole, before any resize, crop or flip of training, and the bytes that
a device would have sent (for JPEG the JPEG itself) are kept in a folder, keyed by content. Two
processes may fill the folder at once: a file appears whole or not at all.
"""

import hashlib
from functools import cache
from pathlib import Path

from PIL import __version__ as pillow_version
from PIL import features

from gearnn.datasets.frames import FrameDataset, Sample
from gearnn.distortions import decode, encode, suffix_of
from gearnn.files import written_whole
from gearnn.levels import DistortionLevel


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

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image = decode(self.encoded(index))
        return Sample(image=image, target=self.dataset.target(index), name=self.dataset.name(index))

    def encoded(self, index: int) -> bytes:
        """The bytes that a device at this level sends for a frame; from the cache where it has them."""
        path = self._path(index)
        if path is not None and path.is_file():
            return path.read_bytes()
        data = encode(self.dataset.frame(index), self.level)
        if path is not None:
            with written_whole(path) as file:
                file.write(data)
        return data

    def _path(self, index: int) -> Path | None:
        if self._folder is None:
            return None
        content = f"{self.dataset.frame_digest(index)} {self.level} {_codec_version()}"
        key = hashlib.sha256(content.encode()).hexdigest()
        return self._folder / key[:2] / f"{key}{suffix_of(self.level)}"


@cache
def _codec_version() -> str:
    """What decides the bytes besides frame and level."""
    return f"pillow {pillow_version} jpeg {features.version('jpg')}"
