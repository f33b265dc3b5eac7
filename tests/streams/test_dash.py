import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from gearnn.distortions import decode, encode, encode_clip
from gearnn.distortions.video import decode_clip
from gearnn.errors import StreamError
from gearnn.streams import RateBased, play
from gearnn.streams.dash import Piece, Presentation
from tests.shared.scenes import order_of, pan, same_pixels, serving

WHOLE = 'type="static" mediaPresentationDuration="PT10S"'
VIDEO = '<AdaptationSet contentType="video">{}</AdaptationSet>'
ONE = '<Representation id="low" mimeType="video/mp4" bandwidth="64000">{}</Representation>'


def write(folder: Path, periods: str, facts: str = WHOLE) -> str:
    path = folder / "m.mpd"
    path.write_text(f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" {facts}>{periods}</MPD>')
    return str(path)


def one(folder: Path, inner: str, facts: str = WHOLE, period: str = "") -> str:
    return write(folder, f"<Period {period}>{VIDEO.format(ONE.format(inner))}</Period>", facts)


def pieces(presentation: Presentation, representation: int = 0) -> list[Piece]:
    return [piece for period in presentation.periods for piece in period.representations[representation].pieces]


def seen(presentation: Presentation) -> list[tuple[int, float, str]]:
    """(number, start, name of the file) of every piece."""
    return [(p.number, round(p.start, 6), p.address.rpartition("/")[2]) for p in pieces(presentation)]


def by_ffmpeg(folder: Path, **options: str) -> tuple[list[Image.Image], dict[tuple[int, int], list[Image.Image]]]:
    """A presentation of two sizes, written by FFmpeg's own muxer; the frames, and by size those decoded apart."""
    frames, sizes = pan(26, (96, 64)), {(96, 64): "24", (48, 32): "28"}
    packets: dict[tuple[int, int], list[bytes]] = {size: [] for size in sizes}
    streams = {}
    with av.open(str(folder / "manifest.mpd"), "w", format="dash", options=options) as written:
        for size, crf in sizes.items():
            streams[size] = written.add_stream("libx264", rate=25)
            streams[size].width, streams[size].height, streams[size].pix_fmt = *size, "yuv420p"
            streams[size].options = {"crf": crf, "g": "10", "keyint_min": "10", "sc_threshold": "0", "threads": "1"}
            streams[size].bit_rate = 1000 * size[0]  # which the manifest says
        for frame in [*frames, None]:
            for size, stream in streams.items():
                for packet in stream.encode(frame and av.VideoFrame.from_image(frame).reformat(*size)):
                    packets[size].append(bytes(packet))
                    written.mux(packet)
        heads = {size: stream.codec_context.extradata for size, stream in streams.items()}
    return frames, {size: decode_clip(heads[size] + b"".join(packets[size])) for size in sizes}


@pytest.mark.parametrize("timeline", ["0", "1"])
@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize("sets", [{"adaptation_sets": "id=0,streams=v"}, {}])
def test_what_the_muxer_of_ffmpeg_wrote_plays_to_the_frames_that_were_encoded(
    tmp_path: Path, timeline: str, over_http: bool, sets: dict[str, str]
) -> None:
    """All qualities in one adaptation set, or, as FFmpeg does by default, each in its own."""
    originals, decoded = by_ffmpeg(tmp_path, seg_duration="0.4", use_timeline=timeline, use_template="1", **sets)
    assert (tmp_path / "manifest.mpd").read_text().count("<AdaptationSet") == (1 if sets else 2)
    with serving(tmp_path) as (address, _):
        presentation = Presentation.open(f"{address}/manifest.mpd" if over_http else str(tmp_path / "manifest.mpd"))
        assert [r.id for r in presentation.periods[0].representations] == ["1", "0"]  # by bandwidth
        assert [r.bandwidth for r in presentation.periods[0].representations] == [48.0, 96.0]
        for index, size in enumerate(((48, 32), (96, 64))):
            segments = list(play(presentation, lambda having, _, i=index: having[i]))  # type: ignore[misc]
            assert [(s.name, round(s.start, 3)) for s in segments] == [("00000", 0.0), ("00001", 0.4), ("00002", 0.8)]
            frames = [frame for s in segments if s.received is not None for frame in s.received.clip.frames]
            assert same_pixels(frames, decoded[size])
            assert order_of(frames, [original.resize(size) for original in originals]) == list(range(26))


def test_ffmpeg_s_byte_ranges_in_one_file_a_representation_play_too(tmp_path: Path) -> None:
    _, decoded = by_ffmpeg(
        tmp_path, seg_duration="0.4", single_file="1", use_template="0", use_timeline="0",
        adaptation_sets="id=0,streams=v",
    )  # fmt: skip
    text = (tmp_path / "manifest.mpd").read_text()
    assert "<SegmentList" in text
    assert "mediaRange" in text
    with serving(tmp_path) as (address, _):  # this server, as Python's, answers to a range with the whole file
        for source in (str(tmp_path / "manifest.mpd"), f"{address}/manifest.mpd"):
            segments = list(play(Presentation.open(source), lambda having, _: having[-1]))
            frames = [frame for s in segments if s.received is not None for frame in s.received.clip.frames]
            assert len(segments) == 3
            assert same_pixels(frames, decoded[96, 64])


def test_a_template_with_a_duration_counts_to_the_end_of_the_period(tmp_path: Path) -> None:
    inner = '<SegmentTemplate media="$RepresentationID$/$Number%05d$-$Bandwidth$$$.ts" duration="9" timescale="3"/>'
    found = pieces(Presentation.open(one(tmp_path, inner)))
    assert [(p.number, p.start) for p in found] == [(0, 0.0), (1, 3.0), (2, 6.0), (3, 9.0)]
    assert [p.address for p in found] == [f"{tmp_path.as_uri()}/low/0000{i}-64000$.ts" for i in range(1, 5)]
    assert Presentation.open(str(tmp_path / "m.mpd")).refresh is None
    inner = '<SegmentTemplate media="$Number$" duration="5" startNumber="0"/>'
    assert seen(Presentation.open(one(tmp_path, inner))) == [(0, 0.0, "0"), (1, 5.0, "1")]


def test_attributes_of_outer_templates_are_inherited(tmp_path: Path) -> None:
    outer = '<SegmentTemplate timescale="2" duration="8" initialization="init.mp4" startNumber="5"/>'
    inner = ONE.format('<SegmentTemplate media="a-$Number$"/>')
    path = write(tmp_path, f"<Period>{VIDEO.format(outer + inner)}</Period>", WHOLE)
    found = pieces(Presentation.open(path))
    assert [(p.start, p.address.rpartition("/")[2]) for p in found] == [(0.0, "a-5"), (4.0, "a-6"), (8.0, "a-7")]
    assert {p.initial.rpartition("/")[2] for p in found} == {"init.mp4"}


@pytest.mark.parametrize(
    ("text", "segments"),
    [("PT10S", 4), ("PT0H0M9.000S", 3), ("P0Y0M0DT0H0M9.5S", 4), ("P1DT1S", 28801), ("PT2M", 40), ("PT9.0000001S", 3)],
)
def test_durations_are_read_as_packagers_write_them(tmp_path: Path, text: str, segments: int) -> None:
    inner = '<SegmentTemplate media="$Number$" duration="3"/>'
    source = one(tmp_path, inner, f'type="static" mediaPresentationDuration="{text}"')
    assert len(pieces(Presentation.open(source))) == segments


@pytest.mark.parametrize("text", ["ten seconds", "PT1.2.3S", ""])
def test_a_duration_of_another_form_is_a_clear_error(tmp_path: Path, text: str) -> None:
    source = write(tmp_path, f'<Period duration="{text or "PT"}S">{VIDEO.format(ONE.format(""))}</Period>')
    with pytest.raises(StreamError, match=r"m.mpd: expected a duration such as PT4.5S, but got"):
        Presentation.open(source)


def test_a_timeline_says_every_start_with_its_repeats_and_gaps(tmp_path: Path) -> None:
    timeline = '<SegmentTimeline><S d="20" r="2"/><S d="5"/><S t="80" d="10" r="-1"/></SegmentTimeline>'
    inner = f'<SegmentTemplate media="$Time$.mp4" initialization="i.mp4" timescale="10">{timeline}</SegmentTemplate>'
    presentation = Presentation.open(one(tmp_path, inner))
    starts = [0.0, 2.0, 4.0, 6.0, 8.0, 9.0]
    assert seen(presentation) == [(i, s, f"{round(10 * s)}.mp4") for i, s in enumerate(starts)]
    assert {p.initial for p in pieces(presentation)} == {f"{tmp_path.as_uri()}/i.mp4"}


def test_repeats_without_a_number_go_on_to_the_next_entry_of_the_timeline(tmp_path: Path) -> None:
    timeline = '<SegmentTimeline><S t="0" d="20" r="-1"/><S t="60" d="40"/></SegmentTimeline>'
    inner = f'<SegmentTemplate media="$Time$" timescale="10">{timeline}</SegmentTemplate>'
    assert [name for *_, name in seen(Presentation.open(one(tmp_path, inner)))] == ["0", "20", "40", "60"]


def test_the_offset_of_a_period_in_its_media_is_taken_off_starts_but_not_off_addresses(tmp_path: Path) -> None:
    timeline = '<SegmentTimeline><S t="300" d="20" r="1"/></SegmentTimeline>'
    inner = f'<SegmentTemplate media="$Time$" timescale="10" presentationTimeOffset="300">{timeline}</SegmentTemplate>'
    found = seen(Presentation.open(one(tmp_path, inner, period='start="PT4S"')))
    assert found == [(0, 4.0, "300"), (1, 6.0, "320")]
    inner = '<SegmentTemplate media="$Time$" duration="40" timescale="10" presentationTimeOffset="300"/>'
    assert seen(Presentation.open(one(tmp_path, inner))) == [(0, 0.0, "300"), (1, 4.0, "340"), (2, 8.0, "380")]


def test_a_list_gives_ranges_of_one_file_and_files(tmp_path: Path) -> None:
    data = bytes(range(200))
    (tmp_path / "all.bin").write_bytes(data)
    inner = (
        '<BaseURL>all.bin</BaseURL><SegmentList duration="2000" timescale="1000"><Initialization range="0-9"/>'
        '<SegmentURL mediaRange="10-19"/><SegmentURL mediaRange="20-99"/></SegmentList>'
    )
    presentation = Presentation.open(one(tmp_path, inner))
    assert [(p.number, p.start, p.bytes, p.initial_bytes) for p in pieces(presentation)] == [
        (0, 0.0, "10-19", "0-9"),
        (1, 2.0, "20-99", "0-9"),
    ]
    received = [s.received.data for s in play(presentation, RateBased()) if s.received is not None]
    assert received == [data[:20], data[:10] + data[20:100]]
    inner = '<SegmentList duration="2"><SegmentURL media="a.ts"/><SegmentURL media="b.ts"/></SegmentList>'
    assert seen(Presentation.open(one(tmp_path, inner))) == [(0, 0.0, "a.ts"), (1, 2.0, "b.ts")]


def test_a_list_without_durations_plays_whole(tmp_path: Path) -> None:
    inner = '<SegmentList><SegmentURL media="a.jpg"/><SegmentURL media="b.jpg"/></SegmentList>'
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    segments = list(play(Presentation.open(one(tmp_path, inner)), RateBased()))
    assert [s.received and s.received.data for s in segments] == [b"a.jpg", b"b.jpg"]


def test_one_file_a_representation_is_one_segment(tmp_path: Path) -> None:
    (tmp_path / "a b.h264").write_bytes(encode_clip(pan(5), "h264:crf=30"))
    (segment,) = play(Presentation.open(one(tmp_path, "<BaseURL>a%20b.h264</BaseURL>")), RateBased())
    assert segment.received is not None
    assert len(segment.received.clip.frames) == 5
    assert (segment.name, segment.representation, segment.bandwidth) == ("00000", "low", 64.0)


def test_base_addresses_nest(tmp_path: Path) -> None:
    inner = '<BaseURL>rep/</BaseURL><SegmentTemplate media="$Number$.ts" duration="10"/>'
    text = (
        "<BaseURL> top/ </BaseURL><Period><BaseURL>period/</BaseURL>"
        f'<AdaptationSet mimeType="video/mp2t"><BaseURL>set/</BaseURL>{ONE.format(inner)}'
        f"{ONE.format(inner.replace('rep/', 'http://elsewhere/x/')).replace('64000', '99000')}</AdaptationSet></Period>"
    )
    presentation = Presentation.open(write(tmp_path, text))
    assert [p.address for p in pieces(presentation)] == [f"{tmp_path.as_uri()}/top/period/set/rep/1.ts"]
    assert [p.address for p in pieces(presentation, 1)] == ["http://elsewhere/x/1.ts"]


def test_several_periods_follow_each_other_and_segment_names_count_on(tmp_path: Path) -> None:
    inner = '<SegmentTemplate media="{}-$Number$.jpg" duration="2" startNumber="7"/>'
    text = "".join(
        f'<Period duration="{length}">{VIDEO.format(ONE.format(inner.format(name)))}</Period>'
        for name, length in (("a", "PT4S"), ("b", "PT3S"))
    )
    last = f'<Period start="PT7S">{VIDEO.format(ONE.format(inner.format("c")))}</Period>'
    presentation = Presentation.open(write(tmp_path, text + last))
    assert seen(presentation) == [
        (0, 0.0, "a-7.jpg"), (1, 2.0, "a-8.jpg"), (2, 4.0, "b-7.jpg"), (3, 6.0, "b-8.jpg"), (4, 7.0, "c-7.jpg"),
        (5, 9.0, "c-8.jpg"),
    ]  # fmt: skip
    assert [s.name for s in play(presentation, RateBased())] == [f"{i:05d}" for i in range(6)]


def test_sound_is_passed_over(tmp_path: Path) -> None:
    template = '<SegmentTemplate media="$Number$" duration="10"/>'
    audio = ONE.format(template).replace("video/mp4", "audio/mp4")
    sound = f'<AdaptationSet contentType="audio">{audio}</AdaptationSet>'
    presentation = Presentation.open(write(tmp_path, f"<Period>{sound}{VIDEO.format(ONE.format(template))}</Period>"))
    assert len(presentation.periods[0].representations) == 1
    with pytest.raises(StreamError, match=r"m.mpd: expected a manifest with segments of video, but it has none"):
        Presentation.open(write(tmp_path, f"<Period>{sound}</Period>"))


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ('<SegmentBase indexRange="800-900"/>', "representation low is indexed by byte ranges"),
        ('<SegmentTemplate media="$Number$"/>', "expected a SegmentTemplate with a duration or a timeline"),
        ('<SegmentTemplate duration="2"/>', "expected a DASH manifest"),
        ('<SegmentTemplate media="$Number$" duration="two"/>', "expected a DASH manifest: invalid literal"),
        ('<SegmentTemplate media="$Time$"><SegmentTimeline><S t="0"/></SegmentTimeline></SegmentTemplate>',
         "expected a DASH manifest"),
        ('<SegmentTemplate media="$Time$"><SegmentTimeline><S d="0" r="-1"/></SegmentTimeline></SegmentTemplate>',
         "expected a DASH manifest"),
    ],
)  # fmt: skip
def test_manifests_that_cannot_be_used_are_clear_errors(tmp_path: Path, inner: str, reason: str) -> None:
    with pytest.raises(StreamError, match=f"m.mpd: .*{re.escape(reason)}"):
        Presentation.open(one(tmp_path, inner))


