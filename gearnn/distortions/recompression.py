"""JPEGs that were saved before: the quality of the first save, from the DCT coefficients of the last.

The tables in the header are those of the last save. A coarser save before it leaves its mark on the
coefficients: they lie at multiples of the first step, so their histogram has gaps with that period
(Lukas and Fridrich 2003; Popescu and Farid 2004). For every quality the likelihood of those gaps is
compared with that of a smooth histogram, as Fan and de Queiroz (2003) do for pictures whose file is gone.

It cannot see a first save that was finer than the last, one whose 8x8 grid lies elsewhere (after a
crop, a turn or a change of size), or one by other means than JPEG.
"""

import math
from functools import cache, lru_cache

import numpy as np

from gearnn.distortions.stills import open_image
from gearnn.errors import GearNNError

_BLOCKS = 2048  # looked at, evenly spread
_FREQUENCIES = 15  # the lowest, without the mean of a block: four diagonals and a bit; higher ones are mostly zero
_LARGEST = 160  # multiples of the last step that are counted
_NOISE = 0.6  # standard deviation of a coefficient between two saves: pixels are rounded, colours converted twice
_OUTLIERS = 0.15  # share of coefficients that may lie anywhere, because pixels were clipped between the saves
_WHOLE = 64  # of so many blocks without black and white pixels the others are left out
_KEYS = 4099 ** np.arange(_FREQUENCIES, dtype=np.int64)  # equal blocks, as of drawn pictures, say a thing once
_EVIDENCE, _EVIDENCE_EACH = 100.0, 0.03  # in nats: of all coefficients, and of each that is not zero

Table = tuple[int, ...]


def first_quality(data: bytes, table: Table, tables: tuple[Table, ...]) -> int | None:
    """The quality of a coarser first save, where the coefficients show one.

    Args:
        data: a JPEG file.
        table: its luma table, 64 steps in the file's zigzag order.
        tables: those of the qualities 1, 2, ... that a first save may have had.

    Returns:
        The quality; None where there was no such save, or it left no mark, or the file cannot be decoded.
    """
    luma = _luma(data)
    if luma is None or min(luma.shape) < 8:
        return None
    counts = _histograms(luma, np.array(table[1 : _FREQUENCIES + 1]))
    evidence = _evidence(counts, table[1 : _FREQUENCIES + 1], tables)
    best = int(evidence.argmax())
    needed = max(_EVIDENCE, _EVIDENCE_EACH * float(counts.sum()))
    return best + 1 if evidence[best] >= needed else None


def _luma(data: bytes) -> np.ndarray | None:
    """The luma as it is stored, uint8 [H, W], without chroma and whatever EXIF says of the orientation."""
    try:
        image = open_image(data)
        if image.mode not in ("L", "RGB"):
            return None
        image.draft("L", image.size)
        image.load()
    except (GearNNError, OSError, ValueError, SyntaxError):
        return None  # damaged behind the header; whoever needs the pixels says so
    return np.asarray(image) if image.mode == "L" else None


