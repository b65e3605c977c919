"""``datagen init``: from a folder as a studio has it to a build, and whatever else people have in folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from datagen.cli import app
from datagen.common.errors import InputError
from datagen.geometry.mesh_io import read_mesh
from datagen.layout import BuildLayout
from datagen.sources.capture_draft import Answers
from datagen.sources.capture_file import read_capture_file
from datagen.sources.capture_folders import draft_captures
from datagen.sources.folder import FolderCaptures
from tests.support.draft_folders import POSE, K, only, write
from tests.support.studio_folder import FIRST, FPS, PEOPLE, TAKE, studio_folder

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

Written = Callable[..., Path]
FLAGS = ("--unit", "mm", "--fps", "12", "--pixel-center", "0.5")


def run(*words: str | Path) -> tuple[int, str]:
    """Call the command line; return its exit code and what it printed or raised."""
    result = CliRunner().invoke(app, [*map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 2, str(result.exception)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def given(tiny_build: BuildResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio_folder(BuildLayout(tiny_build.root).captures, tmp_path_factory.mktemp("studio") / "shoot")


@pytest.fixture
def shoot(given: Path, tmp_path: Path) -> Path:
    """A studio's folder, to be changed."""
    return Path(shutil.copytree(given, tmp_path / "shoot"))


def content(folder: Path) -> Any:
    return json.loads((folder / "capture.json").read_text())


def bytes_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "capture.json"}


# ------------------------------------------------------------------ from the folder to samples
def test_from_a_studios_folder_to_a_dataset(shoot: Path, tiny_build: BuildResult, tmp_path: Path) -> None:
    before = bytes_of(shoot)
    code, said = run("init", shoot)
    assert code == 0
    for what in ('"?" unit', '"mm", which makes it', '"?" pixel_center', "1 is taken for C1", "--unit …"):
        assert what in " ".join(said.split())
    code, said = run("check", shoot)
    assert code == 1
    assert 'still has "?" for unit' in said
    take = shoot / PEOPLE[0] / TAKE
    text = (take / "capture.json").read_text()
    # One person's by hand, the other's by running it again.
    for key, value in (("unit", '"mm"'), ("pixel_center", "0.5")):
        text = text.replace(f'"{key}": "?"', f'"{key}": {value}')
    (take / "capture.json").write_text(text)
    code, said = run("init", shoot, *FLAGS)
    assert code == 0
    assert (take / "capture.json").read_text() == text
    assert content(shoot / PEOPLE[1] / TAKE)["unit"] == "mm"
    code, said = run("check", shoot)
    assert (code, "0 problems" in said) == (0, True), said
    _agrees_with(shoot, BuildLayout(tiny_build.root).captures)
    assert bytes_of(shoot) == before
    # One person is enough to see that samples come of it.
    shutil.rmtree(shoot / PEOPLE[1])
    settings = (f"source.root={shoot}", "splits.val=0", "splits.test=0", "warp.subdivisions=0", "render.resolution=56")
    words = [word for value in settings for word in ("--set", value)]
    code, said = run("build", "folder", *words, "--runner", "serial", "--out", tmp_path / "built")
    assert (code, "train 4, val 0" in said, "verified  yes" in said) == (0, True, True), said


def _agrees_with(shoot: Path, captures: Path) -> None:
    """Frames of the studio's folder are those that it was made from."""
    ours, theirs = FolderCaptures(shoot), FolderCaptures(captures)
    for one, other in zip(ours.sequences(), theirs.sequences(), strict=True):
        assert one.frames == tuple(frame + FIRST for frame in other.frames)
        for frame in other.frames:
            a, b = ours.frame(one.key, frame + FIRST), theirs.frame(other.key, frame)
            np.testing.assert_allclose(a.scan.vertices, b.scan.vertices, atol=1e-7)
            assert a.landmarks is not None
            assert b.landmarks is not None
            np.testing.assert_allclose(a.landmarks.points, b.landmarks.points, atol=1e-7)
            for mine, yours in zip(a.cameras, b.cameras, strict=True):
                np.testing.assert_allclose(mine.K, yours.K, atol=1e-9)
                np.testing.assert_allclose(mine.world_to_camera, yours.world_to_camera, atol=1e-9)
            assert len(a.images) == len(a.cameras)


