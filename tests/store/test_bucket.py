import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, open_split
from gearnn.errors import DataError, StoreError
from gearnn.plan import Plan
from gearnn.plan.opened import Opened
from gearnn.store import bucket as buckets
from gearnn.store.bucket import Bucket, Item
from gearnn.store.copies import copies, copies_folder, fetch_file, fetch_folder, look_anew, remove_copies
from gearnn.store.storage import Ref, Store
from tests.conftest import camvid_copy
from tests.shared.servers import S3Server, cutting_proxy, s3_server

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def forget() -> None:
    """What a new process would not know."""
    buckets._client.cache_clear()
    look_anew()


@pytest.fixture(autouse=True)
def environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    forget()
    yield
    forget()


def location(request: pytest.FixtureRequest) -> str:
    return f"s3://gearnn/{request.node.name}"


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return location(request)


def upload(folder: Path, prefix: str) -> None:
    bucket = Bucket(prefix)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        bucket.write(path.relative_to(folder).as_posix(), path)


def test_objects_come_back_and_missing_ones_are_none(prefix: str) -> None:
    bucket = Bucket(prefix)
    assert bucket.size("a/b") is None
    assert bucket.read("a/b") is None
    bucket.write("a/b", b"content")
    assert (bucket.size("a/b"), bucket.read("a/b")) == (7, b"content")
    assert [(item.key, item.size) for item in bucket.items()] == [("a/b", 7)]
    bucket.delete("a/b")
    assert bucket.items() == []


