"""When a frame is finished, and what is left of what was there before it is made anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datagen.common.digests import digest_file
from datagen.common.errors import InputError, StorageError
from datagen.flows.records import ResultRecord, clear_folder, finished_record, store_result, write_result_record
from datagen.flows.stages import warp as warp_stage
from datagen.flows.stages.warp import FrameState, WarpStage, WarpUnit
from datagen.layout import RECORD
from datagen.manifest import Manifest, parse_manifest
from datagen.sources.frame import SequenceInfo, SequenceKey
from datagen.warp.result import VERDICT_FILE as VERDICT
from datagen.warp.result import WARP_FILE as WARP

KEY = SequenceKey("s000", "performance")


@pytest.fixture
def manifest() -> Manifest:
    return parse_manifest({"name": "x", "source": {"kind": "simulated", "subjects": 3, "frames": 5, "cameras": 2}})


class Captures:
    """A source of which only digests are asked."""

    def __init__(self, **other: str) -> None:
        self.other = other

    def input_digest(self, _key: SequenceKey, index: int) -> str:
        if self.other.get(f"f{index}") == "broken":
            raise InputError("broken", "", "")
        return self.other.get(f"f{index}", f"digest of {index}")


class OneFrame(WarpUnit):
    """A unit of one frame, of stood-in captures and a head of which only the template's digest is asked."""

    source: Any = Captures()
    template = "t"

    def captures(self) -> Any:
        return self.source

    def head(self) -> Any:
        return SimpleNamespace(template=SimpleNamespace(digest=self.template))


def one_frame(root: Path, manifest: Manifest, source: object = None, template: str = "t") -> OneFrame:
    unit = OneFrame(root, manifest, SequenceInfo(KEY, (1,), 2))
    object.__setattr__(unit, "source", source or Captures())  # as frozen as all units
    object.__setattr__(unit, "template", template)
    return unit


def state_of(unit: WarpUnit) -> FrameState:
    (state,) = unit.states()
    return state


def finished(folder: Path) -> ResultRecord:
    folder.mkdir(parents=True)
    (folder / WARP).write_bytes(b"warp")
    (folder / VERDICT).write_bytes(b"verdict")
    files = {name: digest_file(folder / name) for name in (WARP, VERDICT)}
    record = ResultRecord("key 1", "input 1", "pass", ("cam0", "cam1"), files)
    write_result_record(folder, record)
    return record


@pytest.mark.parametrize(
    ("damage", "whole"),
    [
        (lambda _: None, True),
        (lambda folder: (folder / "notes.txt").write_text("no part of it"), True),
        (lambda folder: (folder / WARP).write_bytes(b"warq"), False),
        (lambda folder: (folder / VERDICT).write_bytes(b"verdict "), False),
        (lambda folder: (folder / VERDICT).unlink(), False),
        (lambda folder: (folder / RECORD).unlink(), False),
        (lambda folder: (folder / RECORD).write_bytes((folder / RECORD).read_bytes()[:-20]), False),
    ],
)
def test_a_result_is_finished_only_if_every_file_is_whole(
    tmp_path: Path, damage: Callable[[Path], object], whole: bool
) -> None:
    record = finished(tmp_path / "frame")
    damage(tmp_path / "frame")
    assert finished_record(tmp_path / "frame", record.content_key) == (record if whole else None)
    assert finished_record(tmp_path / "frame", "another key") is None


def test_a_result_is_removed_before_its_record_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "frame"
    finished(folder)
    (folder / "notes.txt").write_text("of the user")
    (folder / WARP).write_bytes(b"edited")
    clear_folder(folder)
    # The record still says that the rest was ours, as long as something it names is there.
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", RECORD, WARP]
    (folder / WARP).write_bytes(b"warp")
    clear_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    clear_folder(folder)
    assert not folder.exists()
    clear_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [WARP, VERDICT, RECORD])
@pytest.mark.parametrize("kind", ["alone", "edited", "link", "folder"])
def test_a_result_is_not_written_over_what_is_not_ours(tmp_path: Path, name: str, kind: str) -> None:
    folder, theirs = tmp_path / "frame", tmp_path / "theirs"
    theirs.write_text("of the user")
    if kind != "alone":
        finished(folder)
        (folder / name).unlink()
    folder.mkdir(exist_ok=True)
    if kind == "link":
        (folder / name).symlink_to(theirs)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).write_text("of the user")
    before = {path: path.is_file() and path.read_bytes() for path in folder.iterdir()}
    record = ResultRecord("key 2", "input 2", "pass", (), {})
    with pytest.raises(StorageError, match=name):
        store_result(folder, record, {WARP: b"new warp", VERDICT: b"new verdict"})
    assert {path: path.is_file() and path.read_bytes() for path in folder.iterdir()} == before
    assert theirs.read_text() == "of the user"


def test_a_frames_old_result_stays_until_the_new_one_is_there(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Source(Captures):
        def frame(self, _key: SequenceKey, _index: int) -> object:
            raise KeyboardInterrupt

    unit = one_frame(tmp_path, manifest, source=Source())
    (folder,) = unit.folders
    record = finished(folder)
    monkeypatch.setattr(warp_stage, "prepared_head", lambda *_: unit.head())
    assert state_of(unit).record is None
    with pytest.raises(KeyboardInterrupt):
        WarpStage().make(unit)
    assert state_of(unit).record is None
    assert finished_record(folder, record.content_key) == record


def test_a_frame_is_finished_for_its_own_input_and_settings_alone(manifest: Manifest, tmp_path: Path) -> None:
    unit = one_frame(tmp_path, manifest)
    (folder,) = unit.folders
    record = dataclasses.replace(finished(folder), content_key=state_of(unit).key)
    write_result_record(folder, record)
    farther = manifest.model_copy(update={"warp": manifest.warp.model_copy(update={"max_distance_mm": 9.0})})
    assert state_of(unit).record == record
    assert WarpStage().finished(unit)
    for other in (
        one_frame(tmp_path, manifest, source=Captures(f1="other")),
        one_frame(tmp_path, manifest, template="u"),
        one_frame(tmp_path, farther),
    ):
        assert state_of(other).record is None
        assert not WarpStage().finished(other)


def test_a_broken_input_is_a_failed_frame_with_its_reason_once(manifest: Manifest, tmp_path: Path) -> None:
    unit = one_frame(tmp_path, manifest, source=Captures(f1="broken"))
    (folder,) = unit.folders
    finished(folder)
    assert state_of(unit).record is None
    assert WarpStage().make(unit) == 1
    record = state_of(unit).record
    assert record is not None
    assert (record.status, record.input_digest, record.cameras, list(record.files)) == ("fail", "", (), [VERDICT])
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, VERDICT]
    assert "InputError: broken" in (folder / VERDICT).read_text()
    assert WarpStage().make(unit) == 0
    other = one_frame(tmp_path, manifest, source=Captures(f1="broken otherwise"))
    assert state_of(other).key != record.content_key