def test_a_draft_is_written_anew_until_somebody_changes_it(shoot: Path) -> None:
    draft_captures(shoot, Answers())
    draft_captures(shoot, Answers(unit="mm"))
    draft_captures(shoot, Answers(fps=FPS))
    take = shoot / PEOPLE[0] / TAKE
    # What an earlier call was told is kept.
    assert (content(take)["unit"], content(take)["pixel_center"]) == ("mm", "?")
    (take / "capture.json").write_text((take / "capture.json").read_text().replace("Written by", "Read by"))
    mine = (take / "capture.json").read_bytes()
    first, second = draft_captures(shoot, Answers(pixel_center=0.5)).sequences
    assert (first.written, second.written) == (False, True)
    assert [missing.key for missing in first.missing] == ["pixel_center"]
    assert (take / "capture.json").read_bytes() == mine
    assert 'pixel_center": 0.5' in (second.folder / "capture.json").read_text()


def test_an_existing_file_of_any_kind_is_kept(shoot: Path) -> None:
    take = shoot / PEOPLE[0] / TAKE
    (take / "capture.json").write_text("mine, and no JSON")
    first, second = draft_captures(shoot, Answers()).sequences
    assert not first.written
    assert second.written
    assert (take / "capture.json").read_text() == "mine, and no JSON"


# ------------------------------------------------------------------ folders of other shapes
@pytest.mark.parametrize(
    ("paths", "scan", "images", "frames", "cameras"),
    [
        (
            ["scans/7.ply", "scans/12.ply", "images/l/7.png", "images/l/12.png", "images/r/7.png", "images/r/12.png"],
            "scans/{frame}.ply",
            "images/{camera}/{frame}.png",
            [7, 12],
            ["l", "r"],
        ),
        (
            ["s_0099.npz", "s_0100.npz", *(f"{c}_{f}.jpg" for c in ("left", "right") for f in ("0099", "0100"))],
            "s_{frame:04d}.npz",
            "{camera}_{frame:04d}.jpg",
            [99, 100],
            ["left", "right"],
        ),
        (
            [f"frame_{f}/{name}" for f in ("01", "02", "03") for name in ("scan.obj", "cam_a.png", "cam_b.png")],
            "frame_{frame:02d}/scan.obj",
            "frame_{frame:02d}/{camera}.png",
            [1, 2, 3],
            ["cam_a", "cam_b"],
        ),
        (
            [
                f"0{f}/{name}_0{f}.{kind}"
                for f in (1, 2)
                for name, kind in (("mesh", "ply"), ("a", "png"), ("b", "png"))
            ],
            "{frame:02d}/mesh_{frame:02d}.ply",
            "{frame:02d}/{camera}_{frame:02d}.png",
            [1, 2],
            ["a", "b"],
        ),
        (
            # All in one folder, textures too.
            [
                f"{name}_{f}.{kind}"
                for f in (1, 2)
                for name, kind in (("m", "obj"), ("m", "png"), ("l", "png"), ("r", "png"))
            ],
            "m_{frame}.obj",
            "{camera}_{frame}.png",
            [1, 2],
            ["l", "r"],
        ),
        (
            # Numbers of cameras and frames: the scans tell which is which.
            [f"scan{f:03d}.obj" for f in (5, 6, 7)] + [f"pics/f{f:03d}_c{c}.png" for f in (5, 6, 7) for c in (1, 2)],
            "scan{frame:03d}.obj",
            "pics/f{frame:03d}_{camera}.png",
            [5, 6, 7],
            ["c1", "c2"],
        ),
        (
            # Braces in names, a texture beside its scan, a camera without the last frame.
            ["a{b}/1.obj", "a{b}/1.png", "a{b}/2.obj", "p/{l}/1.png", "p/{l}/2.png", "p/r/1.png"],
            "a{{b}}/{frame}.obj",
            "p/{camera}/{frame}.png",
            [1],
            ["r", "{l}"],
        ),
    ],
)
def test_names_of_files_are_understood(
    tmp_path: Path, paths: list[str], scan: str, images: str, frames: list[int], cameras: list[str]
) -> None:
    cameras_json = {name: {"K": K, "world_to_camera": POSE, "width": 32, "height": 24} for name in cameras}
    folder = write(tmp_path / "anna" / "take", *paths)
    (tmp_path / "calibration.json").write_text(json.dumps({"cameras": cameras_json}))
    found = only(draft_captures(tmp_path, Answers(unit="m", fps=25, pixel_center=0.5)))
    assert (found["scan"], found["images"], found["frames"]) == (scan, images, frames)
    assert sorted(found["cameras"]) == cameras
    # And the reader reads it so.
    source = FolderCaptures(tmp_path)
    (info,) = source.sequences()
    for frame in frames:
        assert len(source.frame(info.key, frame).images) == len(cameras)
    assert read_capture_file(folder).scan == scan