def _histograms(luma: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How often the multiples 1, 2, ... of its step stand at each frequency, either sign; int64 [F, K], 0 at 0."""
    rows, columns = luma.shape[0] // 8, luma.shape[1] // 8
    blocks = luma[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2)
    chosen = np.linspace(0, rows * columns - 1, min(rows * columns, _BLOCKS)).astype(np.intp)
    pixels = blocks[chosen // columns, chosen % columns].reshape(-1, 64)
    whole = (pixels.min(axis=1) > 0) & (pixels.max(axis=1) < 255)
    if whole.sum() >= _WHOLE:
        pixels = pixels[whole]
    multiples = np.rint(pixels.astype(np.float32) @ _basis() / steps).astype(np.int64)
    _, different = np.unique(multiples @ _KEYS, return_index=True)
    multiples = np.abs(multiples[different])
    multiples[multiples > _LARGEST] = 0
    offsets = np.arange(_FREQUENCIES) * (_LARGEST + 1)
    counts = np.bincount((multiples + offsets).ravel(), minlength=_FREQUENCIES * (_LARGEST + 1))
    counts = counts.reshape(_FREQUENCIES, -1)
    counts[:, 0] = 0
    return counts


def _evidence(counts: np.ndarray, steps: Table, tables: tuple[Table, ...]) -> np.ndarray:
    """Log likelihood ratio of every first quality against none, in nats, float64 [Q].

    Each first step q1 cuts the multiples k of the last step into cells around its own multiples. A save
    at q1 leaves a cell's coefficients at its middle; without one they fall off geometrically within it.
    """
    at = counts.nonzero()
    chance, before, width = (array[at] for array in _cells(steps, tables))  # [N, Q]
    total, weighted = counts.sum(axis=1), counts @ np.arange(_LARGEST + 1)
    decay = np.clip(1.0 - total / np.maximum(weighted, 1), 0.05, 0.999)[:, None]
    powers, rows = decay ** np.arange(_LARGEST + 2), at[0][:, None]
    share = powers[rows, before] * (1.0 - decay[at[0]]) / (1.0 - powers[rows, width])
    ratio = np.log((1.0 - _OUTLIERS) * chance / share + _OUTLIERS)
    first = np.array([table[1 : _FREQUENCIES + 1] for table in tables]).T
    coarser = first > np.array(steps)[:, None]
    found: np.ndarray = counts[at] @ (ratio * coarser[at[0]])
    return found


@lru_cache(maxsize=16)  # of 2 MB; the frames of a stream have the same tables
def _cells(steps: Table, tables: tuple[Table, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every frequency, multiple k of the last step and first quality, [F, K, Q]: the chance that what
    the first save left in k's cell stands at k after the last one, float32; how far behind the start of
    its cell k is, and how many multiples the cell has, int16.
    """
    first = np.array([table[1 : _FREQUENCIES + 1] for table in tables], dtype=np.float64).T[:, None, :]
    last = np.array(steps, dtype=np.float64)[:, None, None]
    multiples = np.arange(_LARGEST + 1)[None, :, None]
    middle = np.rint(multiples * last / first)
    offset = multiples * last - middle * first
    chance = _normal((offset + last / 2) / _NOISE) - _normal((offset - last / 2) / _NOISE)
    new = np.diff(middle, axis=1, prepend=-1.0) > 0
    start = np.maximum.accumulate(np.where(new, multiples, 0), axis=1)
    ends = np.where(np.roll(new, -1, axis=1), multiples + 1, _LARGEST + 1)
    ends[:, -1] = _LARGEST + 1
    end = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return chance.astype(np.float32), (multiples - start).astype(np.int16), (end - start).astype(np.int16)


def _normal(x: np.ndarray) -> np.ndarray:
    """The cumulative normal distribution, from a table: steps of 0.001, so within 0.0004."""
    grid, values = _normal_table()
    found: np.ndarray = np.interp(x, grid, values)
    return found


@cache
def _normal_table() -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(-6.0, 6.0, 12_001)
    return grid, np.array([0.5 * (1.0 + math.erf(x / math.sqrt(2.0))) for x in grid])


@cache
def _basis() -> np.ndarray:
    """The DCT of the lowest frequencies, float32 [64, F], in zigzag order without the mean."""
    sides = np.arange(8)
    cosines = 0.5 * np.cos((2 * sides[None] + 1) * sides[:, None] * math.pi / 16)
    cosines[0] /= math.sqrt(2.0)
    diagonals = sorted(
        ((down, across) for down in range(8) for across in range(8)),
        key=lambda at: (sum(at), at[1] if sum(at) % 2 == 0 else at[0]),
    )
    columns = [np.outer(cosines[down], cosines[across]).ravel() for down, across in diagonals[1 : _FREQUENCIES + 1]]
    return np.stack(columns, axis=1).astype(np.float32)