def test_a_period_without_a_duration_is_a_clear_error(tmp_path: Path) -> None:
    inner = '<SegmentTemplate media="$Number$" duration="2"/>'
    with pytest.raises(StreamError, match="expected a period that says its duration"):
        Presentation.open(one(tmp_path, inner, 'type="static"'))
    timeline = '<SegmentTimeline><S d="2" r="-1"/></SegmentTimeline>'
    inner = f'<SegmentTemplate media="$Number$">{timeline}</SegmentTemplate>'
    with pytest.raises(StreamError, match="expected a period that says its duration, for r=-1"):
        Presentation.open(one(tmp_path, inner, 'type="static"'))


def test_what_is_no_manifest_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.mpd").write_text("<html>not found</html>")
    with pytest.raises(StreamError, match=r"text.mpd: expected a DASH manifest, but got '<html>not found</html>'"):
        Presentation.open(str(tmp_path / "text.mpd"))
    (tmp_path / "text.mpd").write_text("<MPD><Period></MPD>")
    with pytest.raises(StreamError, match=r"text.mpd: expected a DASH manifest: mismatched tag"):
        Presentation.open(str(tmp_path / "text.mpd"))
    with pytest.raises(StreamError, match=r"none.mpd: No such file or directory"):
        Presentation.open(str(tmp_path / "none.mpd"))
    with (
        serving(tmp_path) as (address, _),
        pytest.raises(StreamError, match=r"/none.mpd: expected a segment, but the server answers 404"),
    ):
        Presentation.open(f"{address}/none.mpd")


