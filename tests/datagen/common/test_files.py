"""Files and folders are whole or not there, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import InputError, StorageError
from datagen.common.files import (
    DISK_ERRORS,
    atomic_write,
    atomic_write_bytes,
    check_writable,
    folder_lock,
    is_temporary,
    json_ready,
    npz_bytes,
    read_npz,
    staged_folder,
    storage_errors,
)
from datagen.common.ownership import LISTING
from tests.support.places import ROOT

ARRAYS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "flags": np.array([True, False]), "none": np.zeros((0, 3))}


class Recorder:
    """The order of fsyncs and renames, with what a file held when it was fsynced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, ...]] = []
        fsync, replace = os.fsync, os.replace

        def recorded_fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            self.events.append(("fsync", str(path), path.read_text() if path.is_file() else ""))
            fsync(descriptor)

        def recorded_replace(source: Path, target: Path) -> None:
            self.events.append(("replace", str(source), str(target)))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_synced_renamed_and_its_folder_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder(monkeypatch)
    path = tmp_path / "file"
    atomic_write_bytes(path, b"content")
    kinds = [event[0] for event in recorder.events]
    assert kinds == ["fsync", "replace", "fsync"]
    (_, temporary, held), (_, source, target), (_, folder, _) = recorder.events
    assert is_temporary(Path(temporary).name)
    assert held == "content"
    assert (source, target, folder) == (temporary, str(path), str(tmp_path))


def test_new_parents_are_entered_durably_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder(monkeypatch)
    atomic_write_bytes(tmp_path / "a" / "b" / "file", b"x")
    synced = [event[1] for event in recorder.events if event[0] == "fsync"]
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]
    assert synced[-1] == str(tmp_path / "a" / "b")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path, error: BaseException):
    path = tmp_path / "file"
    path.write_text("old")

    def write(file: io.BufferedIOBase) -> None:
        file.write(b"half")
        raise error

    expected = StorageError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        atomic_write(path, write)
    assert isinstance(error, RuntimeError | KeyboardInterrupt) or "the disk is full" in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_only_what_the_disk_refuses_is_its_error():
    with (
        pytest.raises(StorageError, match=r"warping a/b failed: the disk is full.*Free some space"),
        storage_errors("warping a/b", only=DISK_ERRORS),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), storage_errors("warping a/b", only=DISK_ERRORS):
        raise FileNotFoundError(errno.ENOENT, "No such file")
    with pytest.raises(StorageError, match="reading failed"), storage_errors("reading"):
        raise FileNotFoundError(errno.ENOENT, "No such file")


def fill(out: Path, files: dict[str, str], *, replace: bool, error: BaseException | None = None) -> None:
    with staged_folder(out, replace=replace) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
        if error is not None:
            raise error


@pytest.mark.parametrize("replace", [True, False])
def test_everything_in_a_folder_is_durable_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool
):
    recorder = Recorder(monkeypatch)
    with staged_folder(tmp_path / "out", replace=replace) as staging:
        (staging / "deep").mkdir()
        for name in ("a", "deep/b"):
            (staging / name).write_text(name)
    renamed = recorder.events.index(("replace", str(staging), str(tmp_path / "out")))
    before = {event[1]: event[2] for event in recorder.events[:renamed]}
    assert sorted(json.loads(before.pop(str(staging / LISTING)))["files"]) == ["a", "deep/b"]
    assert before == {
        str(staging): "",
        str(staging / "a"): "a",
        str(staging / "deep"): "",
        str(staging / "deep/b"): "deep/b",
    }
    assert recorder.events[renamed + 1 :] == [("fsync", str(tmp_path), "")]


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, error: BaseException):
    out = tmp_path / "out"
    with pytest.raises(type(error)):
        fill(out, {"half": "x"}, replace=True, error=error)
    assert names(tmp_path) == []
    fill(out, {"first": "1", "both": "1"}, replace=True)
    with pytest.raises(type(error)):
        fill(out, {"half": "x"}, replace=True, error=error)
    assert names(out) == [LISTING, "both", "first"]
    fill(out, {"second": "2", "both": "2"}, replace=True)
    assert names(out) == [LISTING, "both", "second"]
    assert names(tmp_path) == ["out"]