def test_one_sequence_alone_is_told_how_to_be_laid_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "anna" / "my shoot", "1.obj", "left/1.png")
    (tmp_path / "ben" / "holidays").mkdir(parents=True)
    code, said = run("init", folder)
    assert code == 0
    (link,) = [line for line in said.splitlines() if "ln -s" in line]
    assert f"ln -s '{folder}' 'captures/anna/my shoot'" in link
    assert '"?" cameras' in said
    assert '"?" fps' not in said  # a single frame has no rate
    # Where the folders around it are in the layout already, there is nothing to link.
    (tmp_path / "ben" / "holidays").rmdir()
    assert run("init", folder)[1].endswith(f"then: datagen check {tmp_path}\n")


def test_subjects_without_a_level_of_sequences(tmp_path: Path) -> None:
    for subject in ("s1", "s2"):
        write(tmp_path / subject, "scan_0.obj", "left/0.png")
    drafts = draft_captures(tmp_path, Answers())
    assert (drafts.depth, len(drafts.sequences)) == (1, 2)
    assert "mkdir -p captures/s2 && ln -s" in run("init", tmp_path)[1]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "holds neither scans nor pictures that are read: 0 files"),
        (["left/1.png", "left/2.png"], "holds no scans .*tell of one camera, left"),
        (["left/1.png", "right/2.png"], "no frame has a picture of every camera .left, right"),
        (["a.obj", "a.png"], "1 scan, but no pictures of cameras, only of textures.*datagen warp"),
        (["face.obj", "left/1.png"], r"face.obj has no frame number in its name.*face_0000\.obj"),
        (["1.obj", "left/2.png"], "no frame has a scan and a picture of every camera.*scans.*1.*pictures.*2"),
        (["1.obj", "1.ply", "left/1.png"], "several sets of meshes.*--scan"),
        (["1.obj", "photo.png"], "names tell no camera or no frame"),
    ],
)
def test_what_cannot_be_described_is_one_message_and_nothing_is_written(
    tmp_path: Path, paths: list[str], message: str
) -> None:
    write(tmp_path, *paths)
    with pytest.raises(InputError, match=message):
        draft_captures(tmp_path, Answers())
    assert not list(tmp_path.rglob("capture.json"))


def test_a_studios_pictures_alone_are_described_and_checked(shoot: Path) -> None:
    """A mesh anywhere makes it a folder with scans again."""
    for person in PEOPLE[1:]:
        shutil.rmtree(shoot / person, ignore_errors=True)
    take = shoot / PEOPLE[0] / TAKE
    shutil.move(take / "mesh", shoot.parent / "kept")
    code, said = run("init", shoot, *FLAGS)
    assert code == 0
    assert "heads to the pictures" in " ".join(said.split())
    code, said = run("check", shoot)
    assert (code, "0 problems" in said, "seen in its pictures (landmarks)" in said) == (0, True, True), said
    capture = read_capture_file(take)
    assert (capture.surface, capture.landmarks is not None) == ("none", True)
    shutil.move(shoot.parent / "kept", take / "mesh")
    run("init", shoot, *FLAGS)
    assert read_capture_file(take).surface == "scan"


def test_the_scans_are_chosen_among_several_sets(tmp_path: Path) -> None:
    write(tmp_path, "1.obj", "1.ply", "left/1.png")
    assert only(draft_captures(tmp_path, Answers(scan="{frame}.ply")))["scan"] == "{frame}.ply"


