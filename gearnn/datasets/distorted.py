"""A dataset as one distortion level sees it.

Every frame is distorted once, whole, before any resize, crop or flip of training, and the bytes that
a device would have sent (for JPEG the JPEG itself) are kept in a folder, keyed by content. Two
processes may fill the folder at once: a file appears whole or not at all.
"""

import hashlib
from pathlib import Path

from gearnn.datasets.frames import FrameDataset, Sample
from gearnn.distortions import codec_version, decode, encode_clip, sees_clips, suffix_of
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
        self._version = codec_version(level)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image = decode(self.encoded(index))
        return Sample(image=image, target=self.dataset.target(index), name=self.dataset.name(index))

    def encoded(self, index: int) -> bytes:
        """The bytes that a device at this level sends for a frame; from the cache where it has them."""
        path = self.path(index)
        if path is not None and path.is_file():
            return path.read_bytes()
        data = self.encode(index)
        if path is not None:
            with written_whole(path) as file:
                file.write(data)
        return data

    def encode(self, index: int) -> bytes:
        """The same, encoded anew."""
        frames = self.dataset.clip(index) if sees_clips(self.level) else [self.dataset.frame(index)]
        return encode_clip(frames, self.level)

    def path(self, index: int) -> Path | None:
        """Where the cache keeps a frame, whether it is there yet or not; None without a cache."""
        if self._folder is None:
            return None
        content = f"{self.dataset.frame_digest(index)} {self.level} {self._version}"
        key = hashlib.sha256(content.encode()).hexdigest()
        return self._folder / key[:2] / f"{key}{suffix_of(self.level)}"
