"""Kills, full disks, several writers, damage: what a dataset survives, and what is noticed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shard_kill
import zarr
from shard_samples import build, make_plan, sample_keys, tree, unit_samples

from datagen.errors import CorruptDatasetError, DatasetError, StorageError
from datagen.shards import (
    ARRAYS,
    DatasetPlan,
    ShardUnit,
    atomic_write_bytes,
    finalise,
    list_records,
    open_dataset,
    unit_is_complete,
    verify_dataset,
    write_unit,
)

HERE = Path(__file__).parent
KILLS = 16


@pytest.fixture(scope="module", autouse=True)
def without_fsync() -> Iterator[None]:
    """Skip fsync: it guards against power cuts, which no test can make, and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def pristine(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pristine") / "dataset.zarr")


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "dataset.zarr"))


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(bytes(data))


def test_the_same_plan_gives_the_same_bytes(pristine: Path, tmp_path: Path) -> None:
    root, plan = tmp_path / "again", make_plan()
    for unit in reversed(plan.units):  # the order of writing must not matter either
        write_unit(root, plan, unit, f"key-{unit.name}", unit_samples(unit))
    finalise(root, plan, reversed(list_records(root)))
    assert tree(root) == tree(pristine)


def test_a_build_killed_anywhere_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "shard_kill.py"), str(tmp_path), str(KILLS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    assert result.returncode == 0, result.stderr
    steps = int(result.stdout)
    whole = tree(tmp_path / "whole")
    killed = sorted(tmp_path.glob("killed-*"))
    assert len(killed) == KILLS
    for root in killed:
        assert tree(root) == whole, root.name
        k = int(root.name.split("-")[1])
        # Only the last two steps come after the root document: its own rename and the fsync of its folder.
        assert (tmp_path / f"opens-{k}").read_text() == str(k == steps)


def test_finished_shards_are_recognised_and_changed_ones_are_not(copy: Path) -> None:
    unit = make_plan().units[1]
    assert unit_is_complete(copy, unit, "key-train-00001")
    assert not unit_is_complete(copy, unit, "another key")
    assert not unit_is_complete(copy, ShardUnit("train", 9, 144, 160), "key-train-00009")
    depth = copy / "train/depth/c.1.0.0"
    flip(depth, 100)
    assert not unit_is_complete(copy, unit, "key-train-00001")
    depth.unlink()
    assert not unit_is_complete(copy, unit, "key-train-00001")


def test_damage_is_repaired_by_building_again(copy: Path, pristine: Path) -> None:
    flip(copy / "train/canonical/c.2.0.0.0", 500)
    (copy / "val/valid/c.0").unlink()
    (copy / "records/train-00000.json").write_text("{")
    (copy / "records/train-00000.json").unlink()
    build(copy)
    assert tree(copy) == tree(pristine)


def test_rewriting_a_shard_takes_back_that_the_dataset_is_finished(copy: Path) -> None:
    plan = make_plan()
    write_unit(copy, plan, plan.units[0], "new key", unit_samples(plan.units[0]))
    with pytest.raises(DatasetError, match="not finished"):
        open_dataset(copy)
    finalise(copy, plan, list_records(copy))
    assert verify_dataset(copy).ok


def test_a_smaller_plan_leaves_nothing_of_the_larger_one(copy: Path, tmp_path: Path) -> None:
    plan = make_plan(counts={"train": 32, "val": 24})
    (copy / ".staging" / "train-00000-1").mkdir(parents=True)
    (copy / ".staging" / "train-00000-1" / "half").write_text("x")
    (copy / ".zarr.json.tmp-1-2").write_text("x")
    (copy / "notes.txt").write_text("of the user")
    build(copy, plan)
    assert (copy / "notes.txt").exists()
    (copy / "notes.txt").unlink()
    assert tree(copy) == tree(build(tmp_path / "small", plan))


def test_finalise_refuses_missing_and_foreign_shards(copy: Path) -> None:
    records = list_records(copy)
    with pytest.raises(StorageError, match="never finished"):
        finalise(copy, make_plan(), records[1:])
    other = make_plan(subjects=("aaron", "ada", "ben", "cleo", "dan"))
    with pytest.raises(StorageError, match="another plan"):
        finalise(copy, other, records)
    assert verify_dataset(copy).ok


def _write_in_process(root: Path, index: int) -> None:
    plan = make_plan()
    unit = plan.units[index]
    write_unit(root, plan, unit, f"key-{unit.name}", unit_samples(unit))


def test_two_processes_write_different_shards_at_once(tmp_path: Path, pristine: Path) -> None:
    root, plan = tmp_path / "dataset.zarr", make_plan()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_write_in_process, [(root, i) for i in range(len(plan.units))], chunksize=1)
    finalise(root, plan, list_records(root))
    assert tree(root) == tree(pristine)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", [1, 8, 17, 24, 40])
