"""Frames in folders of classes: ``root/<split>/<class>/*``, PNG or JPEG, the truth being the folder's name."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gearnn.datasets.files import images_in
from gearnn.datasets.frames import Camera, FrameFiles
from gearnn.errors import DataError


class ClassFolders(FrameFiles):
    """Frames with one class each as truth."""

    truth = "class"

    def __init__(self, frames: Sequence[Path], classes: Sequence[int], class_names: tuple[str, ...], camera: Camera):
        super().__init__(frames, class_names=class_names, ignore_index=None, camera=camera)
        self._classes = list(classes)

    def name(self, index: int) -> str:
        path = self._frames[index]
        return f"{path.parent.name}/{path.stem}"

    def sequence(self, index: int) -> str:
        """Its own name: photographs of a class are numbered, too."""
        return self.name(index)

    def target(self, index: int) -> int:
        """Class of the frame, an index of ``class_names``."""
        return self._classes[index]

    def digest(self) -> str:
        total = hashlib.sha256(f"{self.class_names}".encode())
        for index, label in enumerate(self._classes):
            total.update(f"{self.name(index)} {self.frame_digest(index)} {label} ".encode())
        return total.hexdigest()


def folders(split: str) -> tuple[str, ...]:
    """Folders of the dataset that a split needs."""
    return (split,)


def open_class_folders(root: Path, split: str, camera: Camera, *, class_names: tuple[str, ...]) -> ClassFolders:
    """One split of a user's own frames, sorted by class.

    Args:
        root: folder of the splits.
        split: name of a folder in it, with a folder for every class that occurs.
        camera: scales frames.
        class_names: names of the folders, in the order of the classes' indices.

    Raises:
        DataError: the folder is missing or empty, or holds a class that is not listed.
    """
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"data class_folders: expected the folder {folder}, but it does not exist")
    unknown = sorted({path.name for path in folder.iterdir() if path.is_dir()} - set(class_names))
    if unknown:
        raise DataError(f"data class_folders: expected folders named as data.classes, but got {folder / unknown[0]}")
    frames: list[Path] = []
    classes: list[int] = []
    for label, name in enumerate(class_names):
        found = images_in(folder / name, dataset="class_folders") if (folder / name).is_dir() else []
        frames += found
        classes += [label] * len(found)
    counted = Counter(f"{frame.parent.name}/{frame.stem}" for frame in frames)
    twice = [name for name, number in counted.items() if number > 1]
    if twice:
        raise DataError(f"data class_folders: expected frames of different names, but got {twice[0]} twice")
    if not frames:
        raise DataError(f"data class_folders: expected a folder for each of {', '.join(class_names)} in {folder}")
    return ClassFolders(frames, classes, class_names, camera)
