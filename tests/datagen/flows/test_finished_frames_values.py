"""When a frame is finished, and what is left of what was there before it is made anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from datagen.common.errors import InputError
from datagen.flows.records import FrameRecord, clear_folder, finished_record, write_frame_record
from datagen.flows.stages.warp import FrameKeys, frame_state
from datagen.layout import RECORD, VERDICT, WARP
from datagen.manifest import Manifest, parse_manifest
from datagen.shards.ledger import digest_file
from datagen.sources.frame import SequenceKey

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


def finished(folder: Path) -> FrameRecord:
    folder.mkdir()
    (folder / WARP).write_bytes(b"warp")
    (folder / VERDICT).write_bytes(b"verdict")
    files = {name: digest_file(folder / name) for name in (WARP, VERDICT)}
    record = FrameRecord("key 1", "input 1", "pass", ("cam0", "cam1"), files)
    write_frame_record(folder, record)
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


def test_a_folder_is_cleared_record_first(tmp_path: Path) -> None:
    finished(tmp_path / "frame")
    (tmp_path / "frame" / "a folder").mkdir()  # comes first by name, and cannot be removed like a file
    with pytest.raises(OSError, match="a folder"):
        clear_folder(tmp_path / "frame")
    assert not (tmp_path / "frame" / RECORD).exists()
    (tmp_path / "frame" / "a folder").rmdir()
    clear_folder(tmp_path / "frame")
    assert list((tmp_path / "frame").iterdir()) == []
    clear_folder(tmp_path / "nowhere")


def test_a_frames_folder_is_empty_before_it_is_warped_anew(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build killed in the middle of it must not leave a new warp beside an old verdict."""
    folder = tmp_path / "frame"
    record = finished(folder)
    met: list[list[Path]] = []

    class Source(Captures):
        def frame(self, _key: SequenceKey, _index: int) -> object:
            met.append(sorted(folder.iterdir()))
            raise KeyboardInterrupt

    keys = FrameKeys(manifest, "t")
    found, compute = frame_state(folder, Source(), KEY, 1, keys)  # type: ignore[arg-type]
    assert found is None
    with pytest.raises(KeyboardInterrupt):
        compute(None)  # type: ignore[arg-type]
    assert met == [[]]
    assert finished_record(folder, record.content_key) is None


def test_a_frame_is_finished_for_its_own_input_and_settings_alone(manifest: Manifest, tmp_path: Path) -> None:
    folder, keys, source = tmp_path / "frame", FrameKeys(manifest, "t"), Captures()
    record = dataclasses.replace(finished(folder), content_key=keys.of("digest of 1"))
    write_frame_record(folder, record)

    def state(keys: FrameKeys = keys, source: Captures = source, frame: int = 1) -> FrameRecord | None:
        return frame_state(folder, source, KEY, frame, keys)[0]  # type: ignore[arg-type]

    farther = manifest.model_copy(update={"warp": manifest.warp.model_copy(update={"max_distance_mm": 9.0})})
    assert state() == record
    assert state(frame=2) is None
    assert state(source=Captures(f1="other")) is None
    assert state(FrameKeys(manifest, "u")) is None
    assert state(FrameKeys(farther, "t")) is None


def test_a_broken_input_is_a_failed_frame_with_its_reason_once(manifest: Manifest, tmp_path: Path) -> None:
    folder, keys, source = tmp_path / "frame", FrameKeys(manifest, "t"), Captures(f1="broken")
    finished(folder)
    found, compute = frame_state(folder, source, KEY, 1, keys)  # type: ignore[arg-type]
    assert found is None
    record = compute(None)  # type: ignore[arg-type]
    assert (record.status, record.input_digest, record.cameras, list(record.files)) == ("fail", "", (), [VERDICT])
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, VERDICT]
    assert "InputError: broken" in (folder / VERDICT).read_text()
    assert frame_state(folder, source, KEY, 1, keys)[0] == record  # type: ignore[arg-type]
