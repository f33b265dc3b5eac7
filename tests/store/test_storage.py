import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gearnn.errors import StoreError
from gearnn.store.storage import Ref, Store, digest_of


def test_bytes_come_back_and_are_stored_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ref = store.put(b"weights", ".safetensors")
    (tmp_path / "file").write_bytes(b"weights")
    assert store.put(tmp_path / "file", ".safetensors") == ref
    assert store.get(ref).read_bytes() == b"weights"
    assert len(list((tmp_path / "objects").rglob("*.safetensors"))) == 1


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    ref = Store(tmp_path / "a").put(b"x")
    (tmp_path / "a").rename(tmp_path / "b")
    assert Store(tmp_path / "b").get(ref).read_bytes() == b"x"


def test_damage_and_loss_are_found_on_reading(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ref = store.put(b"weights")
    (tmp_path / ref.uri).write_bytes(b"wEights")
    assert not store.exists(ref)
    with pytest.raises(StoreError, match="is damaged, expected 7 bytes"):
        store.get(ref)
    assert store.put(b"weights") == ref
    assert store.get(ref).read_bytes() == b"weights"
    (tmp_path / ref.uri).unlink()
    with pytest.raises(StoreError, match="is gone; run the flow again"):
        store.get(ref)
    assert not store.exists(ref)


def test_a_record_counts_only_while_all_of_its_bytes_are_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ref = store.put(b"table")
    record = {"deep": [{"file": {"uri": ref.uri, "sha256": ref.sha256, "size": ref.size}}], "n": 1}
    assert store.recall("step", "key") is None
    store.remember("step", "key", record)
    assert store.recall("step", "key") == record
    assert store.recall("other", "key") is None
    (tmp_path / ref.uri).unlink()
    assert store.recall("step", "key") is None


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Store(tmp_path).put(tmp_path / "missing")
    store = Store(tmp_path)
    with pytest.raises(TypeError):
        store.remember("step", "key", {"not": object()})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


REF = {"uri": "objects/ab/" + "ab" * 32, "sha256": "ab" * 32, "size": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
        json.dumps({"weights": REF | {"uri": []}}).encode(),
        json.dumps({"weights": REF | {"sha256": "ab"}}).encode(),
        json.dumps({"weights": REF | {"size": "1"}}).encode(),
        json.dumps({"weights": REF | {"uri": "../bashrc"}}).encode(),
        json.dumps({"weights": REF | {"uri": "/etc/passwd"}}).encode(),
        json.dumps({"weights": REF | {"uri": "objects/ab/" + "ab" * 32 + "/../x"}}).encode(),
    ],
)
def test_a_damaged_record_is_done_again(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.remember("step", "key", {"a": 1})
    next((tmp_path / "records").rglob("*.json")).write_bytes(content)
    assert store.recall("step", "key") is None


def test_no_flipped_bit_of_a_record_goes_unnoticed(tmp_path: Path) -> None:
    store, record = Store(tmp_path), {"score": 0.31, "names": ["a"], "missing": None}
    store.remember("step", "key", record)
    path = next((tmp_path / "records").rglob("*.json"))
    good = path.read_bytes()
    for place in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert store.recall("step", "key") in (None, record), damaged
    path.write_bytes(json.dumps(record).encode())  # of a version before records were sealed
    assert store.recall("step", "key") == record


def test_a_record_may_hold_scores_that_are_no_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remember("step", "key", {"score": float("nan")})
    assert str(store.recall("step", "key")) == "{'score': nan}"


@pytest.mark.parametrize("record", [{"per_class": dict.fromkeys(range(12), 0.5)}, {"sizes": (48, 32)}])
def test_a_record_is_recalled_as_json_has_it(tmp_path: Path, record: dict[str, Any]) -> None:
    store = Store(tmp_path)
    store.remember("step", "key", record)
    assert store.recall("step", "key") == json.loads(json.dumps(record))


class Bucket:
    """Objects that somebody else may have written."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def size(self, key: str) -> int | None:
        return len(self.objects[key]) if key in self.objects else None

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.objects[key])

    def write(self, key: str, content: bytes) -> None:
        self.objects[key] = content


@pytest.mark.parametrize("uri", ["../bashrc", "objects/../../bashrc", "{}/bashrc", "C:/bashrc", "\0", "objects"])
def test_a_reference_names_nothing_outside_of_the_store(tmp_path: Path, uri: str) -> None:
    victim, uri = tmp_path / "bashrc", uri.format(tmp_path)
    victim.write_text("precious")
    store = Store(tmp_path / "copy")
    store._bucket = Bucket({uri: b"evil"})  # type: ignore[assignment]
    ref = Ref(uri, hashlib.sha256(b"evil").hexdigest(), 4)
    assert not store.exists(ref)
    with pytest.raises(StoreError, match=r"expected a reference objects/ab/abcd... to bytes by their sha256"):
        store.get(ref)
    assert victim.read_text() == "precious"


def test_a_damaged_object_of_a_bucket_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store._bucket = bucket = Bucket({})  # type: ignore[assignment]
    ref = store.put(b"weights")
    bucket.objects[ref.uri] = b"wEights"
    assert store.get(ref).read_bytes() == b"weights"  # the copy on this machine is whole
    (tmp_path / ref.uri).unlink()
    with pytest.raises(StoreError, match="is damaged"):
        store.get(ref)
    assert not store.exists(ref)
    store.put(b"weights")
    assert bucket.objects[ref.uri] == b"weights"
    assert store.exists(ref)


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
    with pytest.raises(ValueError, match="Out of range"):
        digest_of(float("nan"))


def test_other_object_stores_are_refused_by_name() -> None:
    with pytest.raises(StoreError, match="expected a folder or s3://bucket/prefix"):
        Store("gs://bucket/prefix")
    assert Ref("a", "b", 1) < Ref("b", "b", 1)
