import os
import threading
import urllib.error
import urllib.request
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera
from gearnn.datasets.instances import WithInstances
from gearnn.datasets.streets import Streets
from gearnn.distortions import Sensed, decode, encode, encode_clip, sense
from gearnn.distortions.video import decode_clip
from gearnn.errors import StreamError
from gearnn.levels import DistortionLevel
from gearnn.problems.classification import Classification
from gearnn.problems.instances import InstanceSegmentation
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.streams import Segment, Truth, open_source, throttle
from gearnn.streams.dash import Presentation
from gearnn.streams.presentation import write_presentation
from gearnn.streams.throttle import read_trace, throttled
from tests.shared.scenes import same_pixels

SCENES = Streets("val", 7, 0, Camera(size=(48, 32)))
JPEG = [DistortionLevel.parse(f"jpeg:quality={quality}") for quality in (80, 10)]
H264 = [DistortionLevel.parse(f"h264:crf={crf}") for crf in (20, 38)]


def played(manifest: Path, representation: str) -> list[Segment]:
    return list(open_source(str(manifest), choose=lambda having, _: next(r for r in having if r.id == representation)))


def test_a_presentation_of_images_reads_back_at_every_level(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    levels = [*JPEG, DistortionLevel()]
    written = write_presentation(
        SCENES,
        levels,
        tmp_path,
        frame_rate=Fraction(30000, 1001),
        on_segment=lambda done, all_: steps.append((done, all_)),
    )
    assert (written.segments, steps) == (7, [(i, 7) for i in range(1, 8)])
    (period,) = Presentation.open(str(written.manifest)).periods
    assert [r.id for r in period.representations] == ["jpeg-quality-10", "jpeg-quality-80", "pristine"]
    for level in levels:
        segments = played(written.manifest, level.slug)
        assert [s.name for s in segments] == [f"{i:05d}" for i in range(7)]
        assert [s.start for s in segments] == pytest.approx([i * 1001 / 30000 for i in range(7)])
        data = [s.received.data for s in segments if s.received is not None]
        assert data == [encode(SCENES.frame(i), level) for i in range(7)]
        if level.parts:
            assert {str(sense(d).level) for d in data} == {str(level)}
        needed = max(len(d) for d in data) * 8 * 30000 / 1001 / 1000
        assert written.bandwidths[level] == pytest.approx(needed)
        assert segments[0].bandwidth == pytest.approx(needed, abs=0.001)


def test_a_presentation_of_clips_reads_back_at_every_level_and_drops_what_is_left(tmp_path: Path) -> None:
    written = write_presentation(SCENES, H264, tmp_path, segment_frames=3, frame_rate=Fraction(10))
    assert written.segments == 2
    for level in H264:
        segments = played(written.manifest, level.slug)
        assert [(s.name, s.start) for s in segments] == [("00000", 0.0), ("00001", pytest.approx(0.3))]
        for number, segment in enumerate(segments):
            assert segment.received is not None
            expected = encode_clip([SCENES.frame(3 * number + k) for k in range(3)], level)
            assert same_pixels(segment.received.clip.frames, decode_clip(expected))
            assert [round(t, 6) for t in segment.received.clip.times] == [0.0, 0.1, 0.2]
    names = sorted(path.name for path in (tmp_path / "truth" / "masks").iterdir())
    assert names == [f"{number:05d}-{k}.png" for number in range(2) for k in range(3)]


@pytest.mark.parametrize("crf", [20, 27, 38])
@pytest.mark.parametrize("frames", [1, 3])
def test_the_level_of_a_segment_of_mpeg_ts_is_read_from_its_settings(tmp_path: Path, crf: int, frames: int) -> None:
    """The headers of its packets, of 188 bytes each, stand between the letters of the settings."""
    level = DistortionLevel.parse(f"h264:crf={crf}")
    written = write_presentation(SCENES, [level], tmp_path, segment_frames=frames)
    for segment in played(written.manifest, level.slug):
        assert segment.received is not None
        assert sense(segment.received.data) == Sensed(level, 0.0)


def test_levels_of_images_and_of_clips_stand_beside_each_other(tmp_path: Path) -> None:
    levels = [JPEG[1], H264[1], DistortionLevel.parse("resolution:scale=0.5+jpeg:quality=30")]
    written = write_presentation(SCENES, levels, tmp_path)
    for level in levels:
        frames = [s.received.image for s in played(written.manifest, level.slug) if s.received is not None]
        assert same_pixels(frames, [decode(encode(SCENES.frame(i), level)) for i in range(7)])


def test_levels_of_images_with_several_frames_a_segment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"jpeg:quality=80: expected segments of one frame, because its frames are"):
        write_presentation(SCENES, [H264[0], *JPEG], tmp_path, segment_frames=2)
    with pytest.raises(StreamError, match=r"pristine: expected segments of one frame"):
        write_presentation(SCENES, [DistortionLevel()], tmp_path, segment_frames=2)
    with pytest.raises(StreamError, match=r"expected at least 8 frames for one segment, but got 7"):
        write_presentation(SCENES, H264, tmp_path, segment_frames=8)


