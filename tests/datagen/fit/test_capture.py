"""Captures with evidence become captures with registrations; everything wrong is refused in words, nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fit.people import Person, displaced, simulated_person
from datagen.cli import app
from datagen.common.console import run
from datagen.common.errors import InputError
from datagen.common.seen_points import seen_points_bytes
from datagen.fit.capture import Fitted, fit_capture, read_neutral
from datagen.fit.problem import FitFrame, FitSettings
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.support.pictures_only import CHOSEN, EVIDENCE, seen_frames, write_capture

KEY = SequenceKey("anna", "talk")
QUICK = FitSettings(rounds=5, amplitudes=False)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def person(head: HeadModel) -> Person:
    return simulated_person(head, 11, 1, 2, 1.0)


@pytest.fixture(scope="module")
def frames(head: HeadModel, person: Person) -> list[FitFrame]:
    """Two frames of four cameras, a third of the points of each."""
    return seen_frames(head, person)


def fitted(root: Path, out: Path, head: HeadModel, settings: FitSettings = QUICK, **more: Any) -> Fitted:
    captures = FolderCaptures(root)
    (info,) = captures.sequences()
    return fit_capture(captures, root, info, info.frames, out, head, settings, **more)


def error_mm(head: HeadModel, person: Person, out: Path, index: int = 7) -> float:
    face = mask_of(head.template.regions, FACE_REGIONS)
    registration = FolderCaptures(out).frame(KEY, index).registration
    assert registration is not None
    return 1000 * float(np.median(np.linalg.norm(registration.vertices - person.vertices[index - 7], axis=1)[face]))


def test_a_capture_gets_registrations_and_keeps_all_else(
    head: HeadModel, person: Person, frames: list[FitFrame], tmp_path: Path
) -> None:
    folder = write_capture(tmp_path / "in", frames)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report = fitted(tmp_path / "in", tmp_path / "out", head)
    assert (report.frames, report.left_out, report.disagreeing, report.remarks) == ((7, 8), (), {}, [])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    captures = FolderCaptures(tmp_path / "out")
    (info,) = captures.sequences()
    assert (info.frames, info.registration, info.bare) == ((7, 8), "anny", False)
    frame = captures.frame(KEY, 8)
    assert len(frame.scan.faces) == len(head.template.faces)
    assert set(frame.images) == {f"cam{k:02d}" for k in CHOSEN}
    assert len(frame.evidence) == len(CHOSEN)
    assert error_mm(head, person, tmp_path / "out", 8) < 0.9
    written = tmp_path / "out" / "anna" / "talk"
    picture = "images/cam00/000007.png"
    assert (written / picture).stat().st_ino == (folder / picture).stat().st_ino
    assert json.loads((written / "capture.json").read_text())["licence"] == "internal"
    details = np.load(written / "fit" / "000007.npz")
    assert details["spread_m"].shape == (len(head.template.vertices),)
    # The same again is kept; other settings are another result.
    assert fitted(tmp_path / "in", tmp_path / "out", head).kept
    # The person of a fit is a face at rest for another.
    neutral = read_neutral(written / "fit" / "person.npz", head, "anny")
    assert neutral.shape == (len(head.template.vertices), 3)


def test_a_camera_whose_pose_is_wrong_is_named_and_weighed_away(
    head: HeadModel, person: Person, frames: list[FitFrame], tmp_path: Path
) -> None:
    folder = write_capture(tmp_path / "in", frames[:1])
    content = json.loads((folder / "capture.json").read_text()) | {"frames": [7]}
    content["cameras"]["cam03"]["world_to_camera"][0][3] += 0.06
    (folder / "capture.json").write_text(json.dumps(content))
    report = fitted(tmp_path / "in", tmp_path / "out", head)
    assert list(report.disagreeing) == ["cam03"]
    assert "camera cam03 disagrees" in report.remarks[0]
    # As good as without its evidence.
    (folder / EVIDENCE.format(camera="cam03", frame=7)).unlink()
    fitted(tmp_path / "in", tmp_path / "without", head)
    assert error_mm(head, person, tmp_path / "out") < 1.15 * error_mm(head, person, tmp_path / "without")


def test_frames_in_which_nothing_was_seen_are_left_out_and_told(
    head: HeadModel, frames: list[FitFrame], tmp_path: Path
) -> None:
    folder = write_capture(tmp_path / "in", frames)
    for path in folder.glob("evidence/align/*/000007.npz"):
        path.unlink()
    for name in ("cam00", "cam02", "cam03"):
        (folder / EVIDENCE.format(camera=name, frame=8)).unlink()
    report = fitted(tmp_path / "in", tmp_path / "out", head, replace(QUICK, rounds=2))
    assert (report.frames, report.left_out) == ((8,), (7,))
    assert any("only one camera sees the head in 1 of 1 frames" in remark for remark in report.remarks)
    assert any("left out: 1 frames" in remark for remark in report.remarks)
    captures = FolderCaptures(tmp_path / "out")
    assert captures.sequences()[0].frames == (8,)
    captures.frame(KEY, 8)


def test_bad_evidence_is_refused_in_words_and_nothing_is_written(
    head: HeadModel, frames: list[FitFrame], tmp_path: Path
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    folder = write_capture(root, frames)
    path = folder / EVIDENCE.format(camera="cam02", frame=8)
    points = frames[1].evidence[1].points
    wrong = {
        "another template": replace(points, template="abc"),
        "64 x 96": replace(points, width=64),
        "NaN": replace(points, pixels=np.full_like(points.pixels, np.nan)),
    }
    for words, bad in wrong.items():
        path.write_bytes(seen_points_bytes(bad))
        with pytest.raises(InputError, match=words):
            fitted(root, out, head)
    for one in folder.glob("evidence/align/*/*.npz"):
        one.write_bytes(seen_points_bytes(points.take([])))
    with pytest.raises(InputError, match="no frame with 8 points"):
        fitted(root, out, head)
    assert not out.exists() or not list(out.rglob("capture.json"))
    path.write_bytes(seen_points_bytes(points))
    with pytest.raises(InputError, match="where the captures are"):
        fitted(root, root, head)


def test_focal_lengths_are_not_found_of_bent_pictures(head: HeadModel, frames: list[FitFrame], tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "in", frames)
    content = json.loads((folder / "capture.json").read_text())
    content["cameras"]["cam02"]["distortion"] = {"model": "opencv", "parameters": [0.01, 0, 0, 0]}
    (folder / "capture.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="camera cam02 has lens distortion"):
        fitted(tmp_path / "in", tmp_path / "out", head, replace(QUICK, focal=True))


def test_a_face_at_rest_is_checked(head: HeadModel, tmp_path: Path) -> None:
    vertices = head.template.vertices
    (tmp_path / "good.ply").write_bytes(ply_bytes(Mesh.of(vertices, head.template.faces)))
    np.testing.assert_allclose(read_neutral(tmp_path / "good.ply", head, "anny"), vertices, atol=1e-9)
    (tmp_path / "few.ply").write_bytes(ply_bytes(Mesh.of(vertices[:100], head.template.faces[:0])))
    (tmp_path / "mm.ply").write_bytes(ply_bytes(Mesh.of(1000 * vertices, head.template.faces)))
    np.savez(tmp_path / "person.npz", neutral=np.full(vertices.shape, np.nan))
    for name, words in (("few.ply", "4538 vertices"), ("mm.ply", "metres"), ("person.npz", "no numbers")):
        with pytest.raises(InputError, match=words):
            read_neutral(tmp_path / name, head, "anny")


def test_a_picture_that_cannot_be_read_says_nothing_of_the_skin_and_is_named(
    head: HeadModel, frames: list[FitFrame], tmp_path: Path
) -> None:
    folder = write_capture(tmp_path / "in", frames)
    picture = next(folder.glob("images/*/000007.png"))
    picture.write_bytes(picture.read_bytes()[:500])
    report = fitted(tmp_path / "in", tmp_path / "out", head, replace(QUICK, rounds=2))
    (remark,) = report.remarks
    assert "not compared with the other pictures" in remark
    assert str(picture) in remark
    # Where nothing is compared nothing is read.
    report = fitted(tmp_path / "in", tmp_path / "points", head, replace(QUICK, rounds=2, stereo=False))
    assert report.remarks == []


def test_the_command_fits_what_it_can_and_names_the_rest(
    frames: list[FitFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write_capture(root, displaced(frames, 0.1, 30.0, np.random.default_rng(0), views=False))
    other = root / "berta" / "talk"
    other.mkdir(parents=True)
    content = json.loads((root / "anna" / "talk" / "capture.json").read_text())
    del content["images"]
    (other / "capture.json").write_text(json.dumps(content))
    arguments = ["datagen", "fit", str(root), "--out", str(out), "--json", "--every", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        run(app)
    assert ended.value.code == 1
    first, second = json.loads(capsys.readouterr().out)["sequences"]
    assert first["frames"] == [7]
    assert first["spread_median_mm"] < 5
    assert "none of the evidence" in second["problem"]
    assert not (out / "berta").exists()