def test_large_objects_travel_in_parts_and_come_back_equal(prefix: str, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(30_000_000)
    (tmp_path / "large").write_bytes(content)
    bucket = Bucket(prefix)
    bucket.write("large", tmp_path / "large")
    assert bucket.items()[0].etag.endswith("-4")  # S3's mark of four parts, of 8 MiB each
    bucket.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_a_folder_is_copied_once_and_only_what_changed_again(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(40):
        Bucket(prefix).write(f"split/{index:02d}.txt", b"%d" % index)
    downloaded: list[str] = []
    download = Bucket.download
    monkeypatch.setattr(Bucket, "download", lambda self, key, path: (downloaded.append(key), download(self, key, path)))
    folder = fetch_folder(prefix)
    assert sorted(path.read_bytes() for path in (folder / "split").iterdir()) == sorted(b"%d" % i for i in range(40))
    assert len(downloaded) == 40
    downloaded.clear()
    look_anew()
    assert fetch_folder(prefix) == folder
    assert downloaded == []
    Bucket(prefix).write("split/07.txt", b"new")  # changed in the bucket
    (folder / "split" / "08.txt").write_bytes(b"X")  # damaged here
    (folder / "split" / "09.txt").unlink()  # lost here
    look_anew()
    fetch_folder(prefix)
    assert sorted(downloaded) == ["split/07.txt", "split/08.txt", "split/09.txt"]
    assert (folder / "split" / "07.txt").read_bytes() == b"new"
    assert (folder / "split" / "08.txt").read_bytes() == b"8"


def test_a_download_that_was_killed_goes_on(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        Bucket(prefix).write(f"{index}.txt", b"x")
    folder = fetch_folder(prefix)
    journal = folder / ".downloads.jsonl"
    lines = journal.read_text().strip().splitlines()
    journal.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # killed in the middle of a line
    downloaded: list[str] = []
    download = Bucket.download
    monkeypatch.setattr(Bucket, "download", lambda self, key, path: (downloaded.append(key), download(self, key, path)))
    look_anew()
    fetch_folder(prefix)
    assert len(downloaded) == 3
    assert {json.loads(line)["key"] for line in journal.read_text().splitlines()[-3:]} == set(downloaded)


def test_damaged_notes_of_downloads_are_passed_over(prefix: str) -> None:
    Bucket(prefix).write("a.txt", b"x")
    folder = fetch_folder(prefix)
    for damaged in (b"\xff\n", b'{"key": "a.txt"}\n', b"[]\n", b"[" * 100_000, b'{"key": [], "etag": 1}'):
        (folder / ".downloads.jsonl").write_bytes(damaged)
        (folder / "a.txt").write_bytes(b"y")
        look_anew()
        assert (fetch_folder(prefix) / "a.txt").read_bytes() == b"x"


def test_what_the_bucket_no_longer_has_is_gone_here_too(prefix: str) -> None:
    for key in ("train/a.txt", "train/b.txt", "val/c.txt"):
        Bucket(prefix).write(key, b"x")
    fetch_folder(prefix, ("val",))
    folder = fetch_folder(prefix, ("train",))
    Bucket(prefix).delete("train/a.txt")
    Bucket(prefix).delete("val/c.txt")
    assert sorted(p.name for p in (fetch_folder(prefix, ("train",)) / "train").iterdir()) == ["a.txt", "b.txt"]
    look_anew()  # another run
    assert fetch_folder(prefix, ("train",)) == folder
    assert [p.name for p in (folder / "train").iterdir()] == ["b.txt"]
    assert (folder / "val" / "c.txt").is_file()  # was not asked for


def test_copies_that_were_removed_within_a_run_come_back(prefix: str) -> None:
    Bucket(prefix).write("a.txt", b"x")
    fetch_folder(prefix)
    remove_copies()
    assert (fetch_folder(prefix) / "a.txt").is_file()


@pytest.mark.parametrize(
    "key", ["../outside.txt", "a/../../outside.txt", "/outside.txt", "C:/outside.txt", "a\0b", ".downloads.jsonl"]
)
def test_keys_that_lead_out_of_the_folder_are_refused(prefix: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bucket, "items", lambda self, below="": [Item(key=key, size=1, etag="e")])
    with pytest.raises(StoreError, match=r"expected (the name of a file inside of its folder|no key .downloads.jsonl)"):
        fetch_folder(prefix)


def test_a_connection_that_breaks_is_one_line(prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy that passes requests on and cuts every answer's body short."""
    Bucket(prefix).write("a.txt", b"x" * 100_000)
    with cutting_proxy(buckets.os.environ["AWS_ENDPOINT_URL"], at_most=40_000) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setattr(buckets, "_ATTEMPTS", 2)
        forget()
        for attempt in (lambda: Bucket(prefix).download("a.txt", tmp_path / "a"), lambda: Bucket(prefix).read("a.txt")):
            with pytest.raises(StoreError, match=r"a.txt: expected S3 to answer, but got"):
                attempt()
    assert not list(tmp_path.iterdir())


def test_requests_that_fail_are_repeated(prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(300_000)
    Bucket(prefix).write("a.bin", content)
    with cutting_proxy(buckets.os.environ["AWS_ENDPOINT_URL"], at_most=100, times=2) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget()
        Bucket(prefix).download("a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == content


@pytest.mark.parametrize(("variable", "value"), [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL", "localhost:8333")])
def test_settings_that_boto3_cannot_use_are_one_line(
    prefix: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    forget()
    with pytest.raises(StoreError, match=r"expected settings that boto3 can use, but got: .*; check AWS_"):
        Store(prefix).check()


def test_copies_can_be_measured_and_removed(prefix: str) -> None:
    Bucket(prefix).write("a", b"12345")
    folder = fetch_folder(prefix)
    assert [c.name for c in copies()] == [folder.name]
    assert copies()[0].num_bytes > 5
    assert remove_copies().num_files == 2  # the object, and the journal of downloads
    assert copies() == []


def test_long_downloads_tell_how_far_they_are(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(20):
        Bucket(prefix).write(f"{index}", b"x")
    with caplog.at_level(logging.INFO, logger="gearnn"):
        fetch_folder(prefix)
    assert caplog.messages[-1] == f"{prefix}: 20 of 20 objects are here"


def test_a_dataset_in_a_bucket_is_the_dataset(prefix: str, tmp_path: Path) -> None:
    local = camvid_copy(tmp_path / "camvid")
    upload(local, prefix)
    here = open_split("camvid", local, "train", Camera())
    there = open_split("camvid", prefix, "train", Camera())
    assert there.digest() == here.digest()
    assert np.array_equal(np.asarray(there.frame(1)), np.asarray(here.frame(1)))
    assert not list(copies_folder(prefix).glob("val*"))  # only the split that was asked for
    with pytest.raises(StoreError, match="expected night, nightannot there, but the bucket has nothing below it"):
        open_split("camvid", prefix, "night", Camera())


def test_an_unreadable_frame_in_a_bucket_is_named(prefix: str, tmp_path: Path) -> None:
    local = camvid_copy(tmp_path / "camvid")
    (local / "train" / "001.png").write_bytes(b"no image")
    upload(local, prefix)
    with pytest.raises(DataError, match=r"train/001.png: expected a readable image"):
        open_split("camvid", prefix, "train", Camera()).frame(1)


def test_a_plan_may_name_buckets_everywhere(prefix: str, tmp_path: Path) -> None:
    from gearnn.models import load_model, save_checkpoint

    local = camvid_copy(tmp_path / "camvid")
    save_checkpoint(local / "base.safetensors", load_model("drn_d_22_quarter", 11))
    upload(local, prefix)
    plan = Plan.read(
        {
            "base": {"name": "drn_d_22_quarter", "num_classes": 11, "checkpoint": f"{prefix}/base.safetensors"},
            "data": {"name": "camvid", "root": prefix},
            "levels": ["jpeg:quality=10"],
            "store": f"{prefix}/store",
        },
        source="test",
    )
    opened = Opened(plan)
    assert len(opened.frames("train")) == 3
    path = opened.checkpoint
    assert path is not None
    assert path.read_bytes() == (local / "base.safetensors").read_bytes()
    assert opened.base() is not None
    opened.store.check()
    with pytest.raises(StoreError, match=r"base.pt: expected an object, but the bucket has none of this name"):
        fetch_file(f"{prefix}/base.pt")


def test_a_store_in_a_bucket_holds_all_and_serves_another_machine(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(prefix)
    store.check()
    ref = store.put(b"weights", ".safetensors")
    assert store.put(b"weights", ".safetensors") == ref
    record = {"file": {"uri": ref.uri, "sha256": ref.sha256, "size": ref.size}}
    store.remember("step", "key", record)
    assert sorted(item.key for item in Bucket(prefix).items()) == [ref.uri, "records/step/key.json"]
    monkeypatch.setenv("GEARNN_HOME", str(tmp_path / "another machine"))
    other = Store(prefix)
    assert other.root != store.root
    assert other.recall("step", "key") == record
    assert other.recall("step", "nothing") is None
    assert other.get(ref).read_bytes() == b"weights"
    other.get(ref).write_bytes(b"damaged")
    assert other.get(ref).read_bytes() == b"weights"
    assert not other.exists(Ref(ref.uri, ref.sha256, 9))


def test_damage_and_loss_in_a_bucket_are_found(prefix: str) -> None:
    store = Store(prefix)
    ref = store.put(b"weights")
    (store.root / ref.uri).unlink()
    Bucket(prefix).write(ref.uri, b"wEights")
    store.remember("step", "key", {"file": {"uri": ref.uri, "sha256": ref.sha256, "size": ref.size}})
    with pytest.raises(StoreError, match="is damaged, expected 7 bytes"):
        store.get(ref)
    assert store.recall("step", "key") is None  # so that the step makes it anew
    store.put(b"weights")
    assert Bucket(prefix).read(ref.uri) == b"weights"
    assert store.recall("step", "key") is not None
    store.root.joinpath(ref.uri).unlink()
    Bucket(prefix).delete(ref.uri)
    with pytest.raises(StoreError, match="is gone; run the flow again"):
        store.get(ref)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "check AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "nobody", "check AWS_ACCESS_KEY_ID"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "check AWS_ENDPOINT_URL and whether the server runs"),
    ],
)
def test_wrong_settings_are_one_line_that_says_what_to_check(
    prefix: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setattr(buckets, "_ATTEMPTS", 2)
    monkeypatch.setenv(variable, value)
    forget()
    for attempt in (Store(prefix).check, lambda: fetch_folder(prefix), lambda: Store(prefix).recall("step", "key")):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert message in str(caught.value)
        assert str(caught.value).startswith(prefix)
        assert "\n" not in str(caught.value)


def test_missing_keys_are_told(prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    forget()
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        Store(prefix).check()


def test_a_bucket_that_does_not_exist_is_told(prefix: str) -> None:
    for attempt in (
        lambda: Store("s3://nowhere/at-all").check(),
        lambda: fetch_folder("s3://nowhere/at-all"),
        lambda: fetch_file("s3://nowhere/at-all/base.pt"),
        lambda: Store("s3://nowhere").recall("step", "key"),
        lambda: Bucket("s3://nowhere").size("key"),
    ):
        with pytest.raises(StoreError, match=r"s3://nowhere.*NoSuchBucket.*create it, or correct its name"):
            attempt()


def test_a_bucket_that_may_only_be_read_is_told_before_work_starts(
    prefix: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bucket(prefix).write("a", b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.reader_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.reader_secret)
    forget()
    assert (fetch_folder(prefix) / "a").read_bytes() == b"x"
    with pytest.raises(StoreError, match=r"AccessDenied.*may not do this"):
        Store(prefix).check()


@pytest.mark.parametrize("wrong", ["s3://", "s3:///prefix"])
def test_a_location_without_a_bucket_is_refused(wrong: str) -> None:
    with pytest.raises(StoreError, match="expected s3://bucket or s3://bucket/prefix"):
        Bucket(wrong)


def test_keys_in_a_location_are_refused_and_not_shown() -> None:
    with pytest.raises(StoreError, match=r"s3://...@bucket/x: expected no keys in a location") as caught:
        Store("s3://AKIA:secret@bucket/x")
    assert "secret" not in str(caught.value)


def test_a_copy_that_leads_elsewhere_is_not_written_through(prefix: str, tmp_path: Path) -> None:
    Bucket(prefix).write("a.txt", b"x")
    folder = copies_folder(prefix)
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_bytes(b"precious")
    (folder / "a.txt").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match=r"expected the name of a file inside of its folder, but got 'a.txt'"):
        fetch_folder(prefix)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_frames_are_photos_still(photo: Image.Image, prefix: str) -> None:
    from gearnn.distortions import decode, encode

    Bucket(prefix).write("a.jpg", encode(photo, "jpeg:quality=10"))
    assert decode(fetch_file(f"{prefix}/a.jpg").read_bytes()).size == photo.size
