"""In which order bytes, names and folders reach the disk: written, synced, renamed, and the folder synced."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import StorageError
from datagen.common.files import atomic_write_bytes, fsync_all, is_temporary, make_folders
from datagen.shards import ARRAYS, Sample, ShardUnit, finalise, list_records, write_unit
from datagen.shards.ledger import ShardRecord, unit_files, write_record
from datagen.shards.store import LocalStore
from datagen.shards.writer import write_packed
from tests.support.disk import Disk
from tests.support.shard_samples import make_plan, make_sample, sample_keys

SMALL: dict[str, Any] = {"counts": {"train": 3}, "samples_per_shard": 2, "clip": 1, "resolution": 8}


def small_samples(unit: ShardUnit) -> list[Sample]:
    keys = sample_keys("train")[unit.start : unit.stop]
    return [make_sample(*key, resolution=8) for key in keys]


def test_an_atomic_write_syncs_bytes_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    atomic_write_bytes(tmp_path / "a" / "b" / "file.json", b"0123456789")
    whats = [what.split(" ")[0] for what, _ in disk.steps]
    assert whats == ["mkdir", "sync/", "mkdir", "sync/", "sync", "move", "sync/"]
    assert [where for _, where in disk.steps[:4]] == ["a", ".", "a/b", "a"]  # each folder is entered in its parent
    length, temporary = disk.steps[4]
    assert length == "sync 10"
    assert is_temporary(Path(temporary).name)
    assert Path(temporary).parent == Path("a/b")
    assert disk.steps[5] == (f"move 10 {temporary}", "a/b/file.json")
    assert disk.steps[6] == ("sync/", "a/b")
    disk.steps.clear()
    LocalStore(tmp_path).write("a/b/file.json", b"new")
    assert [what.split(" ")[0] for what, _ in disk.steps] == ["sync", "move", "sync/"]
    assert (tmp_path / "a/b/file.json").read_bytes() == b"new"


def test_a_removed_file_is_gone_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write_bytes(tmp_path / "a" / "x", b"1")
    disk = Disk(tmp_path, monkeypatch)
    LocalStore(tmp_path).delete("a/x")
    assert disk.steps == [("unlink", "a/x"), ("sync/", "a")]
    LocalStore(tmp_path).delete("a/x")
    assert len(disk.steps) == 2


def test_folders_that_are_there_are_left_alone_and_all_paths_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    disk = Disk(tmp_path, monkeypatch)
    make_folders(tmp_path / "a")
    assert disk.steps == []
    files = [tmp_path / f"f{k}" for k in range(20)]
    for file in files:
        file.write_bytes(b"1234")
    fsync_all([*files, tmp_path / "a"])
    assert sorted(disk.steps) == sorted([("sync/", "a"), *(("sync 4", f"f{k}") for k in range(20))])
    with pytest.raises(FileNotFoundError):
        fsync_all([files[0], tmp_path / "missing"])


def test_a_shard_is_whole_on_the_disk_before_its_record_and_its_record_before_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(**SMALL)
    disk = Disk(tmp_path, monkeypatch)
    record = write_unit(tmp_path, plan, plan.units[0], "key", small_samples(plan.units[0]))
    files = list(record.files)
    # The record, which says whose the names are; then they, in the order of the arrays, ``valid`` last.
    assert disk.moved() == ["records/train-00000.json", *files]
    assert files[-1] == "train/valid/c.0"
    assert [name.split("/")[1] for name in files] == list(ARRAYS)
    for name in (*files, "records/train-00000.json"):
        assert disk.written(name), name
    moves = [k for k, (what, _) in enumerate(disk.steps) if what.startswith("move")]
    staged = [k for k, (what, where) in enumerate(disk.steps) if what.startswith("sync ") and ".staging" in where]
    assert len(staged) == len(files)
    assert max(staged) < min(moves)  # all bytes before the first name
    for name in files:
        assert (f"sync {record.files[name].bytes}", f".staging/{_staging(disk)}/{name.split('/')[1]}") in disk.steps
        folder = Path(name).parent.as_posix()
        synced = [k for k, step in enumerate(disk.steps) if step == ("sync/", folder)]
        assert disk.place(("sync/", "records")) < moves[1 + files.index(name)] < synced[-1], name


def _staging(disk: Disk) -> str:
    return next(where for what, where in disk.steps if what == "mkdir" and where.startswith(".staging/")).split("/")[1]


def test_a_shard_that_is_replaced_loses_root_and_files_first_and_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    plan = make_plan(**SMALL)
    for unit in plan.units:
        write_unit(tmp_path, plan, unit, "old", small_samples(unit))
    finalise(tmp_path, plan, list_records(tmp_path))
    disk = Disk(tmp_path, monkeypatch)
    written = write_unit(tmp_path, plan, plan.units[1], "new", small_samples(plan.units[1]))
    first_move = next(k for k, (what, _) in enumerate(disk.steps) if what.startswith("move"))
    assert disk.steps[first_move][1] == "records/train-00001.json"
    root = disk.place(("unlink", "zarr.json"))
    assert disk.steps[root + 1] == ("sync/", ".")
    for name in written.files:
        gone = disk.place(("unlink", name))
        synced = [k for k, step in enumerate(disk.steps) if step == ("sync/", Path(name).parent.as_posix())]
        assert root < gone < max(k for k in synced if k < first_move), name
    assert not [where for what, where in disk.steps if what == "unlink" and "train-00000" in where]


def renumbered(record: ShardRecord, index: int) -> ShardRecord:
    """A record of another shard, none of whose files is there."""
    new = {key.split("/")[1]: key for key in unit_files(ShardUnit(record.group, index, 0, 0))}
    named = (record.files, record.checksums)
    files, checksums = ({new[key.split("/")[1]]: value for key, value in old.items()} for old in named)
    return dataclasses.replace(record, index=index, files=files, checksums=checksums)


def test_the_root_document_is_the_last_that_is_written_and_the_first_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    plan = make_plan(**SMALL)
    for unit in plan.units:
        write_unit(tmp_path, plan, unit, "k", small_samples(unit))
    disk = Disk(tmp_path, monkeypatch)
    finalise(tmp_path, plan, list_records(tmp_path))
    assert disk.steps[0] == ("sync/", ".")
    assert disk.moved()[-1] == "zarr.json"
    assert disk.steps[-1] == ("sync/", ".")
    assert len(disk.moved()) == 3 * (len(ARRAYS) + 1) + 1
    for name in disk.moved():
        assert disk.written(name), name

    disk.steps.clear()
    finalise(tmp_path, plan, list_records(tmp_path))  # nothing to do, nothing done
    assert disk.steps == []

    larger = make_plan(**{**SMALL, "counts": {"train": 5}})
    write_unit(tmp_path, larger, larger.units[2], "k", small_samples(larger.units[2]))
    finalise(tmp_path, plan, list_records(tmp_path)[:2])
    (tmp_path / "train" / "depth" / "zarr.json").unlink()
    write_record(LocalStore(tmp_path), renumbered(list_records(tmp_path)[1], 9))
    disk.steps.clear()
    finalise(tmp_path, plan, list_records(tmp_path)[:2])
    assert disk.steps[:3] == [("unlink", "zarr.json"), ("sync/", "."), ("unlink", "records/train-00009.json")]
    assert disk.moved() == ["train/depth/zarr.json", "zarr.json"]


def test_what_does_not_read_back_is_never_given_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, read = make_plan(**SMALL), Path.read_bytes

    def flipped(path: Path) -> bytes:
        data = read(path)
        return data[:-1] + bytes([data[-1] ^ 1]) if path.name == "normal" else data

    monkeypatch.setattr(Path, "read_bytes", flipped)
    disk = Disk(tmp_path, monkeypatch)
    with pytest.raises(StorageError, match="does not read back as written"):
        write_unit(tmp_path, plan, plan.units[0], "k", small_samples(plan.units[0]))
    assert disk.moved() == []
    assert not list((tmp_path / ".staging").iterdir())


@pytest.mark.usefixtures("without_fsync")
def test_packed_samples_come_after_those_still_in_flight(tmp_path: Path) -> None:
    """One shard may take samples both to be compressed and compressed already; their order is that of the calls."""
    from datagen.shards.encode import encode_samples
    from datagen.shards.pack import ShardPacker

    plan = make_plan(**{**SMALL, "counts": {"train": 4}, "samples_per_shard": 4})
    unit = plan.units[0]
    rows = list(encode_samples(plan, unit, small_samples(unit)))
    alone = ShardPacker(plan, unit)
    for row in rows:
        alone.add(row)
    alone._finish()
    chunks = {name: list(packed) for name, packed in alone._maps.items()}
    mixed = ShardPacker(plan, unit)
    mixed.add(rows[0])
    mixed.add_packed(rows[1], {name: packed[1] for name, packed in chunks.items()})
    mixed.add(rows[2])
    mixed.add_packed(rows[3], {name: packed[3] for name, packed in chunks.items()})
    assert write_packed(tmp_path / "mixed", plan, unit, "k", mixed) == write_packed(
        tmp_path / "alone", plan, unit, "k", alone
    )
    dataset = finalise(tmp_path / "mixed", plan, list_records(tmp_path / "mixed"))
    stored = dataset["train"].read(["depth"], [0, 1, 2, 3], decode=False)["depth"]
    for k, row in enumerate(rows):
        np.testing.assert_array_equal(stored[k], row["depth"])