# Truth


def test_the_truth_of_a_presentation_is_that_of_its_frames(problem: SemanticSegmentation, tmp_path: Path) -> None:
    write_presentation(SCENES, H264[:1], tmp_path, segment_frames=3)
    truth = Truth(tmp_path / "truth", problem)
    for number in range(2):
        for k in range(3):
            assert np.array_equal(truth(f"{number:05d}", k, (48, 32)), SCENES.target(3 * number + k))
    assert truth("00002", 0, (48, 32)) is None
    assert truth("00000", 3, (48, 32)) is None


def test_instances_are_read_as_a_dataset_gives_them(tmp_path: Path) -> None:
    write_presentation(SCENES, JPEG[:1], tmp_path)
    truth, offline = Truth(tmp_path / "truth", InstanceSegmentation(num_classes=9)), WithInstances(SCENES)
    number_of_objects = 0
    for index in range(7):
        found, expected = truth(f"{index:05d}", 0, (48, 32)), offline.target(index)
        for name in ("masks", "labels", "boxes", "crowd"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
        number_of_objects += len(found.masks)
    assert number_of_objects > 7
    (tmp_path / "truth" / "instances" / "00001-0.png").unlink()
    with pytest.raises(StreamError, match=r"instances/00001-0.png: expected a mask: .*No such file"):
        truth("00001", 0, (48, 32))
    Image.new("L", (60, 32)).save(tmp_path / "truth" / "instances" / "00002-0.png")
    with pytest.raises(StreamError, match=r"expected the size of its mask, \[32, 48\], but got \[32, 60\]"):
        truth("00002", 0, (48, 32))


def test_a_frame_that_a_level_scaled_down_has_a_larger_mask(problem: SemanticSegmentation, tmp_path: Path) -> None:
    write_presentation(SCENES, JPEG[:1], tmp_path)
    truth = Truth(tmp_path / "truth", problem)
    assert truth("00000", 0, (24, 16)).shape == (32, 48)
    with pytest.raises(StreamError, match="expected a mask at least as large as its frame, 48x33, but got 48x32"):
        truth("00000", 0, (48, 33))


def test_more_classes_than_a_byte_holds_come_back(tmp_path: Path) -> None:
    class Many(Streets):
        def target(self, index: int) -> np.ndarray:
            return super().target(index).astype(np.int64) * 100

    scenes = Many("val", 2, 0, Camera(size=(48, 32)))
    write_presentation(scenes, JPEG[:1], tmp_path)
    problem = SemanticSegmentation(num_classes=900, ignore_index=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert scenes.target(1).max() > 255
    assert np.array_equal(Truth(tmp_path / "truth", problem)("00001", 0, (48, 32)), scenes.target(1))


def test_truth_that_is_not_there_is_told_at_once(problem: SemanticSegmentation, tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="expected a folder masks with the truth of frames, but there is none"):
        Truth(tmp_path, problem)
    (tmp_path / "masks").mkdir()
    with pytest.raises(StreamError, match="expected a folder instances with the truth of frames, but there is none"):
        Truth(tmp_path, InstanceSegmentation(num_classes=9))
    classification = Classification(num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(StreamError, match="expected a problem with masks as truth, but the base classifies whole"):
        Truth(tmp_path, classification)


# Bandwidth


class Clock:
    """A clock that moves while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throttle, "time", clock)
    return clock


def test_the_bandwidth_follows_the_trace_and_begins_anew_behind_its_end(clock: Clock) -> None:
    pace = throttle._Pace([(0.0, 800.0), (2.0, 80.0), (3.0, 8.0)])
    found = []
    for at in (0.0, 1.99, 2.0, 2.99, 3.0, 3.99, 4.0, 5.99, 6.0, 11.0):
        clock.now = 1000.0 + at
        found.append(pace.rate())
    assert found == [1e5, 1e5, 1e4, 1e4, 1e3, 1e3, 1e5, 1e5, 1e4, 1e3]  # bytes a second


def test_a_trace_of_one_line_holds_for_ever(clock: Clock) -> None:
    pace = throttle._Pace([(0.0, 8.0)])
    for at in (0.0, 1e6):
        clock.now = 1000.0 + at
        assert pace.rate() == 1000.0


def test_a_file_takes_as_long_as_the_bandwidth_allows(clock: Clock, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    (tmp_path / "file").write_bytes(data)
    with throttled(tmp_path, [(0.0, 80.0), (0.5, 8.0), (60.0, 8.0)]) as address:  # 10,000, then 1,000 bytes a second
        answer = urllib.request.urlopen(f"{address}/file")
        with answer:
            assert answer.read() == data
    slow = len(data) - 5000  # half a second of the faster part
    assert clock.now - 1000.0 == pytest.approx(0.5 + slow / 1000, abs=0.3)  # by the server's clock; slices are of 256


def test_only_files_below_the_folder_are_served(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    (folder / "low").mkdir(parents=True)
    (folder / "low" / "a").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    with throttled(folder, [(0.0, 1e6)]) as address:
        with urllib.request.urlopen(f"{address}/low/a") as answer:
            assert answer.read() == b"a"
        for name in ("link", "pipe", "../secret", "..%2Fsecret", "none"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{address}/{name}")


def test_answers_share_the_bandwidth(clock: Clock) -> None:
    pace = throttle._Pace([(0.0, 8.0)])
    rate = pace.rate()
    waits = []
    clock.sleep = waits.append  # type: ignore[method-assign]
    for _ in range(3):
        pace.wait(500, rate)
    assert waits == pytest.approx([0.5, 1.0, 1.5])
    clock.now += 10.0
    pace.wait(500, rate)
    assert waits[-1] == pytest.approx(0.5)  # what was not used is not saved up


def test_a_trace_is_read(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("# seconds,kbit/s\n0,500\n\n2.5,40.5\n")
    assert read_trace(tmp_path / "trace.csv") == [(0.0, 500.0), (2.5, 40.5)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected seconds that rise from 0"),
        ("1,500\n", "expected seconds that rise from 0"),
        ("0,500\n2,300\n2,100\n", "expected seconds that rise from 0"),
        ("0,500\n3,300\n2,100\n", "expected seconds that rise from 0"),
        ("0,0\n", "a bandwidth above 0 in every line"),
        ("0,-5\n", "a bandwidth above 0 in every line"),
        ("0,nan\n", "a bandwidth above 0 in every line"),
        ("0,inf\n", "a bandwidth above 0 in every line"),
        ("0,500\nnan,300\n", "expected seconds that rise from 0"),
        ("seconds,kbit/s\n0,500\n", "expected lines `seconds,kbit/s`: could not convert"),
        ("0\n", "expected lines `seconds,kbit/s`: list index"),
        ("0;500\n", "expected lines `seconds,kbit/s`: could not convert"),
    ],
)
def test_a_trace_that_is_none_is_a_clear_error(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(StreamError, match=rf"trace.csv: .*{reason}"):
        read_trace(tmp_path / "trace.csv")


def test_a_trace_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"none.csv: expected lines `seconds,kbit/s`: .*No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "zeros.csv").write_bytes(b"\xff\0\n")
    with pytest.raises(StreamError, match=r"zeros.csv: expected lines"):
        read_trace(tmp_path / "zeros.csv")
