"""Which error it is: what the storage refuses is never taken for damage, and no batch is changed by it."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import MissingObjectError, StorageError
from datagen.shards import ShardStream, StreamConfig, open_dataset, stats, unit_is_complete, verify_dataset
from datagen.shards.ledger import list_records
from datagen.shards.tools.combine import Selection, subset
from tests.support.read_faults import read_faults
from tests.support.shard_samples import build, make_plan

pytestmark = pytest.mark.usefixtures("without_fsync")

PLAN = make_plan(counts={"train": 8, "val": 4}, samples_per_shard=4)
CONFIG = StreamConfig(lengths=(1, 2), frames_per_batch=4, seed=3)
# Said by a file system about itself, not about the file's bytes. Missing files are damage, and a link to itself is one.
REFUSALS = [
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "EIO", "EACCES", "EPERM", "ESTALE", "ETIMEDOUT", "ENOMEM", "EAGAIN", "EBUSY")
]


@pytest.fixture(scope="module")
def root(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("refused") / "dataset.zarr", PLAN)


def batches(root: Path) -> list[dict[str, Any]]:
    with ShardStream(open_dataset(root), "train", CONFIG, on_corrupt="skip") as stream:
        found = [{"samples": batch.samples, **batch.arrays} for batch in stream]
        assert not stream.damaged
    return found


def verified(root: Path) -> list[str]:
    return [str(problem) for level in ("quick", "digests", "deep") for problem in verify_dataset(root, level).problems]


def complete(root: Path) -> list[bool]:
    return [unit_is_complete(root, unit, f"key-{unit.name}") for unit in PLAN.units]


def recorded(root: Path) -> list[str]:
    return [record.content_key for record in list_records(root)]


def cut(root: Path) -> list[str]:
    """Cutting reads another dataset; nothing is written where it is refused."""
    out = root.parent / "cut.zarr"
    assert not out.exists()
    try:
        return [subset(root, out, Selection.parse(["camera=cam00"])).uuid]
    finally:
        shutil.rmtree(out, ignore_errors=True)


WORK: dict[str, Callable[[Path], Any]] = {
    "stream": batches, "verify": verified, "stats": stats, "complete": complete, "records": recorded, "subset": cut,
}  # fmt: skip


@pytest.mark.parametrize(("name", "tries"), [(n, 10 if n in ("verify", "stats", "subset") else 60) for n in WORK])
def test_a_disk_that_refuses_gives_the_exact_result_or_its_own_error(root: Path, name: str, tries: int) -> None:
    work = WORK[name]
    with read_faults(root) as counted:
        want = work(root)
    assert counted.count > 4

    @settings(max_examples=tries, deadline=None)
    @given(st.sampled_from(REFUSALS), st.integers(1, counted.count), st.sampled_from([1, 2, 10**9]))
    def refuse(code: int, at: int, times: int) -> None:
        with read_faults(root, code, at, times):
            try:
                found = work(root)
            except StorageError as error:
                refused = error
            else:
                np.testing.assert_equal(found, want)
                return
        assert not isinstance(refused, MissingObjectError)
        assert str(root) in str(refused)

    refuse()


def test_what_passes_by_itself_is_not_noticed(root: Path) -> None:
    want = batches(root)
    with read_faults(root) as faults:
        split = open_dataset(root)["train"]
        split.index  # noqa: B018
        before = faults.count
        split.read(["image"], range(8))
    for code in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE):
        for at in range(before + 1, faults.count + 1):
            with read_faults(root, code, at, 2):
                np.testing.assert_equal(batches(root), want)


def test_few_descriptors_make_it_keep_fewer_open(root: Path, tmp_path: Path) -> None:
    many = build(tmp_path / "dataset.zarr", make_plan(counts={"train": 72}, samples_per_shard=4))
    want = batches(many)  # 18 shards of 4 files each
    used, taken = len(os.listdir("/proc/self/fd")), list[int]()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for room in (3, 8, 40):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, hard))
            np.testing.assert_equal(batches(many), want)
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StorageError, match=r"Too many open files.*ulimit -n"):
            batches(many)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_was_opened_is_closed_without_the_collector(root: Path) -> None:
    gc.collect()  # what other tests of this process left open is not ours
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for k in range(400):
            split = open_dataset(root)["train"]
            split.sample(k % 8)
            if k % 40 == 0:
                with ShardStream(split.dataset, "train", CONFIG, workers=1) as stream:
                    list(stream)
        del split, stream
        assert len(os.listdir("/proc/self/fd")) <= before + 10
    finally:
        gc.enable()
    with open_dataset(root) as dataset:
        dataset["train"].sample(0)
        assert len(os.listdir("/proc/self/fd")) > before
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert dataset["train"].sample(0).camera == "cam00"  # reading opens again
