"""What is known of files: nothing is read twice, and whatever may have changed is read again."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datagen.common.errors import StorageError
from datagen.flows import state_index as module
from datagen.flows.build import build
from datagen.flows.known_inputs import KnownInputs
from datagen.flows.records import ResultRecord, finished_record, known_result, store_result
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.seen import Seen, signature_of
from datagen.flows.state_index import StateIndex, look, open_index, read_and_remember, remember, state_index
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from datagen.shards import ledger
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Captures, SequenceKey
from datagen.sources.registry import FolderSource
from tests.support.build_trees import folder_build, tree

if TYPE_CHECKING:
    from datagen.flows.build import BuildResult

KEY = SequenceKey("s000", "performance")
SERIAL = RunnerConfig("serial")


@pytest.fixture
def layout(tmp_path: Path) -> BuildLayout:
    found = BuildLayout(tmp_path / "out")
    found.plan.mkdir(parents=True)
    return found


def aged(*paths: Path, seconds: float = 60.0) -> None:
    """Let files be as old as what is believed."""
    for path in paths:
        os.utime(path, ns=(time.time_ns(), time.time_ns() - int(1e9 * seconds)))


def a_file(folder: Path, text: str = "content") -> Path:
    path = folder / "file"
    path.write_text(text)
    aged(path)
    return path


def keep(layout: BuildLayout, path: Path, told: str = "told") -> None:
    read_and_remember(layout.root, "group", "name", [str(path)], told, read_s=time.time())


def test_what_was_found_in_files_is_known_in_the_next_run_too(layout: BuildLayout, tmp_path: Path) -> None:
    path = a_file(tmp_path)
    with state_index(layout) as index:
        assert open_index(layout.root) is index
        keep(layout, path)
        assert look(layout.root, "group", "name").told == "told"
        assert look(layout.root, "group", "other") is None
    assert open_index(layout.root) is None
    assert look(layout.root, "group", "name") is None  # outside of a build nothing is believed
    with state_index(layout):
        assert look(layout.root, "group", "name").told == "told"


def test_a_copied_folder_tells_of_its_own_files(layout: BuildLayout, tmp_path: Path) -> None:
    inside = a_file(layout.root)
    with state_index(layout):
        keep(layout, inside)
    copied = BuildLayout(Path(shutil.copytree(layout.root, tmp_path / "copied")))
    with state_index(copied):
        assert look(copied.root, "group", "name") is None
        keep(copied, copied.root / "file")
        assert look(copied.root, "group", "name") is not None
        inside.unlink()
        assert look(copied.root, "group", "name") is not None


@pytest.mark.parametrize("change", ["size", "time", "inode", "gone", "came"])
def test_whatever_changes_of_a_file_it_is_read_again(layout: BuildLayout, tmp_path: Path, change: str) -> None:
    path = a_file(tmp_path)
    before = path.stat()
    if change == "came":
        path.unlink()
    with state_index(layout):
        keep(layout, path)
        if change == "size":
            path.write_text("content!")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif change == "time":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        elif change == "inode":
            shutil.copy2(path, tmp_path / "copy")
            os.replace(tmp_path / "copy", path)
        elif change == "gone":
            path.unlink()
        else:
            path.write_text("content")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert look(layout.root, "group", "name") is None


def test_where_nobody_changes_results_one_look_does(layout: BuildLayout, tmp_path: Path) -> None:
    path = a_file(tmp_path)
    with state_index(layout) as index:
        keep(layout, path)
        index.settle(True)
        assert look(layout.root, "group", "name") is not None
        path.unlink()
        assert look(layout.root, "group", "name") is not None
        assert look(layout.root, "group", "other") is None
        index.settle(False)
        assert look(layout.root, "group", "name") is None


def test_what_is_looked_at_ahead_comes_in_its_order_and_is_what_holds(
    layout: BuildLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    monkeypatch.setattr(module, "_LOOKING", 1)
    groups = [f"group {number}" for number in range(9)]
    asked: list[str] = []

    def named() -> Iterator[str]:
        for group in groups:
            asked.append(group)
            yield group

    with state_index(layout) as index:
        for group in groups[:-1]:
            (tmp_path / group).write_text("content")
            aged(tmp_path / group)
            read_and_remember(layout.root, group, "name", [str(tmp_path / group)], f"of {group}", read_s=time.time())
        (tmp_path / groups[3]).write_text("other content")
        (tmp_path / groups[6]).unlink()
        told = [None if seen is None else seen.told for seen in index.ahead(named(), "name")]
        assert told == [None if number in (3, 6, 8) else f"of {group}" for number, group in enumerate(groups)]
        assert asked == groups
        assert list(index.ahead(groups[:2], "another")) == [None, None]
        asked.clear()
        some = index.ahead(named(), "name")
        assert next(some) is not None
        assert len(asked) == 4  # of a million, no more than the next few are held
        some.close()


def test_a_file_that_was_changed_within_the_grain_of_the_clock_is_not_believed(
    layout: BuildLayout, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    with state_index(layout):
        keep(layout, path)
        assert look(layout.root, "group", "name") is None
        aged(path, seconds=module.RACY_S - 0.5)
        keep(layout, path)
        assert look(layout.root, "group", "name") is None
        os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**12))  # another machine's clock is ahead
        keep(layout, path)
        assert look(layout.root, "group", "name") is None
        aged(path, seconds=module.RACY_S + 0.5)
        keep(layout, path)
        assert look(layout.root, "group", "name") is not None


def test_what_workers_of_other_processes_learn_is_taken_in_by_the_next_build(
    layout: BuildLayout, tmp_path: Path
) -> None:
    path = a_file(tmp_path)
    keep(layout, path)  # no index is open here: as in a worker
    (journal,) = layout.plan.glob("journal-*")
    with open(journal, "a") as file:
        file.write('{"group": "group", "name": "half')  # its process was killed
    stranger = layout.plan / "journal-of-mine.txt"
    stranger.write_text("mine")
    with state_index(layout):
        assert look(layout.root, "group", "name").told == "told"
    assert not journal.exists()
    assert stranger.read_text() == "mine"


def test_without_a_build_folder_nothing_is_written(tmp_path: Path) -> None:
    remember(tmp_path / "nowhere", "group", "name", Seen((), b"", "told"))
    with state_index(BuildLayout(tmp_path / "nowhere")):
        remember(tmp_path / "nowhere", "group", "name", Seen((), b"", "told"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_index_is_begun_anew_and_a_strangers_file_is_not_touched(layout: BuildLayout, tmp_path: Path) -> None:
    path = a_file(tmp_path)
    with state_index(layout):
        keep(layout, path)
    base = layout.plan / "state.sqlite"
    data = base.read_bytes()
    base.write_bytes(data[:4096] + b"\0" * (len(data) - 4096) if len(data) > 4096 else data[:100] + b"\xff" * 400)
    with state_index(layout):
        keep(layout, path)
        assert look(layout.root, "group", "name").told == "told"
    for foreign in (b"notes of mine", b"SQLite format 3\0" + bytes(200)):
        base.write_bytes(foreign)
        with pytest.raises(StorageError, match=r"state\.sqlite is in the way"), state_index(layout):
            pass
        assert base.read_bytes() == foreign


def test_a_great_many_entries_are_found_again(layout: BuildLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PENDING", 7)
    monkeypatch.setattr(module, "_GROUPS_KEPT", 2)
    monkeypatch.setattr(module, "_PACKS", 3)
    signature = signature_of(layout.root, ())
    with state_index(layout):
        for number in range(60):
            remember(layout.root, f"group {number % 5}", str(number), Seen((), signature, f"told {number}"))
        remember(layout.root, "group 0", "0", Seen((), signature, "the latest"))
        assert look(layout.root, "group 0", "0").told == "the latest"
    for _ in range(2):  # from rows as they were written, and as they are put together when there are many
        with state_index(layout):
            assert look(layout.root, "group 0", "0").told == "the latest"
            assert all(look(layout.root, f"group {n % 5}", str(n)).told == f"told {n}" for n in range(1, 60))
    with sqlite3.connect(layout.plan / "state.sqlite") as base:
        assert max(base.execute("SELECT count(*) FROM packs GROUP BY place").fetchall()) <= (3,)
    reading = StateIndex(layout, writes=False)
    reading.open()
    assert reading.get("group 3", "3").told == "told 3"
    reading.put("group 3", "4", Seen((), signature, "new"))
    reading.close()
    with state_index(layout):
        assert look(layout.root, "group 3", "4") is None


class Counting(Captures):
    """Captures of one frame that count how often they are read."""

    def __init__(self, captures: FolderCaptures) -> None:
        self.captures, self.read = captures, 0

    def sequences(self):  # type: ignore[no-untyped-def]
        return self.captures.sequences()

    def frame(self, key, index):  # type: ignore[no-untyped-def]
        return self.captures.frame(key, index)

    def input_digest(self, key, index):  # type: ignore[no-untyped-def]
        return self.inputs(key, index).digest

    def inputs(self, key, index):  # type: ignore[no-untyped-def]
        self.read += 1
        return self.captures.inputs(key, index)


@pytest.fixture
def captures(tiny_build: BuildResult, tmp_path: Path) -> Path:
    root = tmp_path / "captures"
    shutil.copytree(tiny_build.root / "captures", root)
    aged(*root.rglob("*"))
    return root


def test_an_input_is_read_once_until_anything_of_it_changes(layout: BuildLayout, captures: Path) -> None:
    source = FolderSource(kind="folder", root=captures)
    counting = Counting(FolderCaptures(captures))
    folder = captures / str(KEY)

    def digest(**options: bool) -> str:
        with state_index(layout, **options):
            return KnownInputs(layout.root, source, counting).input_digest(KEY, 0)

    first = digest()
    assert first == FolderCaptures(captures).input_digest(KEY, 0)
    assert digest() == first
    assert counting.read == 1
    assert digest(check_inputs=True) == first
    assert counting.read == 2
    # The folder of a camera that had no pictures, a picture that is taken away, and an edited scan.
    scan = next((folder / "scans").iterdir())
    data = scan.read_bytes()
    scan.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    aged(scan, seconds=30)
    changed = digest()
    assert (counting.read, changed != first) == (3, True)
    assert digest() == changed
    assert counting.read == 3
    shutil.rmtree(folder / "images" / "cam00")
    assert digest() not in (first, changed)
    assert counting.read == 4
    # What another source makes of the same files is another matter.
    other = KnownInputs(layout.root, FolderSource(kind="folder", root=captures, name="other"), counting)
    with state_index(layout):
        other.input_digest(KEY, 0)
    assert counting.read == 5


def test_a_result_is_known_to_be_whole_until_a_file_of_it_changes(layout: BuildLayout) -> None:
    folder = layout.frame_warp(KEY, 0)
    with state_index(layout):
        store_result(folder, ResultRecord("key", "input", "pass", ("a",), {}), {"warp.npz": b"warp"}, root=layout.root)
        record = known_result(layout.root, folder)
        assert record is not None
        assert finished_record(folder, "key", layout.root) == record
        assert finished_record(folder, "other", layout.root) is None
        (folder / "warp.npz").write_bytes(b"warq")
        assert finished_record(folder, "key", layout.root) is None
        (folder / "warp.npz").unlink()
        assert known_result(layout.root, folder) is None


def test_a_finished_build_reads_no_input_no_warp_and_no_shard_again(
    tiny_build: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = folder_build(tiny_build.root, tmp_path / "out", tmp_path / "captures")
    out, recipe = tmp_path / "out", load_manifest(manifest)
    aged(*(path for path in tmp_path.rglob("*") if ".canonface" not in path.name))
    first = build(recipe, out, SERIAL)
    before = tree(out)
    assert (first.warped, first.rendered, first.verification.ok) == (0, 0, True)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was read again")

    with monkeypatch.context() as patch:
        patch.setattr(FolderCaptures, "inputs", fail)
        patch.setattr(ledger, "digest_object", fail)
        patch.setattr("datagen.flows.records.digest_file", fail)
        again = build(recipe, out, SERIAL)
        assert again.verification == first.verification
        for options in ({"check_inputs": True}, {"deep": True}):
            with pytest.raises(AssertionError, match="read again"):
                build(recipe, out, SERIAL, **options)
    assert tree(out) == before

    # Whatever is damaged is found all the same, by time or by the whole look.
    shard = out / "dataset.zarr/train/depth/c.0.0.0"
    shard = shard if shard.is_file() else next((out / "dataset.zarr/train/depth").glob("c.*"))
    data = shard.read_bytes()
    shard.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert build(recipe, out, SERIAL).rendered > 0
    assert tree(out) == before
    build(recipe, out, SERIAL)
    stamp = shard.stat()
    shard.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert build(recipe, out, SERIAL).verification.ok
    assert not build(recipe, out, SERIAL, deep=True).verification.ok