def test_one_folder_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path / "anna/take", "1.obj", "left/1.png")
    write(tmp_path / "ben/take", "1.obj", "left/3.png")
    good, bad = draft_captures(tmp_path, Answers()).sequences
    assert good.written
    assert "no frame has a scan" in bad.problem
    assert run("init", tmp_path)[0] == 1


@pytest.mark.parametrize(("scale", "units"), [(1, ["m"]), (1000, ["mm"]), (100, ["cm", "in"]), (1e6, [])])
def test_units_are_suggested_and_never_assumed(tmp_path: Path, scale: float, units: list[str]) -> None:
    write(tmp_path, "1.obj", "left/1.png", scale=scale)
    found = only(draft_captures(tmp_path, Answers()))
    assert found["unit"] == "?"
    assert all(f'"{unit}", which makes it' in found["_unit"] for unit in units)
    assert ("scale the scans" in found["_unit"]) == (not units)


def test_cameras_in_another_unit_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "1.obj", "left/1.png", scale=1000)
    (tmp_path / "calibration.json").write_text(json.dumps({"left": {"K": K, "world_to_camera": POSE}}))
    found = only(draft_captures(tmp_path, Answers(unit="mm")))
    assert (found["camera_unit"], found["pixel_center"]) == ("?", "?")
    assert '"m" if the scans are in mm' in found["_camera_unit"]


@pytest.mark.parametrize("rate", ["nan", "inf", "0", "-3"])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate: str) -> None:
    write(tmp_path, "1.obj", "2.obj", "left/1.png", "left/2.png")
    assert "a number of frames a second" in run("init", tmp_path, f"--fps={rate}")[1]
    assert not (tmp_path / "capture.json").exists()


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    write(tmp_path, *(f"{k}.obj" for k in (1, 2)), *(f"left/{k}.png" for k in (1, 2)), "masks/left/1.png")
    (tmp_path / "1.pp").write_text("<PickedPoints>")
    (tmp_path / "calib.json").write_text("{}")
    (tmp_path / "landmarks.json").write_text("{}")
    write(tmp_path, "previews/7.jpg")
    remarks = "; ".join(only(draft_captures(tmp_path, Answers()))["_remarks"])
    for what in (
        "masks (masks/{camera}/{frame}.png), which 1 frame (2) lack",
        "1.pp",
        "calibration not used",
        "landmarks.json has no frame number",
        "1 pictures named {camera}/{frame}.jpg",
    ):
        assert what in remarks


def test_an_answer_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path, "1.obj", "left/1.png")
    (tmp_path / "calibration.json").write_text(
        json.dumps({"left": {"K": np.eye(3).tolist(), "RT": np.ones((3, 4)).tolist()}})
    )
    (one,) = draft_captures(tmp_path, Answers(unit="m", pixel_center=0.5, camera_unit="m")).sequences
    assert "not a rotation" in one.problem
    assert not (tmp_path / "capture.json").exists()


# ------------------------------------------------------------------ calibrations of other programs
OPENCV = """%YAML:1.0
---
image_width: 32
image_height: 24
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 100., 0., 15.5, 0., 100., 11.5, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ {k1}, 0., 0., 0., 0. ]
R: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 1., 0., 0., 0., -1., 0., 0., 0., -1. ]
T: !!opencv-matrix
   rows: 3
   cols: 1
   dt: d
   data: [ 0., 0., 1. ]
"""
COLMAP = {
    "cameras.txt": "# cameras\n1 {model} 32 24 100 100 16 12{more}\n",
    # A turn by 180 degrees about x.
    "images.txt": "# images\n1 0 1 0 0 0 0 1 1 left/1.png\n\n2 0 1 0 0 0 0 1 1 left/2.png\n\n",
}


def _two_frames(root: Path) -> Path:
    return write(root, "1.obj", "2.obj", "left/1.png", "left/2.png")


def _settled(root: Path) -> Any:
    found = only(draft_captures(root, Answers(unit="m", fps=1, calibration=root.parent / "calib")))
    assert found["cameras"]["left"]["world_to_camera"] == POSE
    return found


def test_opencv_files(tmp_path: Path) -> None:
    root, place = _two_frames(tmp_path / "take"), tmp_path / "calib"
    place.mkdir()
    (place / "calib_left.yml").write_text(OPENCV.replace("{k1}", "0."))
    found = _settled(root)
    # OpenCV's pixel centres are whole numbers.
    assert (found["pixel_center"], found["cameras"]["left"]["K"][0]) == (0.0, [100.0, 0.0, 15.5])


