"""Street scenes that the project renders itself from a seed: data for the demo and the tests, free of any licence.

A scene holds sky, buildings with windows, a road with markings, pavements with a kerb, trees, cars,
people, poles and signs. Surfaces carry textures of several spatial frequencies (grain, tiles, bricks,
foliage), and several of them differ in little else, so that a network learns to rely on what
compression takes away. Light varies in strength, colour and direction. Classes and instances are
known for every pixel.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from gearnn.datasets.frames import Camera

CLASS_NAMES = ("sky", "building", "road", "pavement", "tree", "car", "person", "pole", "sign")
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, POLE, SIGN = range(9)
SIZE = (192, 128)
RENDERER_VERSION = 1
"""Part of every frame's digest: a change of the rendering makes all cached frames and results stale."""

_Points = Sequence[tuple[float, float]]


class Scene(NamedTuple):
    """One rendered scene; H x W pixels.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        classes: uint8 [H, W], indices into ``CLASS_NAMES``.
        instances: uint8 [H, W], 0 for background, then 1, 2, ... for each car and person.
    """

    image: np.ndarray
    classes: np.ndarray
    instances: np.ndarray


class Streets:
    """A split of rendered street scenes.

    Args:
        split: name of the split; scenes of different splits never coincide.
        num_frames: scenes in it.
        seed: of the whole dataset.
        camera: scales frames and truth from ``SIZE``.
    """

    class_names: tuple[str, ...] = CLASS_NAMES
    ignore_index: int | None = None

    def __init__(self, split: str, num_frames: int, seed: int, camera: Camera) -> None:
        self.split, self.num_frames, self.seed, self.camera = split, num_frames, seed, camera

    def __len__(self) -> int:
        return self.num_frames

    def sequence(self, index: int) -> str:
        """Its own name: every scene is another one."""
        return self.name(index)

    def name(self, index: int) -> str:
        return f"{self.split}-{index:05d}"

    def frame(self, index: int) -> Image.Image:
        return self.camera.frame(Image.fromarray(self.scene(index).image))

    def size(self, index: int) -> tuple[int, int]:
        return self.camera.size or SIZE

    def clip(self, index: int) -> list[Image.Image]:
        return [self.frame(index)]

    def target(self, index: int) -> np.ndarray:
        """Classes of the pixels, uint8 [H, W]."""
        return self._label(self.scene(index).classes)

    def instances(self, index: int) -> np.ndarray:
        """Instance of every pixel, uint8 [H, W]; 0 for background."""
        return self._label(self.scene(index).instances)

    def scene(self, index: int) -> Scene:
        """The scene as it was rendered, at ``SIZE``."""
        return render(self.seed, self.split, index)

    def frame_digest(self, index: int) -> str:
        facts = f"streets {RENDERER_VERSION} {self.seed} {self.split} {index} {SIZE} {self.camera}"
        return hashlib.sha256(facts.encode()).hexdigest()

    def digest(self) -> str:
        frames = "".join(self.frame_digest(index) for index in range(len(self)))
        return hashlib.sha256(frames.encode()).hexdigest()

    def _label(self, mask: np.ndarray) -> np.ndarray:
        return np.array(self.camera.label(Image.fromarray(mask)))


@lru_cache(maxsize=4096)  # 74 KB a scene at most 300 MB; a training epoch asks for every scene again
def render(seed: int, split: str, index: int) -> Scene:
    """Render one scene; equal arguments give equal pixels."""
    digest = hashlib.sha256(f"{seed} {split} {index}".encode()).digest()
    return _Painter(np.random.default_rng(int.from_bytes(digest[:8], "big"))).paint()


