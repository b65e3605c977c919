"""Captures of other programs: cameras, pictures and scans come out as they were, whatever is missing is said."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from datagen.cli import app
from datagen.common.errors import CanonfaceError
from datagen.manifest import parse_manifest
from datagen.sources.capture_file import read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Frame, SequenceKey
from tests.layouts.colmap import write_colmap, write_depth_maps
from tests.layouts.studio import HEIGHT, MM, SIDE, WIDTH, Shot, centres, depth_of, make_black_beside, pattern, scan
from tests.layouts.transforms import write_transforms

COLMAP_MODELS = ["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"]
COLMAP_MODELS += ["OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"]
KEY = SequenceKey("work", "take")


def run(*words: str | Path) -> tuple[int, str]:
    """Call the command line; return its exit code and what it printed or raised."""
    result = CliRunner().invoke(app, [*map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        # Anything else would be a traceback.
        assert isinstance(result.exception, CanonfaceError), repr(result.exception)
        return 2, str(result.exception)
    return result.exit_code, result.output


def imported(layout: str, root: Path, *options: str) -> tuple[Path, str]:
    out = root.parent / "captures"
    code, said = run("import", layout, root, "--out", out, *(options or ("--unit", "mm")))
    assert code == 0, said
    return out, said


def only_frame(out: Path, key: SequenceKey = KEY) -> Frame:
    source = FolderCaptures(out)
    (info,) = source.sequences()
    assert info.key == key
    return source.frame(key, info.frames[0])


def assert_same_studio(frame: Frame, found: list[Shot]) -> None:
    """Poses to rounding, the scan in its place, and every pixel the pattern that its ray meets."""
    np.testing.assert_allclose(frame.scan.vertices, scan().vertices, atol=1e-7)
    np.testing.assert_array_equal(frame.scan.faces, scan().faces)
    assert [camera.name for camera in frame.cameras] == [shot.camera.name for shot in found]
    for camera, shot in zip(frame.cameras, found, strict=True):
        np.testing.assert_allclose(camera.world_to_camera, shot.camera.world_to_camera, atol=1e-9)
        np.testing.assert_allclose(camera.K[:2, 2], shot.camera.K[:2, 2], atol=1e-12)
        if shot.lens.is_straight:
            np.testing.assert_allclose(camera.K, shot.camera.K, atol=1e-12)
        rays = (centres() - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
        truth = pattern(shot.camera, rays).reshape(HEIGHT, WIDTH, 3)
        error = np.abs(frame.images[camera.name]() - truth)[3:-3, 3:-3]
        # Half a pixel of difference would be 4 to 8 grey values on average.
        assert error.max() < 3
        assert error.mean() < 0.6


# ------------------------------------------------------------------ round trips
@pytest.mark.parametrize("model", COLMAP_MODELS)
def test_a_colmap_workspace_comes_back(tmp_path: Path, model: str) -> None:
    found = write_colmap(tmp_path / "work", model, binary=model != "RADIAL")
    out, said = imported("colmap", tmp_path / "work")
    assert_same_studio(only_frame(out), found)
    assert ("pictures of 3 cameras straightened" in said) == (not found[0].lens.is_straight)


def test_text_and_binary_models_say_the_same(tmp_path: Path) -> None:
    for binary in (False, True):
        write_colmap(tmp_path / f"{binary}/work", binary=binary)
        imported("colmap", tmp_path / f"{binary}/work")
    first, second = (read_capture_file(tmp_path / f"{binary}/captures/work/take") for binary in (False, True))
    assert first.cameras == second.cameras


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("model", ["PINHOLE", "RADIAL", "OPENCV", "OPENCV_FISHEYE"])
def test_transforms_come_back(tmp_path: Path, model: str, each: bool) -> None:
    found = write_transforms(tmp_path / "work", model, each=each)
    out, _ = imported("nerfstudio", tmp_path / "work")
    assert_same_studio(only_frame(out), found)


def test_a_turned_world_is_turned_back_when_told(tmp_path: Path) -> None:
    found = write_transforms(tmp_path / "work", turned=True)
    _, said = imported("nerfstudio", tmp_path / "work")
    assert "pass --original-world" in said
    out, said = imported("nerfstudio", tmp_path / "work", "--unit", "mm", "--original-world")
    assert "before applied_transform" in said
    assert_same_studio(only_frame(out), found)


def test_a_unit_without_a_name(tmp_path: Path) -> None:
    found = write_colmap(tmp_path / "work", factor=1 / 0.137)
    code, said = run("import", "colmap", tmp_path / "work", "--out", tmp_path / "captures")
    assert code == 2
    assert f"is {np.hypot(SIDE, SIDE) / 0.137:.4g} across" in said or "across" in said
    out, _ = imported("colmap", tmp_path / "work", "--metres-per-unit", "0.137")
    assert_same_studio(only_frame(out), found)


def test_pictures_that_were_scaled_have_their_intrinsics_scaled_half_pixels_right(tmp_path: Path) -> None:
    found = write_colmap(tmp_path / "work", "PINHOLE")
    for path in (tmp_path / "work/images").iterdir():
        with Image.open(path) as picture:
            half = picture.resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BOX)
        half.save(path)
    out, said = imported("colmap", tmp_path / "work")
    assert f"K of {WIDTH}×{HEIGHT} is scaled" in said
    frame = only_frame(out)
    for camera, shot in zip(frame.cameras, found, strict=True):
        rays = (centres(WIDTH // 2, HEIGHT // 2) - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
        truth = pattern(shot.camera, rays).reshape(HEIGHT // 2, WIDTH // 2, 3)
        # The mean of four pixels of the pattern is not the pattern in their middle; a quarter pixel is 4 and more.
        assert np.abs(frame.images[camera.name]() - truth).mean() < 2.5


def assert_same_depths(frame: Frame, found: list[Shot], atol_m: float) -> None:
    for shot in found:
        measured = frame.depths[shot.camera.name]()
        np.testing.assert_allclose(measured.depth, depth_of(shot.camera), atol=atol_m)
        np.testing.assert_allclose(measured.camera.K, shot.camera.K, atol=1e-9)


@pytest.mark.parametrize("options", [("--unit", "mm"), ("--metres-per-unit", "0.001")])
def test_depth_maps_of_colmap_come_along_and_may_be_the_surface(
    tmp_path: Path, options: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_black_beside(monkeypatch)
    found = write_colmap(tmp_path / "work", "PINHOLE", base="dense/0", scan_name="fused.ply")
    write_depth_maps(tmp_path / "work/dense/0", found)
    out, said = imported("colmap", tmp_path / "work", *options)
    assert "doubtful" not in said
    assert_same_depths(only_frame(out), found, 1e-6)
    (tmp_path / "work/dense/0/fused.ply").unlink()
    (tmp_path / "work/dense/0/stereo/depth_maps/c1.png.geometric.bin").unlink()
    out, said = imported("colmap", tmp_path / "work", *options)
    for what in ("there is no scan: it is fused from the depth maps", "depth maps of 1 of 3 pictures"):
        assert what in said
    frame = only_frame(out)
    assert np.abs(frame.scan.vertices[:, 2]).max() < 1e-3
    np.testing.assert_allclose(np.ptp(frame.scan.vertices[:, :2], axis=0), SIDE, atol=0.02)


@pytest.mark.parametrize(
    ("step_mm", "options", "agrees"), [(1, (), True), (10, ("--depth-unit", "cm"), True), (10, (), False)]
)
def test_depth_maps_of_transforms_come_along(
    tmp_path: Path, step_mm: float, options: tuple[str, ...], agrees: bool
) -> None:
    found = write_transforms(tmp_path / "work", "PINHOLE", depth_mm=step_mm)
    out, said = imported("nerfstudio", tmp_path / "work", "--unit", "mm", *options)
    assert ("has 0.1 times the depth of the scan; see --depth-unit" in said) == (not agrees)
    if agrees:
        assert_same_depths(only_frame(out), found, 0.51e-3 * step_mm)


def test_depth_maps_of_pictures_with_distortion_are_straightened_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_black_beside(monkeypatch)
    write_transforms(tmp_path / "work", "OPENCV", depth_mm=1)
    out, said = imported("nerfstudio", tmp_path / "work")
    assert "doubtful" not in said
    frame = only_frame(out)
    for camera in frame.cameras:
        truth, measured = depth_of(camera), frame.depths[camera.name]().depth
        there = (truth > 0) & (measured > 0)
        assert there.sum() > 0.9 * (truth > 0).sum()
        # The plane is steep in places: a pixel that is looked up beside is a millimetre off.
        assert np.abs(measured - truth)[there].max() < 3e-3


def test_depth_maps_of_a_kind_that_is_none_are_one_message(tmp_path: Path) -> None:
    write_transforms(tmp_path / "work", "PINHOLE", depth_mm=1)
    path = tmp_path / "work/transforms.json"
    path.write_text(path.read_text().replace('"depth_file_path": "depth/', '"depth_file_path": "images/'))
    for picture in (tmp_path / "work/images").glob("*.png"):
        picture.rename(picture.with_suffix(".jpg"))
    path.write_text(path.read_text().replace(".png", ".jpg"))
    code, said = run("import", "nerfstudio", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert "depth maps is not valid" in said
    assert ".jpg" in said


def test_pictures_with_distortion_stay_as_they_are(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work", "OPENCV")
    out, said = imported("colmap", tmp_path / "work")
    assert "4 linked" in said
    capture = read_capture_file(out / "work/take")
    distortion = capture.cameras["c1"].distortion
    assert distortion is not None
    assert (distortion.model, distortion.parameters[:4]) == ("opencv", [0.13, -0.05, 0.004, -0.003])


# ------------------------------------------------------------------ where things lie
def test_what_needs_no_change_is_linked_and_nothing_of_the_users_changes(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work", "PINHOLE")
    before = {path: path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file()}
    out, said = imported("colmap", tmp_path / "work")
    assert "4 linked" in said
    ours = out / "work/take"
    assert os.path.samefile(ours / "images/c1/000000.png", tmp_path / "work/images/c1.png")
    assert os.path.samefile(ours / "scans/000000.ply", tmp_path / "work/meshed-poisson.ply")
    assert not any(path.is_symlink() for path in out.rglob("*"))
    _, said = imported("colmap", tmp_path / "work")
    assert "kept, it was there already" in said
    # Other settings make it again.
    _, said = imported("colmap", tmp_path / "work", "--unit", "mm", "--licence", "mine")
    assert "take: written" in said
    assert {path: path.read_bytes() for path in before} == before


def test_suffixes_stay_and_pictures_of_several_kinds_become_one(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work", "PINHOLE", suffix=".JPG")
    out, said = imported("colmap", tmp_path / "work")
    assert "4 linked" in said
    assert read_capture_file(out / "work/take").images == "images/{camera}/{frame:06d}.JPG"
    model = tmp_path / "work/sparse/0/images.bin"
    model.write_bytes(model.read_bytes().replace(b"c1.JPG", b"c1.png"))
    with Image.open(tmp_path / "work/images/c1.JPG") as picture:
        picture.save(tmp_path / "work/images/c1.png")
    out, said = imported("colmap", tmp_path / "work")
    assert "1 linked, 3 written anew" in said
    assert sorted(only_frame(out).images) == ["c0", "c1", "c2"]


def test_the_oldest_transforms_have_an_angle_and_leave_the_rest_to_the_pictures(tmp_path: Path) -> None:
    found = write_transforms(tmp_path / "work", "PINHOLE")
    path = tmp_path / "work/transforms.json"
    frames = json.loads(path.read_text())["frames"]
    for frame in frames:
        frame["file_path"] = f"./{frame['file_path'].removesuffix('.png')}"
    path.write_text(json.dumps({"camera_angle_x": 2 * np.arctan(WIDTH / 2 / 150), "frames": frames}))
    out, _ = imported("nerfstudio", tmp_path / "work")
    for camera, shot in zip(only_frame(out).cameras, found, strict=True):
        np.testing.assert_allclose(camera.K, [[150, 0, WIDTH / 2], [0, 150, HEIGHT / 2], [0, 0, 1]], atol=1e-9)
        np.testing.assert_allclose(camera.world_to_camera, shot.camera.world_to_camera, atol=1e-9)
        assert camera.name == shot.camera.name


def test_other_file_systems_get_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = write_colmap(tmp_path / "work", "PINHOLE")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    out, said = imported("colmap", tmp_path / "work")
    assert "4 copied" in said
    assert_same_studio(only_frame(out), found)


def test_many_workspaces_are_sequences_of_subjects(tmp_path: Path) -> None:
    for name in ("anna/smile", "anna/rest", "ben/rest"):
        write_colmap(tmp_path / "all" / name, "PINHOLE")
    out, _ = imported("colmap", tmp_path / "all")
    assert [str(info.key) for info in FolderCaptures(out).sequences()] == ["anna/rest", "anna/smile", "ben/rest"]
    code, said = run(
        "import", "colmap", tmp_path / "all/anna", "--out", tmp_path / "one", "--unit", "mm", "--subject", "A"
    )
    assert code == 0, said
    assert [str(info.key) for info in FolderCaptures(tmp_path / "one").sequences()] == ["A/rest", "A/smile"]


def test_the_dense_model_comes_first(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work", "OPENCV", scan_name="other.ply")
    found = write_colmap(tmp_path / "work", "PINHOLE", base="dense/0", scan_name="fused.ply")
    out, said = imported("colmap", tmp_path / "work")
    assert "the scan is dense/0/fused.ply" in said
    assert_same_studio(only_frame(out), found)


def test_licence_and_citation_reach_the_dataset(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work", "PINHOLE")
    recipe = {"name": "x", "source": {"kind": "folder", "root": str(tmp_path / "captures")}}
    out, _ = imported("colmap", tmp_path / "work")
    assert parse_manifest(recipe).source.origin["licence"] == "as agreed with the owner of the captures"
    imported("colmap", tmp_path / "work", "--unit", "mm", "--licence", "CC-BY-4.0", "--citation", "Us, 2026")
    capture = read_capture_file(out / "work/take")
    assert (capture.licence, capture.citation) == ("CC-BY-4.0", "Us, 2026")
    origin = parse_manifest(recipe).source.origin
    assert origin == {"name": "folder captures", "licence": "CC-BY-4.0", "citation": "Us, 2026"}
    assert str(tmp_path) not in (out / "work/take/capture.json").read_text()


def test_masks_are_straightened_with_their_pictures(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work")
    (tmp_path / "work/masks").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : WIDTH // 2] = 255
    Image.fromarray(mask).save(tmp_path / "work/masks/c1.png.png")
    out, said = imported("colmap", tmp_path / "work")
    assert "masks of 1 cameras are taken for the person's" in said
    frame = only_frame(out)
    assert list(frame.masks) == ["c1"]
    straight = frame.masks["c1"]()
    assert (straight[:, : WIDTH // 2 - 4].all(), straight[:, WIDTH // 2 + 4 :].any()) == (True, False)


# ------------------------------------------------------------------ partial downloads, and what is wrong
def test_missing_pictures_are_named(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work")
    (tmp_path / "work/images/c1.png").unlink()
    out, said = imported("colmap", tmp_path / "work")
    assert "1 of 3 pictures: c1.png" in said
    frame = only_frame(out)
    assert (len(frame.cameras), sorted(frame.images)) == (3, ["c0", "c2"])


def test_one_bad_workspace_does_not_end_the_others(tmp_path: Path) -> None:
    write_colmap(tmp_path / "all/a", "PINHOLE")
    write_colmap(tmp_path / "all/b", "PINHOLE")
    (tmp_path / "all/a/meshed-poisson.ply").unlink()
    code, said = run("import", "colmap", tmp_path / "all", "--out", tmp_path / "captures", "--unit", "mm", "--json")
    assert code == 1
    first, second = json.loads(said[said.index("{") :])["sequences"]
    assert "has no scan" in first["problem"]
    assert (second["problem"], second["linked"]) == ("", 4)
    assert [str(info.key) for info in FolderCaptures(tmp_path / "captures").sequences()] == ["all/b"]


def _cut(name: str, size: int) -> Callable[[Path], None]:
    def change(work: Path) -> None:
        path = work / name
        path.write_bytes(path.read_bytes()[:size])

    return change


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    def change(work: Path) -> None:
        (work / name).write_bytes(data)

    return change


def _climbing(work: Path) -> None:
    path = work / "sparse/0/images.bin"
    path.write_bytes(path.read_bytes().replace(b"c0.png", b"../../../secret.png"))
    Image.new("RGB", (WIDTH, HEIGHT)).save(work.parent / "secret.png")


def _linking(work: Path) -> None:
    (work / "images/c0.png").rename(work.parent / "c0.png")
    (work / "images/c0.png").symlink_to(work.parent / "c0.png")


def _linking_scan(work: Path) -> None:
    (work / "meshed-poisson.ply").rename(work.parent / "x.ply")
    (work / "meshed-poisson.ply").symlink_to(work.parent / "x.ply")


def _crop(work: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT - 10)).save(work / "images/c0.png")


def _no_pictures(work: Path) -> None:
    for path in (work / "images").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut("sparse/0/images.bin", 100), "images.bin ends after 100 bytes"),
        (_cut("sparse/0/cameras.bin", 5), "cameras.bin ends after 5 bytes"),
        (_write("sparse/0/cameras.bin", struct.pack("<QIiQQ", 1, 1, 99, 9, 9)), "model number 99"),
        (_write("sparse/0/cameras.bin", struct.pack("<Q", 0)), "which it does not describe"),
        (_write("sparse/0/images.bin", struct.pack("<Q", 0)), "no picture that was placed"),
        (_write("sparse/0/images.bin", struct.pack("<Q", 2**60)), "images.bin ends after 8 bytes"),
        (_write("images/c0.png", b"not a picture"), "c0.png cannot be read"),
        (_write("meshed-poisson.ply", b"ply\nnonsense"), "meshed-poisson.ply has no complete PLY header"),
        (_climbing, "names '../../../secret.png', which lies outside"),
        (_linking, "names 'c0.png', which lies outside"),
        (_linking_scan, "names 'meshed-poisson.ply', which lies outside"),
        (_crop, "was calibrated for 96×80"),
        (_no_pictures, "has none of the 3 pictures"),
    ],
)
def test_a_bad_colmap_workspace_is_one_message(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    write_colmap(tmp_path / "work")
    change(tmp_path / "work")
    code, said = run("import", "colmap", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert message in said
    assert not (tmp_path / "captures/work/take").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("frames", [], "no list `frames`"),
        ("frames", [{"file_path": 3}], "whose `file_path` is 3"),
        ("fl_x", "wide", "`fl_x` is 'wide'"),
        ("fl_x", float("nan"), "`fl_x` is nan"),
        ("w", "wide", "`w` is 'wide'"),
        ("w", 0, "has no size"),
        ("camera_model", "EQUIRECTANGULAR", "has the camera model 'EQUIRECTANGULAR'"),
        ("camera_model", "PINHOLE", "PINHOLE with distortion"),
        ("k1", -50, "no straight picture of 96×80"),
        ("applied_transform", [[1]], "applied_transform of"),
    ],
)
def test_a_bad_transforms_file_is_one_message(tmp_path: Path, key: str, value: object, message: str) -> None:
    write_transforms(tmp_path / "work")
    path = tmp_path / "work/transforms.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    code, said = run("import", "nerfstudio", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert message in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}, "does not only turn and move"),
        ({"transform_matrix": "x"}, "4×4 or 3×4"),
        ({"file_path": "/etc/hostname"}, "lies outside"),
        ({"file_path": "images/c1.png"}, "names a picture twice"),
        ({"time": 0.5}, "pictures of 2 instants"),
    ],
)
def test_a_bad_entry_of_transforms_is_one_message(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_transforms(tmp_path / "work")
    path = tmp_path / "work/transforms.json"
    content = json.loads(path.read_text())
    content["frames"][0] |= change
    content["frames"][1]["time"] = 0.0
    path.write_text(json.dumps(content))
    code, said = run("import", "nerfstudio", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert message in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--unit", "m"], "off by a factor of about 1000"),
        (["--unit", "mm", "--metres-per-unit", "1"], "exclude each other"),
        (["--unit", "mm", "--original-world"], "--original-world given for colmap, which does not take it"),
        (["--metres-per-unit", "-1"], "a length above 0"),
        (["--unit", "mm", "--scan", "gone.ply"], "the scan that --scan names"),
        (["--unit", "mm", "--scan", "../x.ply"], "outside"),
        (["--unit", "mm", "--images", "gone"], "Name it: --images FOLDER"),
    ],
)
def test_wrong_use_is_one_message(tmp_path: Path, options: list[str], message: str) -> None:
    write_colmap(tmp_path / "work", "PINHOLE")
    code, said = run("import", "colmap", tmp_path / "work", "--out", tmp_path / "captures", *options)
    assert code == 2
    assert message in said


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    write_colmap(tmp_path / "work", "PINHOLE")
    mine = tmp_path / "captures/work/take/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, said = run("import", "colmap", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert "in the way" in said
    assert mine.read_text() == "mine"


def test_check_runs_on_what_was_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_black_beside(monkeypatch)
    write_colmap(tmp_path / "work")
    out, said = imported("colmap", tmp_path / "work")
    assert f"next: datagen check {out}" in said
    code, said = run("check", out)
    assert (code, "1 frames, 0 problems" in said) == (0, True), said
    assert MM == 1000