def test_a_refusing_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: int
) -> None:
    plan = make_plan(**shard_kill.PLAN)
    unit, root = plan.units[0], tmp_path / "dataset.zarr"
    calls, fsync = 0, os.fsync

    def refuse(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as caught:
        write_unit(root, plan, unit, "k", unit_samples(unit))
    assert "disk" in str(caught.value) or "folder" in str(caught.value)
    assert caught.value.fix
    monkeypatch.undo()
    assert not unit_is_complete(root, unit, "k")
    assert not any(path.is_file() for path in (root / ".staging").rglob("*"))
    assert not any(".tmp-" in path.name or path.name.endswith(".partial") for path in root.rglob("*"))
    with pytest.raises(DatasetError):
        open_dataset(root)
    build(root, plan)
    assert verify_dataset(root).ok


def test_a_file_size_limit_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "dataset.zarr"
    limit = 2048
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom shard_samples import build\n"
        "from datagen.errors import StorageError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY}))\n"
        "try:\n    build(Path(sys.argv[1]))\nexcept StorageError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", code, str(root)], capture_output=True, text=True, check=False, cwd=HERE
    )
    assert result.returncode == 0, result.stderr
    assert "larger than allowed" in result.stdout
    assert not any(path.is_file() for path in root.rglob("*"))


def test_atomic_write_keeps_the_old_content_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "file.json"
    atomic_write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_what_is_no_dataset_is_refused_in_words(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="is no dataset"):
        open_dataset(tmp_path / "empty")
    zarr.create_group(store=str(tmp_path / "foreign.zarr"), attributes={"format": "other"})
    with pytest.raises(DatasetError, match="another kind"):
        verify_dataset(tmp_path / "foreign.zarr")
    (copy / "zarr.json").unlink()
    with pytest.raises(DatasetError, match="not finished"):
        open_dataset(copy)


def test_a_newer_version_asks_for_an_upgrade(copy: Path) -> None:
    document = json.loads((copy / "zarr.json").read_text())
    document["attributes"]["format_version"] = 7
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"version 7.*at most 1.*upgrade canonface"):
        open_dataset(copy)


def test_a_changed_attribute_is_noticed(copy: Path) -> None:
    document = json.loads((copy / "zarr.json").read_text())
    document["attributes"]["depth_scale"] = 3e-5
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(CorruptDatasetError, match="attributes_digest"):
        open_dataset(copy)
    assert not verify_dataset(copy).ok


def test_an_undamaged_dataset_verifies(pristine: Path) -> None:
    report = verify_dataset(pristine)
    assert report.ok, report.problems
    assert report.counts["samples"] == 96
    assert report.counts["shards"] == 7
    assert report.counts["files"] == 7 * len(ARRAYS)
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


