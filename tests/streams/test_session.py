from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gearnn.datasets import Camera, DistortedDataset
from gearnn.datasets.frames import Sample
from gearnn.datasets.streets import Scene, Streets
from gearnn.distortions import Received, encode, encode_clip
from gearnn.distortions.video import decode_clip
from gearnn.errors import DataError
from gearnn.evaluate import evaluate
from gearnn.gearbox import GearBox
from gearnn.gears.choice import Policy, Steady
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.metrics import SegmentationScore
from gearnn.problems.segmentation import SemanticSegmentation
from gearnn.streams import FrameRecord, Segment, Session, Truth, open_source, play
from gearnn.streams.dash import Presentation, Representation
from gearnn.streams.presentation import write_presentation
from gearnn.streams.session import Shown
from gearnn.streams.throttle import throttled
from tests.shared.adaptors import make_adaptor
from tests.shared.scenes import pan


def stills(*qualities: int) -> list[Segment]:
    """A frame a segment, the scene moving on with every one."""
    return [
        Segment(name=f"{i:05d}", start=i / 10, received=Received(encode(frame, f"jpeg:quality={quality}")))
        for i, (frame, quality) in enumerate(zip(pan(len(qualities)), qualities, strict=True))
    ]


def ran(session: Session, segments: Sequence[Segment]) -> tuple[list[FrameRecord], list[Shown]]:
    records, shown = zip(*session.run(segments), strict=True)
    return list(records), [s for s in shown if s is not None]


def test_gears_shift_at_segment_boundaries_and_shifts_are_counted(gearbox: GearBox) -> None:
    session = Session(gearbox)
    records, shown = ran(session, stills(8, 12, 33, 95, 100, 11))
    assert [r.sensed for r in records] == [f"jpeg:quality={q}" for q in (8, 12, 33, 95, 100, 11)]
    used = ["jpeg:quality=10", "jpeg:quality=10", "jpeg:quality=30", "pristine", "pristine", "jpeg:quality=10"]
    assert [r.used for r in records] == used
    assert [r.distance for r in records] == [2.0, 2.0, 3.0, 5.0, 0.0, 1.0]
    assert (session.tally.shifts, session.tally.frames, session.tally.segments) == (3, 6, 6)  # 95 and 100: one gear
    assert session.tally.frames_of == {"jpeg:quality=10": 3, "jpeg:quality=30": 1, "pristine": 2}
    assert session.tally.scores == {}
    for segment, level, answer in zip(stills(8, 12, 33, 95, 100, 11), used, shown, strict=True):
        assert segment.received is not None
        expected = gearbox.infer([segment.received.data], level=level, trust_level=True)[0].prediction
        assert torch.equal(answer.prediction, expected)
        assert np.array_equal(np.asarray(answer.image), np.asarray(segment.received.image))


def test_every_frame_of_a_clip_runs_with_the_gear_of_its_segment(gearbox: GearBox) -> None:
    clips = [encode_clip(pan(3), f"h264:crf={crf}") for crf in (34, 21)]
    segments = [Segment(name=f"c{i}", start=2.0 * i, received=Received(clip)) for i, clip in enumerate(clips)]
    records, shown = ran(Session(gearbox), segments)
    assert [(r.segment, r.frame, r.time) for r in records] == [
        ("c0", 0, 0.0), ("c0", 1, 0.04), ("c0", 2, 0.08), ("c1", 0, 2.0), ("c1", 1, 2.04), ("c1", 2, 2.08)
    ]  # fmt: skip
    assert [r.used for r in records] == ["h264:crf=36"] * 3 + ["h264:crf=20"] * 3
    frames = [(frame, level) for clip, level in zip(clips, ("h264:crf=36", "h264:crf=20"), strict=True)
              for frame in decode_clip(clip)]  # fmt: skip
    for (frame, level), answer in zip(frames, shown, strict=True):
        expected = gearbox.predict([Sample(image=frame, target=None, name="")], [DistortionLevel.parse(level)])[0]
        assert torch.equal(answer.prediction, expected)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: replace(s, received=Received(b"no image")), "expected an encoded image, but 8 bytes"),
        (lambda s: replace(s, received=Received(b"")), "expected an encoded image, but 0 bytes"),
        (lambda s: replace(s, received=Received(s.received.data[:600])), "expected an encoded image, but 600 bytes"),
        (lambda s: replace(s, received=Received(encode_clip(pan(4), "h264:crf=30")[:-200])), "expected a whole video"),
        (lambda s: replace(s, received=None, lost="the server answers 404"), "the server answers 404"),
        (lambda s: replace(s, received=Received(encode(pan(1)[0], "pristine"))), "give the level instead"),
    ],
)
def test_a_segment_that_cannot_be_used_is_skipped_and_changes_nothing_for_the_others(
    gearbox: GearBox, spoil: Callable[[Segment], Segment], reason: str
) -> None:
    segments = stills(10, 30, 10, 30)
    _, expected = ran(Session(gearbox), segments)
    segments[1] = spoil(segments[1])
    session = Session(gearbox)
    records, shown = ran(session, segments)
    assert [r.segment for r in records] == ["00000", "00001", "00002", "00003"]
    assert reason in records[1].skipped
    assert (records[1].frame, records[1].used, records[1].score, records[1].time) == (None, None, None, 0.1)
    assert [r.skipped for i, r in enumerate(records) if i != 1] == [""] * 3
    tally = session.tally
    assert (tally.segments, tally.skipped_segments, tally.frames, tally.skipped_frames, tally.shifts) == (4, 1, 3, 0, 1)
    assert all(
        torch.equal(a.prediction, b.prediction) for a, b in zip(shown, [expected[0], *expected[2:]], strict=True)
    )


