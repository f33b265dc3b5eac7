import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.camvid import open_camvid
from gearnn.datasets.inspect import contact_sheet, describe_level, describe_split, spread
from gearnn.datasets.streets import Streets
from gearnn.distortions import distort
from gearnn.levels import DistortionLevel


def samples(level: str) -> DistortedDataset:
    return DistortedDataset(Streets("train", 14, 0, Camera(size=(96, 64))), DistortionLevel.parse(level))


def test_a_split_is_counted_pixel_by_pixel(camvid: Path) -> None:
    data = open_camvid(camvid, "train", Camera())
    facts = describe_split(data)
    pixels = np.concatenate([data.target(index).reshape(-1) for index in range(len(data))])
    assert facts.num_frames == 3
    assert facts.sizes == {(48, 36): 3}
    for index, name in enumerate(data.class_names):
        assert facts.class_shares[name] == pytest.approx((pixels == index).mean() / (pixels != 11).mean())
    assert facts.void_share == pytest.approx((pixels == 11).mean())


def test_a_level_is_measured_against_the_undistorted_frames() -> None:
    data = samples("jpeg:quality=10")
    facts = describe_level(data, [0, 5])
    originals = [np.asarray(data.dataset.frame(i), float) for i in (0, 5)]
    errors = [
        np.square(np.asarray(distort(data.dataset.frame(i), data.level), float) - o).mean()
        for i, o in zip((0, 5), originals, strict=True)
    ]
    assert facts.psnr_db == pytest.approx(10 * math.log10(255**2 / np.mean(errors)))
    assert facts.bytes_per_frame == sum(len(data.encoded(i)) for i in (0, 5)) / 2
    assert facts.bits_per_pixel == pytest.approx(8 * facts.bytes_per_frame / (96 * 64))
    assert facts.sensed == "jpeg:quality=10"
    exact = describe_level(samples("pristine"), [0])
    assert (exact.psnr_db, exact.sensed) == (math.inf, "")
    assert (
        describe_level(samples("resolution:0.5+jpeg:quality=30"), [0]).sensed == "resolution compared + jpeg:quality=30"
    )
    assert describe_level(samples("jpeg:quality=30+brightness:factor=2"), [0]).sensed == (
        "jpeg must be given + brightness compared"
    )
    assert describe_level(samples("resolution:0.5"), [0]).size == (48, 32)


def test_the_contact_sheet_shows_twelve_frames_as_they_arrive() -> None:
    data = samples("resolution:0.5")
    sheet = contact_sheet(data, describe_level(data, [0]))
    assert sheet.width == 4 * 328 + 8
    cell = sheet.crop((8, 30, 8 + 320, 30 + 213))
    expected = data[0].image.resize((320, 213), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(cell), np.asarray(expected))
    assert len(spread(14, 12)) == 12
