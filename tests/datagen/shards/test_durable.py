"""Kills, full disks, several writers, damage: what a dataset survives, and what is noticed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.pool import Pool
from pathlib import Path

import pytest

from datagen.common.errors import DatasetError, StorageError
from datagen.common.files import atomic_write_bytes
from datagen.shards import (
    ARRAYS,
    ShardUnit,
    finalise,
    list_records,
    open_dataset,
    unit_is_complete,
    verify_dataset,
    write_unit,
)
from datagen.shards.ownership import foreign_files
from tests.support.places import ROOT
from tests.support.shard_samples import build, flip, make_plan, tree, unit_samples

pytestmark = pytest.mark.usefixtures("without_fsync")


def test_the_same_plan_gives_the_same_bytes(pristine: Path, tmp_path: Path) -> None:
    root, plan = tmp_path / "again", make_plan()
    for unit in reversed(plan.units):  # the order of writing must not matter either
        write_unit(root, plan, unit, f"key-{unit.name}", unit_samples(unit))
    finalise(root, plan, reversed(list_records(root)))
    assert tree(root) == tree(pristine)


@pytest.mark.parametrize(("action", "every"), [("kill", 7), ("full", 29)])
def test_a_fault_at_any_durable_step_is_survived_to_the_same_bytes(tmp_path: Path, action: str, every: int) -> None:
    """Steps are counted, not listed: see fault_hooks.py. Each kind of them is tried."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    try:
        command = [sys.executable, "-m", "tests.support.shard_kill", str(folder), action, str(every)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    finally:
        if folder != tmp_path:
            shutil.rmtree(folder)
    assert result.returncode == 0, result.stderr
    steps, kinds, tried = map(int, result.stdout.split())
    # Each array alone takes five: open, fsync, rename, and the fsyncs of two folders.
    assert steps > 5 * len(ARRAYS)
    assert 20 < kinds <= tried
    assert tried >= steps // every


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
    (copy / "records/train-00000.json").unlink()
    build(copy)
    assert tree(copy) == tree(pristine)


@pytest.mark.parametrize(
    "name", ["zarr.json", "train/depth/zarr.json", "train/zarr.json", "records/train-00000.json", "train/depth/c.0.0.0"]
)
@pytest.mark.parametrize("link", [False, True])
def test_what_no_record_names_is_not_written_over(
    copy: Path, pristine: Path, tmp_path: Path, name: str, link: bool
) -> None:
    """Whether the shard is asked for again or the dataset finished: the file is refused by name, and stays."""
    theirs = tmp_path / "theirs"
    theirs.write_text("of the user")
    whole = (copy / name).read_bytes()
    (copy / name).unlink()
    if link:
        (copy / name).symlink_to(theirs)
    else:
        (copy / name).write_text("of the user")
    plan = make_plan()
    records = list_records(pristine)
    for write in (
        lambda: write_unit(copy, plan, plan.units[0], "new", unit_samples(plan.units[0])),
        lambda: finalise(copy, make_plan(counts={"train": 16}), [records[0]]),
    ):
        with suppress(StorageError):
            write()
        assert (copy / name).read_text() == "of the user"
    assert copy / name in foreign_files(copy)
    (copy / name).unlink()
    (copy / name).write_bytes(whole)
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
    (copy / ".staging" / "train-00000-1-0123abcd").mkdir(parents=True)
    (copy / ".staging" / "train-00000-1-0123abcd" / "depth").write_text("x")
    (copy / ".zarr.json.tmp-1-0123abcd").write_text("x")
    theirs = ("notes.txt", "train/photo.jpg", "val/depth/c.7", "records/me.txt", ".staging/x", ".zarr.json.tmp-1-2")
    for name in theirs:
        (copy / name).write_text("of the user")
    build(copy, plan)
    for name in theirs:
        assert (copy / name).read_text() == "of the user"
        (copy / name).unlink()
    (copy / ".staging").rmdir()
    assert tree(copy) == tree(build(tmp_path / "small", plan))


def test_finalise_refuses_missing_and_foreign_shards(copy: Path) -> None:
    records = list_records(copy)
    with pytest.raises(StorageError, match="never finished"):
        finalise(copy, make_plan(), records[1:])
    other = make_plan(image_error=0)
    with pytest.raises(StorageError, match="another plan"):
        finalise(copy, other, records)
    assert verify_dataset(copy).ok


def _write_in_process(root: Path, index: int) -> None:
    plan = make_plan()
    unit = plan.units[index]
    write_unit(root, plan, unit, f"key-{unit.name}", unit_samples(unit))


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


def test_two_processes_write_different_shards_at_once(tmp_path: Path, pristine: Path, two_processes: Pool) -> None:
    root, plan = tmp_path / "dataset.zarr", make_plan()
    two_processes.starmap(_write_in_process, [(root, i) for i in range(len(plan.units))], chunksize=1)
    finalise(root, plan, list_records(root))
    assert tree(root) == tree(pristine)


def _write_the_same(root: Path, _: int) -> None:
    _write_in_process(root, 0)


def test_two_processes_write_the_same_shard_at_once(tmp_path: Path, pristine: Path, two_processes: Pool) -> None:
    root, plan = tmp_path / "dataset.zarr", make_plan()
    two_processes.starmap(_write_the_same, [(root, i) for i in range(6)], chunksize=1)
    assert unit_is_complete(root, plan.units[0], "key-train-00000")
    build(root)
    assert tree(root) == tree(pristine)


def test_reading_verifying_and_counting_write_nothing(pristine: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.support.fault_hooks import Steps\n"
        "from datagen.shards import open_dataset, stats, verify_dataset\n"
        "root = Path(sys.argv[1])\nsteps = Steps(root)\n"
        "assert verify_dataset(root).ok\nstats(root)\nopen_dataset(root)['train'].sample(3)\n"
        "print(steps.names)\n(root / 'x').write_text('x')\nprint(len(steps.names))\n(root / 'x').unlink()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(pristine)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.stdout.split() == ["[]", "1"], result.stderr


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", [1, 8, 17, 24, 40])
def test_a_refusing_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: int
) -> None:
    plan = make_plan(counts={"train": 6}, samples_per_shard=4)
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
        "import resource, sys\nfrom pathlib import Path\nfrom tests.support.shard_samples import build\n"
        "from datagen.common.errors import StorageError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY}))\n"
        "try:\n    build(Path(sys.argv[1]))\nexcept StorageError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", code, str(root)], capture_output=True, text=True, check=False, cwd=ROOT
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