# Live


def live(folder: Path, first: int, last: int, *, facts: str = 'type="dynamic" minimumUpdatePeriod="PT0.001S"') -> str:
    """A live manifest with segments from ``first`` to ``last``, a second each, written whole at once."""
    timeline = f'<SegmentTimeline><S t="{first}" d="1" r="{last - first}"/></SegmentTimeline>'
    inner = f'<SegmentTemplate media="$Number$.jpg" startNumber="{first}">{timeline}</SegmentTemplate>'
    (folder / "new").mkdir(exist_ok=True)
    shutil.move(one(folder / "new", inner, facts, 'start="PT0S"'), folder / "m.mpd")
    return str(folder / "m.mpd")


def test_a_live_timeline_that_grows_gives_every_segment_once_until_it_ends(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(encode(pan(12, (16, 16))[number], "jpeg:quality=90"))
    source = live(tmp_path, 0, 2)
    windows = iter([(1, 4), (4, 6), (7, 11)])  # the oldest segments are taken from the manifest
    seen_by, frames = [], []
    for segment in play(Presentation.open(source), RateBased()):
        assert segment.received is not None
        frames += segment.received.clip.frames
        seen_by.append((segment.name, segment.start))
        if segment.start in (2.0, 4.0, 6.0):
            window = next(windows)
            static = {"facts": 'type="static" mediaPresentationDuration="PT12S"'} if window[1] == 11 else {}
            live(tmp_path, *window, **static)
    assert seen_by == [(f"{i:05d}", float(i)) for i in range(12)]
    assert order_of(frames, pan(12, (16, 16))) == list(range(12))


def test_a_live_manifest_that_is_away_for_a_moment_does_not_end_the_stream(tmp_path: Path) -> None:
    live(tmp_path, 0, 1)
    names: list[str] = []
    failures: dict[str, list[str]] = {}
    with serving(tmp_path, failures) as (address, asked):
        for segment in play(Presentation.open(f"{address}/m.mpd"), RateBased()):
            names.append(segment.name)
            if segment.start == 1.0:
                failures["m.mpd"] = ["404", "500", "half"]
                live(tmp_path, 0, 3, facts='type="static" mediaPresentationDuration="PT4S"')
    assert names == ["00000", "00001", "00002", "00003"]
    assert asked.count("/m.mpd") == 5


def test_a_live_manifest_that_stays_away_ends_the_stream_with_its_error(tmp_path: Path) -> None:
    source, names = live(tmp_path, 0, 1), []
    with pytest.raises(StreamError, match=r"m.mpd: No such file"):  # noqa: PT012
        for segment in play(Presentation.open(source), RateBased()):
            names.append(segment.name)
            Path(source).unlink(missing_ok=True)
    assert names == ["00000", "00001"]


def test_following_a_live_manifest_ends_when_it_should(tmp_path: Path) -> None:
    source = live(tmp_path, 3, 5)
    segments = list(play(Presentation.open(source), RateBased(), live_seconds=0.0))
    assert [s.start for s in segments] == [3.0, 4.0, 5.0]


def test_live_segments_of_equal_length_are_there_once_they_are_written(tmp_path: Path) -> None:
    facts = 'type="dynamic" minimumUpdatePeriod="PT3S" availabilityStartTime="2026-01-01T00:00:00Z"'
    inner = '<SegmentTemplate media="$Number$.ts" duration="2" startNumber="5"/>'
    source = one(tmp_path, inner, facts, 'start="PT1S"')
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for after, count in ((0.0, 0), (2.9, 0), (3.0, 1), (8.5, 3)):
        presentation = Presentation.open(source, now=began + timedelta(seconds=after))
        assert seen(presentation) == [(i, 1.0 + 2 * i, f"{5 + i}.ts") for i in range(count)]
        assert presentation.refresh == 3.0
    source = one(tmp_path, inner, facts.replace("Z", ""), 'start="PT1S" duration="PT4S"')
    assert len(pieces(Presentation.open(source, now=began + timedelta(days=1)))) == 2


def test_a_live_stream_of_years_is_joined_where_its_server_still_keeps_segments(tmp_path: Path) -> None:
    facts = (
        'type="dynamic" minimumUpdatePeriod="PT2S" availabilityStartTime="1970-01-01T00:00:00Z" '
        'timeShiftBufferDepth="PT20S"'
    )
    source = one(tmp_path, '<SegmentTemplate media="$Number$.ts" duration="2" startNumber="0"/>', facts)
    found = pieces(Presentation.open(source, now=datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)))
    last = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) // 2 - 1
    assert [p.address.rpartition("/")[2] for p in found] == [f"{i}.ts" for i in range(last - 9, last + 1)]
    assert found[-1].start == 2.0 * last


