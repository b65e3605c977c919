"""``datagen evidence``: files beside the pictures that show a face, words about the others."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datagen.cli
from datagen.common.seen_points import read_seen_points
from datagen.sources.folder import FolderCaptures
from tests.support.small_capture import KEY, rig, write_capture
from tests.support.stand_in_detector import anny_model, stand_in_python

BLACK = np.zeros((96, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in_python(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captures")
    write_capture(root / str(KEY), rig(), frames=2)
    Image.fromarray(BLACK).save(root / str(KEY) / "images/right/000001.png")
    return root


@pytest.fixture
def captures(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "captures"))


def call(*words: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["datagen", "evidence", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            datagen.cli.main()
    return int(ended.value.code or 0)


def files(captures: Path) -> dict[str, bytes]:
    folder = captures / str(KEY) / "evidence/detector"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*/*.npz"))}


def test_each_picture_with_a_face_gets_a_file_and_the_others_a_word(
    captures: Path, python: Path, capsys: pytest.CaptureFixture[str]
):
    assert call(captures, "--detector-python", python) == 0
    said = capsys.readouterr().out
    assert f"{KEY}/000001 right: no face was found" in said
    assert "of 6 pictures; faces: one in 5, none in 1" in said
    written = files(captures)
    assert "front/000000.npz" in written
    assert "right/000001.npz" not in written
    seen = read_seen_points(captures / str(KEY) / "evidence/detector/front/000000.npz")
    assert (seen.source, seen.template) == ("detector", anny_model()[0].digest)
    assert (seen.width, seen.height) == (96, 96)
    # Again: the same bytes. A picture that shows nobody any more takes its file along.
    assert call(captures, "--detector-python", python) == 0
    assert files(captures) == written
    Image.fromarray(BLACK).save(captures / str(KEY) / "images/front/000000.png")
    assert call(captures, "--detector-python", python) == 0
    assert files(captures).keys() == written.keys() - {"front/000000.npz"}


def test_what_to_write_into_capture_json_is_said_and_frames_then_carry_the_evidence(
    captures: Path, python: Path, capsys: pytest.CaptureFixture[str]
):
    assert call(captures, "--detector-python", python) == 0
    said = capsys.readouterr().out
    pattern = "evidence/detector/{camera}/{frame:06d}.npz"
    assert f'write "evidence": "{pattern}" into capture.json of {KEY}' in said
    path = captures / str(KEY) / "capture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "evidence": pattern}))
    frame = FolderCaptures(captures).frame(KEY, 0)
    assert {one.camera.name for one in frame.evidence} == {
        Path(name).parent.name for name in files(captures) if "000000" in name
    }
    assert call(captures, "--detector-python", python) == 0
    assert "next: datagen check" in capsys.readouterr().out


def test_evidence_may_be_named_before_it_is_there(captures: Path, python: Path) -> None:
    path = captures / str(KEY) / "capture.json"
    pattern = "evidence/detector/{camera}/{frame:06d}.npz"
    path.write_text(json.dumps({**json.loads(path.read_text()), "evidence": pattern}))
    assert call(captures, "--detector-python", python) == 0
    assert FolderCaptures(captures).frame(KEY, 0).evidence


def test_frames_and_sequences_can_be_chosen_and_json_lists_each_picture(
    captures: Path, python: Path, capsys: pytest.CaptureFixture[str]
):
    assert call(captures, "--detector-python", python, "--every", "2", "--only", "anna/*", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 3
    assert {one["frame"] for one in told["told"]} == {0}
    assert told["found"] == sum(one["points"] > 0 for one in told["told"]) == len(files(captures))
    assert call(captures, "--detector-python", python, "--only", "bob/*") == 2
    assert "no sequence is called 'bob/*'" in capsys.readouterr().err


def test_pictures_that_all_show_nobody_or_cannot_be_read_end_with_1(
    captures: Path, python: Path, capsys: pytest.CaptureFixture[str]
):
    for path in (captures / str(KEY) / "images").glob("*/*.png"):
        Image.fromarray(BLACK).save(path)
    assert call(captures, "--detector-python", python) == 1
    assert "evidence of 0 of 6 pictures" in capsys.readouterr().out
    (captures / str(KEY) / "images/front/000000.png").write_bytes(b"no picture")
    assert call(captures, "--detector-python", python) == 1
    assert "000000" in capsys.readouterr().out


def test_a_file_of_somebody_else_is_in_the_way(captures: Path, python: Path, capsys: pytest.CaptureFixture[str]):
    mine = captures / str(KEY) / "evidence/detector/front/000000.npz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert call(captures, "--detector-python", python) == 2
    assert "in the way" in capsys.readouterr().err
    assert mine.read_bytes() == b"mine"


def test_a_detector_that_is_missing_is_refused_before_anything_is_written(
    captures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert call(captures, "--detector-python", tmp_path / "none") == 2
    assert "is not a program" in capsys.readouterr().err
    assert not files(captures)
