"""A push that replaces another dataset, seen before every write and removal: all of one, of the other, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import DatasetError, StorageError
from datagen.shards import finalise, list_records, open_dataset, verify_dataset, write_unit
from datagen.shards.contents import JOURNAL
from datagen.shards.ledger import file_problem
from datagen.shards.store import LocalStore
from datagen.shards.tools.publish import publish
from tests.support.shard_samples import make_plan, make_sample, sample_keys, tree

pytestmark = pytest.mark.usefixtures("without_fsync")


def small(root: Path, count: int, first: int, **changes: object) -> Path:
    """A dataset of ``count`` samples in shards of two, of other views for another ``first``."""
    plan = make_plan(counts={"train": count}, samples_per_shard=2, clip=1, resolution=8, **changes)
    for unit in plan.units:
        keys = sample_keys("train")[first + unit.start : first + unit.stop]
        write_unit(root, plan, unit, f"{first}-{unit.name}", [make_sample(*key, resolution=8) for key in keys])
    finalise(root, plan, list_records(root))
    return root


@pytest.fixture(scope="module")
def old(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is replaced: one shard more, with the names of the new one's and other bytes in them."""
    return small(tmp_path_factory.mktemp("old") / "dataset.zarr", 5, 20)


@pytest.fixture(scope="module")
def new(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("new") / "dataset.zarr", 3, 0)


class Steps:
    """Notes the writes and removals of local stores in order; something may look, or fail, before each."""

    def __init__(
        self, patch: pytest.MonkeyPatch, before: Callable[[int, str], None] = lambda _number, _step: None
    ) -> None:
        self.done: list[tuple[str, str]] = []
        self._before = before
        patch.setattr(LocalStore, "write", self._noted("write", LocalStore.write))
        patch.setattr(LocalStore, "delete", self._noted("delete", LocalStore.delete))

    def _noted(self, what: str, real: Callable[..., None]) -> Callable[..., None]:
        def step(store: LocalStore, key: str, *data: Any) -> None:
            self._before(len(self.done), f"{what} {key}")
            self.done.append((what, key))
            real(store, key, *data)

        return step


def push(source: Path, target: Path, **options: Any) -> Any:
    return publish(source, target, at_once=1, **options)


def copied(source: Path, target: Path) -> Path:
    """A copy made of links, which a push replaces by files of its own."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def check_reader(target: Path, allowed: list[dict[str, bytes]]) -> bool:
    """Whether a dataset opens, which must then be one of ``allowed``; every record must be that of the files there."""
    try:
        open_dataset(target)
        opens = True
    except DatasetError:
        opens = False
    there = {key: data for key, data in tree(target).items() if key != JOURNAL}
    assert not opens or there in allowed
    store = LocalStore(target)
    for record in list_records(target):
        wrong = [file_problem(store, key, digest, digest=True) for key, digest in record.files.items()]
        assert not any(wrong), record.name
    return opens


def test_a_replacing_push_never_shows_a_mixture_wherever_it_is_broken(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, allowed, opened = copied(old, tmp_path / "target"), [tree(old), tree(new)], list[int]()

    def look(number: int, step: str) -> None:
        try:
            if check_reader(target, allowed):
                opened.append(number)
        except AssertionError as error:
            raise AssertionError(f"before {step}: {error}") from None

    steps = Steps(monkeypatch, look).done
    push(new, target, replace=True)
    assert tree(target) == tree(new)
    assert len(steps) > 40
    # Before the old root document is gone nothing has been touched; the journal is written first.
    assert opened == [0, 1]


@pytest.mark.parametrize("stop", [0, 1, 2, 20, 45, -2, -1])
def test_a_replacing_push_that_breaks_goes_on_to_the_whole(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    with monkeypatch.context() as patch:
        steps = Steps(patch).done
        push(new, copied(old, tmp_path / "whole"), replace=True)
    total = len(steps)
    target = copied(old, tmp_path / "target")

    def fail(number: int, step: str) -> None:
        if number == stop % total:
            raise StorageError(f"{step} failed: the store is gone", "a store that answers", "")

    with monkeypatch.context() as patch:
        done = Steps(patch, fail).done
        with pytest.raises(StorageError, match="the store is gone"):
            push(new, target, replace=True)
        assert done == steps[: stop % total]
    assert check_reader(target, [tree(old)]) is (stop in (0, 1))
    push(new, target, replace=True)
    assert tree(target) == tree(new)


def test_the_old_root_goes_first_and_the_new_one_comes_last(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = copied(old, tmp_path / "target")
    steps = Steps(monkeypatch).done
    report = push(new, target, replace=True)
    assert steps[:2] == [("write", JOURNAL), ("delete", "zarr.json")]
    assert steps[-2:] == [("delete", JOURNAL), ("write", "zarr.json")]
    assert [key for _, key in steps].count("zarr.json") == 2
    for shard in ("train-00000", "train-00001"):
        key, number = f"records/{shard}.json", int(shard[-1])
        files = [k for k, (what, name) in enumerate(steps) if what == "write" and f"/c.{number}" in name]
        assert steps.index(("delete", key)) < min(files)
        assert max(files) < steps.index(("write", key))
    # What only the old one had goes before the new root comes.
    stale = set(tree(old)) - set(tree(new))
    assert {key for what, key in steps if what == "delete" and key in stale} == stale
    assert report.removed == len(stale) > 0
    sent = [key for what, key in steps if what == "write" and key != JOURNAL]
    assert report.sent == len(sent)
    assert report.sent_bytes == sum(len(tree(new)[key]) for key in sent)
    assert report.kept_bytes + report.sent_bytes == sum(map(len, tree(new).values()))


def test_a_push_that_is_finished_touches_no_root(new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    push(new, target)
    steps = Steps(monkeypatch).done
    report = push(new, target)
    assert steps == []
    assert (report.sent, report.removed) == (0, 0)
    # A file damaged at its full length under a record is not looked at; one that is missing is sent again.
    (target / "train/depth/c.0.0.0").unlink()
    assert push(new, target).sent == 1
    assert steps == [("write", "train/depth/c.0.0.0")]
    assert verify_dataset(target).ok


def test_without_replace_a_record_of_another_dataset_stops_the_push_before_anything_is_written(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = copied(old, tmp_path / "target")
    (target / "zarr.json").unlink()
    before = tree(target)
    steps = Steps(monkeypatch).done
    with pytest.raises(DatasetError, match=r"holds records/train-00000\.json and \d+ more, whose bytes"):
        push(new, target)
    assert steps == []
    assert tree(target) == before


def test_every_shard_is_told_of_once_in_order(new: Path, tmp_path: Path) -> None:
    told: list[str] = []
    publish(new, tmp_path / "target", on_shard=lambda unit: told.append(unit.name))
    assert told == ["train-00000", "train-00001"]


def test_many_files_at_once_leave_the_order_of_shards_records_and_root(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = copied(old, tmp_path / "target")
    steps = Steps(monkeypatch).done
    publish(new, target, replace=True, at_once=6)
    order = [("delete", "zarr.json")]
    for shard in (0, 1):
        record = f"records/train-0000{shard}.json"
        order += [("delete", record), ("write", record)]
    assert [step for step in steps if step in [*order, ("write", "zarr.json")]] == [*order, ("write", "zarr.json")]
    for shard in (0, 1):
        files = [k for k, (what, name) in enumerate(steps) if what == "write" and f"/c.{shard}" in name]
        assert max(files) < steps.index(("write", f"records/train-0000{shard}.json"))
    assert tree(target) == tree(new)