def test_a_frame_that_the_network_cannot_take_is_skipped_and_the_next_runs(
    tiny: nn.Module, problem: SemanticSegmentation
) -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[-1] < 32:
                raise RuntimeError("too small\nfor me")
            answer: torch.Tensor = self.inner(x)
            return answer

    picky = Picky().eval()
    gearbox = GearBox(picky, [make_adaptor(picky, "jpeg:quality=10", ["inner.bn"])], problem)
    small = Segment(name="s", start=0.0, received=Received(encode(pan(1, (24, 16))[0], "jpeg:quality=10")))
    session = Session(gearbox)
    records, _ = ran(session, [small, *stills(10)])
    assert records[0].skipped == "the network cannot take a frame of 24x16: too small for me"
    assert (records[0].frame, records[0].used, records[1].skipped) == (0, "jpeg:quality=10", "")
    assert (session.tally.skipped_frames, session.tally.frames, session.tally.skipped_segments) == (1, 1, 0)


def test_a_policy_decides_off_the_map(gearbox: GearBox) -> None:
    limit = {"jpeg": 5.0}
    nearest, _ = ran(Session(gearbox, policy=Policy(max_distance=limit)), stills(20, 12))
    assert [(r.used, r.off_map != "") for r in nearest] == [("jpeg:quality=10", True), ("jpeg:quality=10", False)]
    base, _ = ran(Session(gearbox, policy=Policy(off_map="base", max_distance=limit)), stills(20, 12))
    assert [(r.used, r.off_map) for r in base] == [
        ("pristine", "10 away from jpeg:quality=10, more than 5"),
        ("jpeg:quality=10", ""),
    ]
    session = Session(gearbox, policy=Policy(off_map="error", max_distance=limit))
    refused, _ = ran(session, stills(20, 12))
    assert "jpeg:quality=20 is 10 away from jpeg:quality=10" in refused[0].skipped
    assert (refused[1].used, session.tally.skipped_segments) == ("jpeg:quality=10", 1)


def test_hysteresis_keeps_a_gear_while_the_level_jitters(gearbox: GearBox) -> None:
    qualities = (19, 21, 19, 21, 29, 10, 21, 21, 21)
    plain, steady = Session(gearbox), Session(gearbox, steady=Steady(patience=3))
    assert [r.used and r.used[-2:] for r in ran(plain, stills(*qualities))[0]] == (
        ["10", "30", "10", "30", "30", "10", "30", "30", "30"]
    )
    held, _ = ran(steady, stills(*qualities))
    assert [r.used and r.used[-2:] for r in held] == ["10", "10", "10", "10", "30", "10", "10", "10", "30"]
    assert [r.distance for r in held] == [9.0, 11.0, 9.0, 11.0, 1.0, 0.0, 11.0, 11.0, 9.0]
    assert (plain.tally.shifts, steady.tally.shifts) == (5, 3)


def test_only_every_nth_frame_of_a_segment_runs(gearbox: GearBox) -> None:
    clip = Received(encode_clip(pan(5), "h264:crf=20"))
    segments = [Segment(name="a", start=0.0, received=clip), Segment(name="b", start=1.0, received=clip)]
    session = Session(gearbox, every=3)
    records, _ = ran(session, segments)
    assert [(r.segment, r.frame, r.time) for r in records] == [
        ("a", 0, 0.0),
        ("a", 3, 0.12),
        ("b", 0, 1.0),
        ("b", 3, 1.12),
    ]
    assert (session.tally.frames, len(session.tally.latencies_ms)) == (4, 4)
    with pytest.raises(DataError, match="every: expected at least 1, but got 0"):
        Session(gearbox, every=0)