def test_a_live_manifest_with_a_wrong_start_is_a_clear_error(tmp_path: Path) -> None:
    facts = 'type="dynamic" availabilityStartTime="yesterday"'
    source = one(tmp_path, '<SegmentTemplate media="$Number$.ts" duration="2"/>', facts)
    with pytest.raises(StreamError, match=r"m.mpd: expected a DASH manifest: .*yesterday"):
        Presentation.open(source)


def test_segments_of_images_are_frames(tmp_path: Path) -> None:
    for number, frame in enumerate(pan(3, (32, 16))):
        (tmp_path / f"{number}.jpg").write_bytes(encode(frame, "jpeg:quality=50"))
    inner = '<SegmentTemplate media="$Number$.jpg" duration="1" startNumber="0"/>'
    source = one(tmp_path, inner, 'type="static" mediaPresentationDuration="PT3S"')
    text = Path(source).read_text().replace("video/mp4", "image/jpeg").replace('contentType="video"', "")
    Path(source).write_text(text)
    frames = [s.received.image for s in play(Presentation.open(source), RateBased()) if s.received is not None]
    expected = [decode(encode(frame, "jpeg:quality=50")) for frame in pan(3, (32, 16))]
    assert [np.array_equal(a, b) for a, b in zip(frames, expected, strict=True)] == [True] * 3