class _Painter:
    """Paints a scene from back to front."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.width, self.height = SIZE
        self.pixels = np.zeros((self.height, self.width, 3), dtype=np.float32)
        self.classes = np.zeros((self.height, self.width), dtype=np.uint8)
        self.instances = np.zeros((self.height, self.width), dtype=np.uint8)
        self.horizon = self.height * rng.uniform(0.36, 0.5)
        self.rows, self.columns = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)

    def paint(self) -> Scene:
        self._sky()
        self._buildings()
        self._ground()
        for depth in np.sort(self.rng.uniform(0.0, 1.0, self.rng.integers(9, 15))):
            self._object(float(depth))
        lit = self._light(self.pixels)
        noisy = lit + self.rng.normal(0.0, self.rng.uniform(1.0, 3.0), lit.shape)
        return Scene(np.clip(noisy, 0, 255).astype(np.uint8), self.classes, self.instances)

    # Surfaces

    def _sky(self) -> None:
        top, low = np.array([110, 150, 205]), np.array([200, 210, 220])
        grade = (self.rows / max(self.horizon, 1))[..., None].clip(0, 1)
        clouds = self._noise(24)[..., None] * self.rng.uniform(5, 25)
        self.pixels[:] = top * (1 - grade) + low * grade + clouds
        self.classes[:] = SKY

    def _buildings(self) -> None:
        left = -self.rng.uniform(0, 20)
        while left < self.width:
            right = left + self.rng.uniform(18, 55)
            top = self.horizon - self.rng.uniform(8, self.height * 0.42)
            if self.rng.random() < 0.85:
                self._building(left, top, right)
            left = right + (self.rng.uniform(2, 10) if self.rng.random() < 0.3 else 0)

    def _building(self, left: float, top: float, right: float) -> None:
        bottom = self.horizon + 6
        wall = self._grey(95, 165, spread=18)
        bricks = np.where((self.rows % 3 < 1) | ((self.columns + 2 * (self.rows // 3 % 2)) % 5 < 1), -16.0, 5.0)
        self._fill(self._box(left, top, right, bottom), BUILDING, wall, bricks + 4 * self._grain())
        pane = self._grey(45, 90, spread=12) if self.rng.random() < 0.7 else np.array([205.0, 195.0, 140.0])
        step_x, step_y = self.rng.uniform(6, 10), self.rng.uniform(7, 11)
        for x in np.arange(left + 3, right - 4, step_x):
            for y in np.arange(top + 4, bottom - 8, step_y):
                window = self._box(x, y, x + step_x * 0.5, y + step_y * 0.5)
                self._fill(window, BUILDING, pane, 3 * self._grain())

    def _ground(self) -> None:
        tiles = np.where((self.rows % 4 < 1) | (self.columns % 6 < 1), -14.0, 4.0)
        ground = self._box(0, self.horizon, self.width, self.height)
        stone = self._grey(108, 150, spread=5)
        self._fill(ground, PAVEMENT, stone, tiles + 3 * self._grain())
        centre = self.width * self.rng.uniform(0.35, 0.65)
        near, far = self.width * self.rng.uniform(0.38, 0.62), self.rng.uniform(4, 14)
        kerb = self._wedge(centre, far * 1.25, near * 1.07)
        self._fill(kerb, PAVEMENT, stone + 24, 3 * self._grain())
        asphalt = stone + self.rng.uniform(-22, 2)
        self._fill(self._wedge(centre, far, near), ROAD, asphalt, 11 * self._grain() + 5 * self._noise(10))
        self._markings(centre)

    def _wedge(self, centre: float, far: float, near: float) -> np.ndarray:
        """A strip of the ground in perspective, half-width ``far`` at the horizon and ``near`` in front."""
        top, bottom = self.horizon, self.height + 1
        return self._shape([(centre - far, top), (centre + far, top), (centre + near, bottom), (centre - near, bottom)])

    def _markings(self, centre: float) -> None:
        for start in np.arange(0.1, 1.0, 0.22):
            y0, y1 = (self.horizon + (self.height - self.horizon) * t for t in (start, start + 0.1))
            half = 0.3 + 2.0 * start
            mark = self._shape(
                [(centre - half, y0), (centre + half, y0), (centre + half * 1.2, y1), (centre - half, y1)]
            )
            self._fill(mark & (self.classes == ROAD), ROAD, np.array([205.0, 205.0, 200.0]), 5 * self._grain())

    # Objects, larger the nearer they are: depth runs from 0 at the horizon to 1 in front

    def _object(self, depth: float) -> None:
        foot = self.horizon + 3 + (self.height - self.horizon - 6) * depth**1.4
        scale = 0.25 + 0.75 * depth
        x = self.rng.uniform(0, self.width)
        kinds = (self._tree, self._car, self._person, self._pole)
        kinds[self.rng.choice(4, p=[0.25, 0.3, 0.27, 0.18])](x, foot, scale)

    def _tree(self, x: float, foot: float, scale: float) -> None:
        height, crown = 58 * scale, 17 * scale
        bark = np.array([88.0, 70.0, 55.0]) + self.rng.uniform(-12, 12)
        self._fill(
            self._box(x - 2.2 * scale, foot - height * 0.6, x + 2.2 * scale, foot), TREE, bark, 9 * self._grain()
        )
        leaf = np.array([70.0, 100.0, 58.0]) + self.rng.uniform(-20, 25)
        foliage = 16 * self._noise(3) + 14 * self._grain()
        for _ in range(4):
            dx, dy = self.rng.normal(0, crown * 0.5, 2)
            blob = self._disc(x + dx, foot - height * 0.75 + dy * 0.7, crown, crown * 0.85)
            self._fill(blob, TREE, leaf, foliage)

    def _car(self, x: float, foot: float, scale: float) -> None:
        width, height = 46 * scale, 17 * scale
        paint = self.rng.uniform(40, 205, 3) if self.rng.random() < 0.6 else self._grey(60, 190, spread=6)
        left, right, roof = x - width / 2, x + width / 2, foot - height
        body = self._box(left, foot - height * 0.62, right, foot - height * 0.12)
        cabin = self._shape(
            [(left + width * 0.2, foot - height * 0.6), (left + width * 0.32, roof), (right - width * 0.3, roof),
             (right - width * 0.12, foot - height * 0.6)]
        )  # fmt: skip
        wheels = self._disc(left + width * 0.22, foot - height * 0.14, height * 0.2, height * 0.2)
        wheels |= self._disc(right - width * 0.22, foot - height * 0.14, height * 0.2, height * 0.2)
        self._instance(body | cabin | wheels)
        shine = -8.0 * (self.rows - foot) / max(height, 1)
        self._fill(body | cabin, CAR, paint, shine + 2 * self._grain())
        glass = self._box(left + width * 0.34, roof + height * 0.08, right - width * 0.32, foot - height * 0.62)
        self._fill(glass & cabin, CAR, self._grey(40, 80, spread=8), 3 * self._grain())
        self._fill(wheels, CAR, self._grey(22, 40, spread=3), 3 * self._grain())

    def _person(self, x: float, foot: float, scale: float) -> None:
        height = 31 * scale
        coat, legs = self.rng.uniform(30, 200, 3), self._grey(30, 100, spread=20)
        skin = np.array([205.0, 165.0, 135.0]) * self.rng.uniform(0.45, 1.1)
        head = self._disc(x, foot - height * 0.9, height * 0.085, height * 0.1)
        trunk = self._disc(x, foot - height * 0.62, height * 0.15, height * 0.24)
        leg = self._box(x - height * 0.12, foot - height * 0.45, x - height * 0.02, foot)
        leg |= self._box(x + height * 0.03, foot - height * 0.45, x + height * 0.13, foot)
        self._instance(head | trunk | leg)
        self._fill(leg, PERSON, legs, 4 * self._grain())
        self._fill(trunk, PERSON, coat, np.where(self.columns % 3 < 1, -10.0, 3.0))
        self._fill(head, PERSON, skin, 3 * self._grain())

    def _pole(self, x: float, foot: float, scale: float) -> None:
        height, half = 52 * scale, max(0.7, 1.3 * scale)
        metal = self._grey(85, 145, spread=6)
        self._fill(self._box(x - half, foot - height, x + half, foot), POLE, metal, 4 * self._grain())
        if self.rng.random() < 0.7:
            size = 7.5 * scale
            y = foot - height + size * 0.6
            disc = self.rng.random() < 0.5
            face = self._disc(x, y, size, size) if disc else self._box(x - size, y - size, x + size, y + size)
            colours = np.array([[200, 50, 45], [50, 85, 180], [215, 185, 60]], dtype=np.float32)
            stripes = np.where((self.rows + self.columns) % 4 < 2, -22.0, 16.0)
            self._fill(face, SIGN, colours[self.rng.integers(3)] + self.rng.uniform(-15, 15), stripes)

    # Means

    def _fill(self, mask: np.ndarray, label: int, colour: np.ndarray, texture: np.ndarray) -> None:
        self.pixels[mask] = colour.astype(np.float32) + texture[mask][:, None]
        self.classes[mask] = label
        if label not in (CAR, PERSON):
            self.instances[mask] = 0

    def _instance(self, mask: np.ndarray) -> None:
        self.instances[mask] = self.instances.max() + 1

    def _light(self, pixels: np.ndarray) -> np.ndarray:
        warmth = self.rng.uniform(-0.06, 0.06)
        colour = np.array([1 + warmth, 1.0, 1 - warmth]) * self.rng.uniform(0.75, 1.15)
        slope = self.rng.uniform(-0.2, 0.2)
        side: np.ndarray = 1 + slope * (self.columns / self.width - 0.5)[..., None]
        lit: np.ndarray = pixels * colour * side
        return lit

    def _grey(self, low: float, high: float, *, spread: float) -> np.ndarray:
        return self.rng.uniform(low, high) + self.rng.uniform(-spread, spread, 3)

    def _grain(self) -> np.ndarray:
        """White noise with unit spread, [H, W]."""
        return self.rng.standard_normal((self.height, self.width), dtype=np.float32)

    def _noise(self, period: int) -> np.ndarray:
        """Smooth noise with features of about ``period`` pixels and unit spread, [H, W]."""
        coarse = self.rng.standard_normal((self.height // period + 2, self.width // period + 2), dtype=np.float32)
        return np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC))

    def _box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        rows, columns = self.rows + 0.5, self.columns + 0.5
        inside: np.ndarray = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
        return inside

    def _disc(self, x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
        inside: np.ndarray = ((self.columns - x) / radius_x) ** 2 + ((self.rows - y) / radius_y) ** 2 <= 1
        return inside

    def _shape(self, points: _Points) -> np.ndarray:
        mask = Image.new("L", SIZE)
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=1)
        return np.asarray(mask, dtype=bool)