def test_the_old_folder_stays_until_the_new_one_is_whole(tmp_path: Path):
    out = tmp_path / "out"
    fill(out, {"a": "old"}, replace=True)
    with staged_folder(out, replace=True) as staging:
        (staging / "a").write_text("new")
        assert (out / "a").read_text() == "old"
    assert (out / "a").read_text() == "new"


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, replace = tmp_path / "out", os.replace
    fill(out, {"a": "old"}, replace=True)

    def refuse(source: Path, target: Path) -> None:
        if (Path(source) / "b").exists():
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=r"writing .*out failed"):
        fill(out, {"b": "new"}, replace=True)
    assert names(out) == [LISTING, "a"]
    assert names(tmp_path) == ["out"]


def test_a_folder_that_stays_keeps_what_else_it_holds(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("years of work")
    fill(out, {"a": "old"}, replace=False)
    with pytest.raises(RuntimeError):
        fill(out, {"a": "new", "b": "new"}, replace=False, error=RuntimeError())
    assert (out / "a").read_text() == "old"
    fill(out, {"a": "new", "b": "new"}, replace=False)
    assert set(json.loads((out / LISTING).read_text())["files"]) == {"a", "b"}
    (out / LISTING).unlink()
    assert {path.name: path.read_text() for path in out.iterdir()} == {"mine": "years of work", "a": "new", "b": "new"}
    assert names(tmp_path) == ["out"]


def test_nothing_is_moved_in_if_a_folder_is_in_the_way_of_a_file(tmp_path: Path):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    with pytest.raises(StorageError, match="a folder is in the way"):
        fill(out, {"a": "new", "b": "new"}, replace=False)
    assert names(out) == ["a"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_is_not_taken_for_a_folder(tmp_path: Path, replace: bool):
    (tmp_path / "thesis.tex").write_text("years of work")
    for place in (tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "out"):
        with pytest.raises((InputError, StorageError), match=r"is a file|a file is in the way"):
            fill(place, {"a": "x"}, replace=replace)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert names(tmp_path) == ["thesis.tex"]


def test_a_living_process_keeps_its_staging_and_a_dead_one_loses_it(tmp_path: Path):
    out = tmp_path / "out"
    dead, empty, theirs = (tmp_path / f".out.tmp-1-{name}" for name in ("deadbeef", "0123abcd", "01234567"))
    with staged_folder(out, replace=True) as staging:
        (staging / "half").write_text("x")
        shutil.copytree(staging, dead)
    empty.mkdir()
    theirs.mkdir()
    (theirs / "photo.jpg").write_text("of the user")
    (tmp_path / ".outer.tmp-1-deadbeef").mkdir()  # left by one that made another folder
    with staged_folder(out, replace=True) as first:
        assert not dead.exists()
        assert not empty.exists()
        (first / "a").write_text("first")
        fill(out, {"a": "second"}, replace=True)
        assert first.is_dir()
    assert (out / "a").read_text() == "first"
    assert names(tmp_path) == [theirs.name, "out"]
    assert (theirs / "photo.jpg").read_text() == "of the user"


@pytest.mark.parametrize("action", ["kill", "full"])
@pytest.mark.parametrize("before", ["nothing", "replace"])
def test_a_fault_at_any_step_leaves_the_old_folder_or_the_new(tmp_path: Path, action: str, before: str):
    command = [sys.executable, "-m", "tests.support.folder_kill", str(tmp_path), action, before]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    steps, hidden = map(int, run.stdout.split())
    # Staging folder, "deep", three files; fsyncs of five paths and of the parent; one rename or two.
    assert steps >= 12
    # The name is missing only between the two renames of a replacement.
    assert hidden == (1 if (action, before) == ("kill", "replace") else 0)


HOLD = """
import sys, time
from pathlib import Path
from datagen.common.files import folder_lock
with folder_lock(Path(sys.argv[1]), lambda holder: SystemExit(f"held by {holder}")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["", ".lock"])
def test_a_lock_is_for_one_process_and_goes_with_it(tmp_path: Path, name: str):
    path = tmp_path / name
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        known = str(child.pid) if name else "unknown"
        with (
            pytest.raises(InputError, match=f"held by {known}"),
            folder_lock(path, lambda pid: InputError(f"held by {pid}")),
        ):
            pass
        child.kill()
        child.wait()
    with folder_lock(path, lambda pid: InputError(f"held by {pid}")):
        assert not name or path.read_text() == f"{os.getpid()}\n"
    # Left in place: a lock file that is removed could be held twice, under its old and its new inode.
    assert names(tmp_path) == ([name] if name else [])


@pytest.mark.parametrize("compress", [True, False])
def test_npz_bytes_depend_on_the_arrays_only(compress: bool, monkeypatch: pytest.MonkeyPatch):
    data = npz_bytes(ARRAYS, compress=compress)
    monkeypatch.setattr("time.time", lambda: 2e9)
    turned = {name: np.asfortranarray(array) for name, array in ARRAYS.items()}
    assert npz_bytes(turned, compress=compress) == data
    assert npz_bytes(dict(reversed(ARRAYS.items())), compress=compress) != data
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        assert archive.files == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(archive[name], array)
            assert archive[name].dtype == array.dtype
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        assert {info.compress_type for info in archive.infolist()} == {kind}


def test_stored_npz_bytes_are_those_of_earlier_versions():
    # Records of warps hold the digests of such files; deflated bytes would depend on the version of zlib.
    digest = hashlib.sha256(npz_bytes({"x": ARRAYS["x"]}, compress=False)).hexdigest()
    assert digest == "446347d3c10c02dbeb3821afae589935b7f9ffa34e1b8e30b527e4ac8f21cf62"


def test_reading_npz_refuses_what_is_missing_broken_or_code(tmp_path: Path):
    path = tmp_path / "a.npz"
    data = npz_bytes({"x": np.arange(1000), "y": np.ones(2)})
    path.write_bytes(data)
    assert list(read_npz(path, expected="", fix="")) == ["x", "y"]
    assert list(read_npz(path, ["y"], expected="", fix="")) == ["y"]
    with pytest.raises(InputError, match=r"a\.npz cannot be read \(.*z.*\)\. Expected a warp\. Warp again\."):
        read_npz(path, ["z"], expected="a warp", fix="Warp again")
    np.savez(tmp_path / "code.npz", x=np.array([{}], object))
    np.save(tmp_path / "one.npy", np.ones(3))
    broken = {"cut.npz": data[:-30], "flipped.npz": data[:80] + b"\xff" * 40 + data[120:], "text.npz": b"hello"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    for name in ("none.npz", "code.npz", "one.npy", *broken):
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            read_npz(tmp_path / name, ["x"], expected="arrays", fix="Copy it")


def test_json_has_no_nan():
    content = {1: (np.float32(0.5), float("nan"), [float("-inf")]), "a": np.array([1.0, np.nan]), "n": None, "t": True}
    ready = json_ready(content)
    assert ready == {"1": [0.5, None, [None]], "a": [1.0, None], "n": None, "t": True}
    assert json.loads(json.dumps(ready, allow_nan=False)) == ready


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/below", "link", "link/below"):
        with pytest.raises(InputError, match=rf"--report .*{name}: .*/(file|link) is a file"):
            check_writable(tmp_path / name, "--report")
    # The tests may run as a user who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(StorageError, match=f"{tmp_path} cannot be written"):
        check_writable(tmp_path / "new" / "folder")