MANY = '<S d="1" r="9999"/>' * 99
TEMPLATE = '<SegmentTemplate media="$Number{}$.mp4" {} timescale="{}">{}</SegmentTemplate>'


@pytest.mark.parametrize(
    ("inner", "facts"),
    [
        (TEMPLATE.format("", 'duration="1"', 1000, ""), 'type="static" mediaPresentationDuration="PT99999999S"'),
        (TEMPLATE.format("", "", 1, '<SegmentTimeline><S t="0" d="1" r="999999999999"/></SegmentTimeline>'), WHOLE),
        (TEMPLATE.format("", "", 1, f"<SegmentTimeline>{MANY}</SegmentTimeline>"), WHOLE),
        (TEMPLATE.format("", 'duration="1"', 1, ""), 'type="dynamic" availabilityStartTime="1970-01-01T00:00:00Z"'),
        (TEMPLATE.format("", 'duration="1"', 1, ""), f'type="static" mediaPresentationDuration="PT{"9" * 400}S"'),
    ],
)
def test_a_manifest_of_endless_segments_is_a_clear_error(tmp_path: Path, inner: str, facts: str) -> None:
    with pytest.raises(
        StreamError, match=r"expected (at most 200,000 segments, but|a DASH manifest: cannot|a period that)"
    ):
        Presentation.open(one(tmp_path, inner, facts))


@pytest.mark.parametrize("width", ["%0999999999d", "%099d", "%021d"])
def test_numbers_of_endless_digits_are_a_clear_error(tmp_path: Path, width: str) -> None:
    with pytest.raises(StreamError, match="expected at most 20 digits of a number"):
        Presentation.open(one(tmp_path, TEMPLATE.format(width, 'duration="1"', 1, "")))
    (first, *_) = pieces(Presentation.open(one(tmp_path, TEMPLATE.format("%020d", 'duration="1"', 1, ""))))
    assert first.address.endswith("/00000000000000000001.mp4")


def test_addresses_that_are_none_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"expected an address, but got: Invalid IPv6 URL"):
        Presentation.open(one(tmp_path, "<BaseURL>http://[::1</BaseURL>"))


def test_a_live_manifest_is_looked_at_again_within_a_minute(tmp_path: Path) -> None:
    facts = 'type="dynamic" mediaPresentationDuration="PT10S" minimumUpdatePeriod="{}"'
    for text, seconds in (("PT999999H", 60.0), ("PT5S", 5.0), ("PT0S", 2.0)):
        opened = Presentation.open(one(tmp_path, TEMPLATE.format("", 'duration="1"', 1, ""), facts.format(text)))
        assert opened.refresh == seconds