def test_colmap_files(tmp_path: Path) -> None:
    root, place = _two_frames(tmp_path / "take"), tmp_path / "calib"
    place.mkdir()
    for name, text in COLMAP.items():
        (place / name).write_text(text.replace("{model}", "PINHOLE").replace("{more}", ""))
    found = _settled(root)
    assert (found["pixel_center"], found["cameras"]["left"]["K"][0]) == (0.5, [100.0, 0.0, 16.0])


@pytest.mark.parametrize("place", ["", "sparse/0"])
@pytest.mark.parametrize("kind", ["opencv", "colmap"])
def test_calibrations_beside_the_pictures_are_found(tmp_path: Path, kind: str, place: str) -> None:
    root = _two_frames(tmp_path)
    (root / place).mkdir(parents=True, exist_ok=True)
    for name, text in COLMAP.items() if kind == "colmap" else [("left.yaml", OPENCV.replace("{k1}", "0"))]:
        (root / place / name).write_text(text.replace("{model}", "PINHOLE").replace("{more}", ""))
    found = only(draft_captures(root, Answers(unit="m", fps=1)))
    assert found["cameras"]["left"]["world_to_camera"] == POSE
    # All that is used is not said to be left over.
    assert "_remarks" not in found
    assert (root / "capture.json").is_file()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"left.yml": OPENCV.replace("{k1}", "0.1") + "distortion_model: fov\n"},
            "has lens distortion of the model 'fov'",
        ),
        ({"left.yml": "a: &a [1]\nb: *a\n"}, "aliases"),
        ({"left.yml": "%YAML:1.0\n---\nK: !!opencv-matrix {rows: 3, cols: 3, data: [1]}\n"}, "cannot be read"),
        ({"right.yml": OPENCV}, "holds no calibration of left"),
        ({**COLMAP, "cameras.txt": "1 FOV 32 24 100 100 16 12 0.1\n"}, "has the model FOV.*undistorter"),
        ({"cameras.txt": "1 PINHOLE 32 24 100 100 16 12\n", "images.txt": "1 0 1 0 0 0 0 1 1 x.png\n\n"}, "names none"),
        (
            {
                "cameras.txt": "1 PINHOLE 32 24 100 100 16 12\n",
                "images.txt": COLMAP["images.txt"].replace("2 0 1 0 0 0 0 1", "2 0 1 0 0 0 0 2"),
            },
            "camera left in two places",
        ),
        ({"cameras.txt": "nonsense\n", "images.txt": ""}, "has the line 'nonsense'"),
    ],
)
def test_a_calibration_that_would_be_used_wrongly_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    root, place = _two_frames(tmp_path / "take"), tmp_path / "calib"
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    with pytest.raises(InputError, match=message):
        draft_captures(root, Answers(calibration=place))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"K": K, "camera_to_world": POSE}, "`camera_to_world`, whose direction"),
        ({"K": [1, 2], "world_to_camera": POSE}, "K is not 3×3"),
        ({"K": K, "R": np.eye(3).tolist(), "t": [1, 2]}, "translation of 2 numbers"),
        ({"K": K, "world_to_camera": POSE, "dist": [0.1, 0, 0]}, "its distortion has 3 parameters"),
    ],
)
def test_a_json_calibration_that_would_be_used_wrongly_is_refused(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    root, path = _two_frames(tmp_path / "take"), tmp_path / "rig.json"
    path.write_text(json.dumps({"left": entry}))
    with pytest.raises(InputError, match=message):
        draft_captures(root, Answers(calibration=path))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"dist": [[0.1, 0, 0, 0]]}, {"model": "opencv", "parameters": [0.1, 0.0, 0.0, 0.0]}),
        (
            {"D": [0.1, 0.2, 0.01, 0.02], "distortion_model": "equidistant"},
            {"model": "opencv_fisheye", "parameters": [0.1, 0.2, 0.01, 0.02]},
        ),
        (
            {"distortion": {"model": "tsai", "parameters": [0.1]}},
            {"model": "tsai", "parameters": [0.1]},
        ),
        ({"dist": [0, 0, 0, 0, 0]}, None),
    ],
)
def test_lens_distortion_of_a_calibration_is_written(
    tmp_path: Path, entry: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    root, path = _two_frames(tmp_path / "take"), tmp_path / "rig.json"
    path.write_text(json.dumps({"left": {"K": K, "world_to_camera": POSE, **entry}}))
    drafts = draft_captures(root, Answers(calibration=path, unit="m", fps=1, pixel_center=0))
    assert only(drafts)["cameras"]["left"].get("distortion") == expected
    found = drafts.sequences[0].found
    assert found is not None
    assert found.calibration is not None
    said = any("straightened when they are read" in text for text in found.calibration.remarks)
    assert said == (expected is not None)


@pytest.mark.parametrize(
    ("line", "model", "parameters"),
    [
        ("1 OPENCV 32 24 100 100 16 12 0.1 0.2 0.01 0.02", "opencv", [0.1, 0.2, 0.01, 0.02, 0.0]),
        ("1 SIMPLE_RADIAL 32 24 100 16 12 0.1", "opencv", [0.1, 0.0, 0.0, 0.0, 0.0]),
        ("1 OPENCV_FISHEYE 32 24 100 100 16 12 0.1 0 0 0", "opencv_fisheye", [0.1, 0.0, 0.0, 0.0]),
    ],
)
def test_lens_distortion_of_colmap_is_written(tmp_path: Path, line: str, model: str, parameters: list[float]) -> None:
    root, place = _two_frames(tmp_path / "take"), tmp_path / "calib"
    place.mkdir()
    for name, text in {**COLMAP, "cameras.txt": f"{line}\n"}.items():
        (place / name).write_text(text)
    found = _settled(root)
    assert found["cameras"]["left"]["distortion"] == {"model": model, "parameters": parameters}


def test_lens_distortion_of_opencv_is_written(tmp_path: Path) -> None:
    root = _two_frames(tmp_path)
    (root / "left.yaml").write_text(OPENCV.replace("{k1}", "0.1"))
    found = only(draft_captures(root, Answers(unit="m", fps=1)))
    assert found["cameras"]["left"]["distortion"] == {"model": "opencv", "parameters": [0.1, 0.0, 0.0, 0.0, 0.0]}


def test_focal_lengths_by_name_and_a_pose_of_three_rows(tmp_path: Path) -> None:
    root, path = _two_frames(tmp_path / "take"), tmp_path / "calib"
    entry = {"name": "Cam_Left", "fx": 100, "fy": 90, "cx": 16, "cy": 12, "extrinsics": POSE[:3]}
    path.write_text(json.dumps([entry]))
    found = _settled(root)
    assert found["cameras"]["left"]["K"] == [[100.0, 0.0, 16.0], [0.0, 90.0, 12.0], [0.0, 0.0, 1.0]]
    assert any("Cam_Left is taken for left" in remark for remark in found["_remarks"])


# ------------------------------------------------------------------ notes in a capture.json
def test_notes_are_passed_over_and_nothing_else(tmp_path: Path) -> None:
    root = write(tmp_path, "a/b/1.obj", "a/b/_left/1.png")
    folder = root / "a/b"
    (folder / "calibration.json").write_text(json.dumps({"_left": {"K": K, "world_to_camera": POSE}}))
    found = only(draft_captures(root, Answers(unit="m", pixel_center=0.5)))
    # A camera may have such a name.
    assert list(read_capture_file(folder).cameras) == ["_left"]
    (folder / "capture.json").write_text(json.dumps({**found, "_mine": ["one", "two"]}))
    assert read_capture_file(folder).unit == "m"
    (folder / "capture.json").write_text(json.dumps({**found, "_fps": 30}))
    with pytest.raises(InputError, match=r"_fps \(did you mean fps\?\)"):
        read_capture_file(folder)


def test_a_scan_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, "1.obj", "left/1.png")
    (tmp_path / "1.obj").write_text("v 1 2\n")
    with pytest.raises(InputError, match=r"1\.obj, line 1"):
        draft_captures(tmp_path, Answers())
    with pytest.raises(InputError):
        read_mesh(tmp_path / "1.obj")