def test_a_record_becomes_json(gearbox: GearBox) -> None:
    record = ran(Session(gearbox), stills(12))[0][0].to_json()
    assert {k: record[k] for k in ("time", "segment", "frame", "sensed", "used", "distance", "score", "skipped")} == {
        "time": 0.0, "segment": "00000", "frame": 0, "sensed": "jpeg:quality=12", "used": "jpeg:quality=10",
        "distance": 2.0, "score": None, "skipped": "",
    }  # fmt: skip
    assert FrameRecord(time=1 / 3, segment="a").to_json()["time"] == 0.3333
    assert FrameRecord(time=0.0, segment="a", distance=float("inf")).to_json()["distance"] is None  # between kinds


# Truth

SCENES = Streets("val", 6, 2, Camera(size=(48, 32)))


def scenes_at(folder: Path, level: str) -> list[Segment]:
    """The scenes at one level, with their truth in ``folder``."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for index in range(len(SCENES)):
        Image.fromarray(SCENES.target(index)).save(folder / "masks" / f"{index:05d}.png")
    return [
        Segment(name=f"{i:05d}", start=float(i), received=Received(encode(SCENES.frame(i), level)))
        for i in range(len(SCENES))
    ]


@pytest.mark.parametrize(
    ("level", "used"),
    [("jpeg:quality=12", "jpeg:quality=10"), ("h264:crf=33", "h264:crf=36"), ("jpeg:quality=97", "pristine")],
)
def test_a_session_scores_as_an_evaluation_of_the_same_frames(
    gearbox: GearBox, problem: SemanticSegmentation, fp32: Compute, tmp_path: Path, level: str, used: str
) -> None:
    session = Session(gearbox, truth=Truth(tmp_path, problem) if scenes_at(tmp_path, level) else None)
    records, shown = ran(session, scenes_at(tmp_path, level))
    offline = evaluate(
        gearbox.model(used), DistortedDataset(SCENES, DistortionLevel.parse(level)), problem, batch_size=3, compute=fp32
    )
    assert list(session.tally.scores) == [used]
    assert session.tally.scores[used].figures == offline.figures
    assert session.tally.scores[used].per_class == offline.per_class
    for index, (record, answer) in enumerate(zip(records, shown, strict=True)):
        alone = SegmentationScore(9)
        alone.update(answer.prediction, torch.from_numpy(SCENES.target(index)))
        assert record.score == alone.miou


def test_frames_without_truth_run_and_count_in_no_score(
    gearbox: GearBox, problem: SemanticSegmentation, tmp_path: Path
) -> None:
    segments = scenes_at(tmp_path, "jpeg:quality=10")
    (tmp_path / "masks" / "00001.png").unlink()
    (tmp_path / "masks" / "00002.png").rename(tmp_path / "masks" / "00002-0.png")  # the other way to name it
    session = Session(gearbox, truth=Truth(tmp_path, problem))
    records, _ = ran(session, segments)
    assert [r.score is None for r in records] == [False, True, False, False, False, False]
    score = session.tally.scores["jpeg:quality=10"]
    assert isinstance(score, SegmentationScore)
    assert (len(score.frames), session.tally.frames) == (5, 6)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.full((32, 48), 9, np.uint8), "00001.png: expected classes 0 to 8, but got 9"),
        (np.full((32, 48), 255, np.uint8), "00001.png: expected classes 0 to 8, but got 255"),
        (np.full((32, 48), 700, np.uint16), "00001.png: expected classes 0 to 8, but got 700"),
        (
            np.zeros((32, 40), np.uint8),
            "expected a mask at least as large as its frame, 48x32, but got 40x32",
        ),
        (np.zeros((32, 48, 3), np.uint8), "00001.png: expected a mask of one channel, but got RGB"),
        (b"no mask", "00001.png: expected a mask: cannot identify image file"),
        (b"", "00001.png: expected a mask: cannot identify image file"),
    ],
)
def test_truth_that_is_wrong_skips_its_frame_with_the_reason(
    gearbox: GearBox, problem: SemanticSegmentation, tmp_path: Path, mask: np.ndarray | bytes, reason: str
) -> None:
    segments = scenes_at(tmp_path, "jpeg:quality=10")
    path = tmp_path / "masks" / "00001.png"
    path.write_bytes(mask) if isinstance(mask, bytes) else Image.fromarray(mask).save(path)
    session = Session(gearbox, truth=Truth(tmp_path, problem))
    records, _ = ran(session, segments)
    assert reason in records[1].skipped
    assert [r.score is None for r in records] == [False, True, False, False, False, False]
    assert (session.tally.skipped_frames, session.tally.frames, session.tally.skipped_segments) == (1, 5, 0)
    score = session.tally.scores["jpeg:quality=10"]
    assert isinstance(score, SegmentationScore)
    assert len(score.frames) == 5


def test_void_pixels_are_no_wrong_class_and_take_no_part(tiny: nn.Module, tmp_path: Path) -> None:
    problem = SemanticSegmentation(num_classes=9, ignore_index=255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    gearbox = GearBox(tiny, [make_adaptor(tiny, "jpeg:quality=10", ["bn"])], problem)
    segments = scenes_at(tmp_path, "jpeg:quality=10")[:2]
    half = SCENES.target(0).copy()
    half[:, 20:] = 255
    Image.fromarray(half).save(tmp_path / "masks" / "00000.png")
    Image.fromarray(np.full((32, 48), 255, np.uint8)).save(tmp_path / "masks" / "00001.png")
    records, shown = ran(Session(gearbox, truth=Truth(tmp_path, problem)), segments)
    alone = SegmentationScore(9)
    alone.update(shown[0].prediction[:, :20], torch.from_numpy(half[:, :20]))
    assert records[0].score == alone.miou
    assert (records[1].score, records[1].skipped) == (None, "")  # nothing to score is no score of NaN


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Frames as small as these gain nothing by several threads, and lose where a machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_thousand_segments_each_of_another_level_score_as_offline(
    tiny: nn.Module, problem: SemanticSegmentation, fp32: Compute, tmp_path: Path
) -> None:
    texts = ["jpeg:quality=10", "jpeg:quality=30", "jpeg:quality=60", "jpeg:quality=100"]
    layers = (["bn"], ["head"], ["bn", "head"], ["conv"])
    levels = [DistortionLevel.parse(text) for text in texts]
    gearbox = GearBox(tiny, [make_adaptor(tiny, t, names) for t, names in zip(texts, layers, strict=True)][:3], problem)
    scenes = _Repeated(Streets("val", 40, 4, Camera(size=(24, 16))), 1000)
    written = write_presentation(scenes, levels, tmp_path, frame_rate=Fraction(25))
    order = _changing(texts, 1000)
    assert all(a != b for a, b in pairwise(order))
    script = iter(order)

    def choose(having: Sequence[Representation], throughputs: Sequence[float]) -> Representation:
        wanted = DistortionLevel.parse(next(script)).slug
        return next(r for r in having if r.id == wanted)

    session = Session(gearbox, truth=Truth(tmp_path / "truth", problem))
    with throttled(tmp_path, [(0.0, 1e6)]) as address:
        records = [r for r, _ in session.run(play(Presentation.open(f"{address}/{written.manifest.name}"), choose))]
    assert (len(records), session.tally.skipped_segments, session.tally.skipped_frames) == (1000, 0, 0)
    assert session.tally.shifts == 999
    assert [r.sensed for r in records] == order
    used = ["pristine" if text == texts[3] else text for text in order]
    assert [r.used for r in records] == used
    assert session.tally.frames_of == Counter(used)
    for level, text in zip(levels, texts, strict=True):
        frames = [i for i in range(1000) if order[i] == text]
        offline = evaluate(gearbox.model(text), _Some(DistortedDataset(scenes, level), frames), problem, compute=fp32)
        score = session.tally.scores["pristine" if text == texts[3] else text]
        assert isinstance(score, SegmentationScore)
        assert isinstance(offline, SegmentationScore)
        assert np.array_equal(score.frames, offline.frames)
        assert score.figures == offline.figures


def _changing(texts: Sequence[str], number: int) -> list[str]:
    """Levels by chance, each another one than that before it."""
    rng, order = np.random.default_rng(0), [texts[0]]
    while len(order) < number:
        order.append(texts[(texts.index(order[-1]) + int(rng.integers(1, len(texts)))) % len(texts)])
    return order


class _Repeated(Streets):
    """A few scenes over and over, because rendering is what takes time."""

    def __init__(self, scenes: Streets, number: int) -> None:
        super().__init__(scenes.split, number, scenes.seed, scenes.camera)
        self.distinct = len(scenes)

    def scene(self, index: int) -> Scene:
        return super().scene(index % self.distinct)


class _Some:
    def __init__(self, samples: DistortedDataset, indices: list[int]) -> None:
        self.samples, self.indices = samples, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[self.indices[index]]


def test_a_source_runs_to_its_end_from_a_folder(gearbox: GearBox, tmp_path: Path) -> None:
    for name, level in (("1.jpg", "jpeg:quality=10"), ("2.h264", "h264:crf=36"), ("3.jpg", "jpeg:quality=30")):
        (tmp_path / name).write_bytes(encode(pan(1)[0], level))
    session = Session(gearbox)
    records, _ = ran(session, list(open_source(str(tmp_path))))
    assert [r.used for r in records] == ["jpeg:quality=10", "h264:crf=36", "jpeg:quality=30"]
    assert session.tally.shifts == 2
