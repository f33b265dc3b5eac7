from pathlib import Path

import pytest

from gearnn.errors import StoreError
from gearnn.storage import Ref, Store, digest_of


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
    with pytest.raises(StoreError, match="is damaged, expected 7 bytes"):
        store.get(ref)
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


def test_a_damaged_record_is_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remember("step", "key", {"a": 1})
    next((tmp_path / "records").rglob("*.json")).write_text("{")
    assert store.recall("step", "key") is None


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
    with pytest.raises(ValueError, match="Out of range"):
        digest_of(float("nan"))


def test_other_object_stores_are_refused_by_name() -> None:
    with pytest.raises(StoreError, match="expected a folder or s3://bucket/prefix"):
        Store("gs://bucket/prefix")
    assert Ref("a", "b", 1) < Ref("b", "b", 1)