@pytest.mark.parametrize("name", ["image", "depth", "canonical", "normal", "confidence", "region"])
def test_a_flipped_bit_names_shard_and_sample(copy: Path, name: str) -> None:
    (path,) = (copy / f"train/{name}").glob("c.1*")
    # The index at the end says where the chunk of the shard's sixth sample lies.
    offset, length = np.frombuffer(path.read_bytes()[-(16 * 16 + 4) : -4], "<u8").reshape(16, 2)[5]
    flip(path, int(offset + length // 2))
    with pytest.raises(CorruptDatasetError, match=rf"split train, array {name}, shard 1, sample 21"):
        open_dataset(copy)["train"].sample(21)
    open_dataset(copy)["train"].sample(20)
    found = {(p.split, p.shard, p.sample) for p in verify_dataset(copy).problems}
    assert found == {("train", 1, None), ("train", 1, 21)}


@pytest.mark.parametrize("name", list(ARRAYS))
def test_a_flipped_last_byte_names_the_shard(copy: Path, name: str) -> None:
    path = next(p for p in sorted((copy / f"val/{name}/c.1").parent.rglob("*")) if p.is_file())
    flip(path, -1)
    problems = verify_dataset(copy).problems
    assert problems
    assert {(p.split, p.shard) for p in problems} == {("val", 0)}


@pytest.mark.parametrize("path", ["train/canonical/c.3.0.0.0", "train/frame/c.3"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_file_is_noticed(copy: Path, path: str, keep: float) -> None:
    size = (copy / path).stat().st_size
    os.truncate(copy / path, int(size * keep) if keep < 1 else int(keep))
    with pytest.raises(CorruptDatasetError, match="shard 3"):
        open_dataset(copy)["train"].sample(50)
    assert {(p.split, p.shard) for p in verify_dataset(copy, deep=False).problems} == {("train", 3)}


@pytest.mark.parametrize("path", ["train/depth/c.4.0.0", "train/valid/c.4"])
def test_a_missing_file_is_never_read_as_zeros(copy: Path, path: str) -> None:
    (copy / path).unlink()
    with pytest.raises(CorruptDatasetError, match="shard 4"):
        open_dataset(copy)["train"].sample(70)
    assert not verify_dataset(copy, deep=False).ok


@pytest.mark.parametrize("path", ["records/val-00001.json", "val/zarr.json", "train/time/zarr.json", "zarr.json"])
def test_any_flipped_bit_of_metadata_is_noticed(copy: Path, path: str) -> None:
    original = (copy / path).read_bytes()
    for position in np.linspace(0, len(original) - 2, 12).astype(int):
        flip(copy / path, int(position))
        if _same_json(original, (copy / path).read_bytes()):
            continue  # white space
        try:
            assert not verify_dataset(copy, deep=False).ok, position
        except DatasetError:
            assert path == "zarr.json"
        (copy / path).write_bytes(original)


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def test_stray_files_are_named(copy: Path) -> None:
    (copy / "train/depth/more").mkdir()
    (copy / "train/depth/more/extra").write_text("x")
    (problem,) = verify_dataset(copy, deep=False).problems
    assert "train/depth/more/extra" in str(problem)


def _forge(root: Path, plan: DatasetPlan, lie: dict[str, object]) -> None:
    """Write shards by one plan and finish them under another, as a faulty builder would."""
    for unit in plan.units:
        write_unit(root, plan, unit, f"key-{unit.name}", unit_samples(unit))
    claimed = make_plan(**lie)
    for path in sorted((root / "records").iterdir()):
        record = json.loads(path.read_text())
        record["encoding_digest"] = claimed.encoding_digest
        path.write_text(json.dumps(record))


def test_a_subject_in_two_splits_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "dataset.zarr"
    lie = {"splits": {"train": ("ada", "ben"), "val": ("cleo", "dan"), "test": ()}}
    _forge(root, make_plan(), lie)
    with pytest.raises(StorageError, match="holds cleo, a subject of val"):
        finalise(root, make_plan(**lie), list_records(root))
    monkeypatch.setattr("datagen.shards.finish._check_order", lambda *_: None)
    finalise(root, make_plan(**lie), list_records(root))
    report = verify_dataset(root, deep=False)
    (problem,) = report.problems
    assert (problem.split, problem.sample) == ("train", sample_keys("train").index(("cleo", "neutral", "cam00", 0)))
    assert "cleo" in problem.message


def test_broken_invariants_of_a_sample_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, plan = tmp_path / "dataset.zarr", make_plan(counts={"train": 8})
    from datagen.shards import writer

    encode = writer.encode_unit

    def careless(*args: object) -> dict[str, np.ndarray]:
        arrays = encode(*args)
        arrays["depth"][2, 14, 14] = 0
        arrays["canonical"][3, 0, 14, 14] = 65535
        arrays["region"][4, 14, 14] = 200
        arrays["valid"][5] = 0
        arrays["frame"][7] = arrays["frame"][6] - 1
        return arrays

    monkeypatch.setattr(writer, "encode_unit", careless)
    monkeypatch.setattr("datagen.shards.finish._check_order", lambda *_: None)
    write_unit(root, plan, plan.units[0], "k", unit_samples(ShardUnit("train", 0, 0, 8)))
    finalise(root, plan, list_records(root))
    found = {problem.sample for problem in verify_dataset(root).problems}
    assert found == {2, 3, 4, 5, 7}
    with pytest.raises(CorruptDatasetError, match="sample 5"):
        open_dataset(root)["train"].sample(0)
