import numpy as np

from gearnn.datasets import Camera
from gearnn.datasets.streets import CAR, CLASS_NAMES, PERSON, SIZE, Streets


def test_a_scene_depends_on_seed_split_and_index_only() -> None:
    streets = Streets("train", 2, 7, Camera())
    again = Streets("train", 5, 7, Camera())
    assert np.array_equal(streets.frame(1), again.frame(1))
    others = [Streets("train", 2, 8, Camera()).frame(1), Streets("val", 2, 7, Camera()).frame(1), streets.frame(0)]
    assert not any(np.array_equal(streets.frame(1), other) for other in others)
    assert streets.frame_digest(1) == again.frame_digest(1) != streets.frame_digest(0)


def test_every_class_occurs_and_frames_are_not_trivial() -> None:
    streets = Streets("train", 12, 0, Camera())
    seen = np.concatenate([np.unique(streets.target(index)) for index in range(len(streets))])
    assert set(seen) == set(range(len(CLASS_NAMES)))
    assert all(np.asarray(streets.frame(index)).std() > 20 for index in range(len(streets)))


def test_instances_are_cars_and_people_and_each_has_one_class() -> None:
    streets = Streets("train", 12, 0, Camera())
    count = 0
    for index in range(len(streets)):
        classes, instances = streets.target(index), streets.instances(index)
        assert np.array_equal(instances > 0, np.isin(classes, (CAR, PERSON)))
        for instance in np.unique(instances[instances > 0]):
            assert len(np.unique(classes[instances == instance])) == 1
            count += 1
    assert count > 24


def test_surfaces_carry_high_frequencies() -> None:
    grey = np.asarray(Streets("train", 1, 0, Camera()).frame(0).convert("L"), np.float64)
    spectrum = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    rows, columns = np.meshgrid(np.fft.fftfreq(SIZE[1]), np.fft.fftfreq(SIZE[0]), indexing="ij")
    share = spectrum[np.hypot(rows, columns) > 0.2].sum() / spectrum.sum()
    assert 0.01 < share < 0.5


def test_the_camera_scales_frame_and_truth() -> None:
    small = Streets("train", 1, 0, Camera(size=(96, 60)))
    assert small.frame(0).size == (96, 60)
    assert small.target(0).shape == small.instances(0).shape == (60, 96)
