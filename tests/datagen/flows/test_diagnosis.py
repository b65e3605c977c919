"""Which convention fits: every mistake is named, cameras that are right are left alone, and what is known is mended."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from datagen.common.progress import Progress
from datagen.flows.check import CheckResult, check_captures, fix_captures
from datagen.flows.check_page import write_check_page
from datagen.flows.mend import Mended
from datagen.flows.views import examine
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.sources.capture_file import read_capture_file
from datagen.sources.frame import Frame
from tests.support.small_capture import (
    GL,
    HEAD,
    KEY,
    KEYS,
    MISTAKES,
    frame_of,
    photo,
    rig,
    room,
    scaled,
    shouldered,
    silhouette,
    with_intrinsics,
    with_pose,
    write_capture,
)

COMBINED = {
    "opengl inverse in mm": ("inverse_opengl+unit 1000", with_pose(lambda E: scaled(np.linalg.inv(GL @ E), 1e-3))),
    "inverse with half K": (
        "inverse+size 2",
        tuple(
            dataclasses.replace(a, K=b.K)
            for a, b in zip(MISTAKES["inverse"], MISTAKES["K of half the size"], strict=True)
        ),
    ),
}


def same(cameras: tuple[Camera, ...], pixels: float = 1e-6, true: tuple[Camera, ...] | None = None) -> bool:
    """Whether cameras are those of the true rig."""
    return all(
        np.allclose(a.world_to_camera, b.world_to_camera, atol=1e-9) and np.abs(a.K - b.K).max() <= pixels
        for a, b in zip(cameras, true or rig(), strict=True)
    )


@pytest.mark.parametrize("name", [*MISTAKES, *COMBINED])
def test_every_mistake_is_named_and_undone(name: str) -> None:
    key, cameras = COMBINED[name] if name in COMBINED else (KEYS[name], MISTAKES[name])
    found = examine(frame_of(cameras))
    assert {fit.convention.key for fit in found.fits.values()} == {key}
    assert same(tuple(found.fits[camera.name].camera for camera in cameras), pixels=1.01 if key == "crop" else 1e-6)
    assert all(fit.score > 0.95 > fit.given + 0.15 for fit in found.fits.values() if fit.score - fit.given > 0.1)
    for camera in cameras:
        if camera.name in found.views.wrong:
            assert f"fits: {found.fits[camera.name].score:.2f} instead of" in found.views.wrong[camera.name]


@pytest.mark.parametrize(
    "name", ["inverse", "opengl", "millimetres for metres", "K of half the size", "K of twice the size"]
)
def test_a_picture_without_mask_tells_by_its_edges(name: str) -> None:
    """And says nothing against cameras that are right."""
    assert examine(frame_of(masks=None, images=room)).fits == {}
    found = examine(frame_of(MISTAKES[name], masks=None, images=room))
    # The front camera's pose is nearly its own inverse.
    keys = {found.fits[camera].convention.key for camera in ("left", "right")}
    assert keys == {KEYS[name]}
    assert {"left", "right"} <= set(found.views.wrong)


@pytest.mark.parametrize("name", ["opengl inverse", "K of half the size"])
def test_a_mask_larger_than_the_scan_is_helped_by_edges(name: str) -> None:
    found = examine(frame_of(MISTAKES[name], masks=shouldered, images=room))
    assert {found.fits[camera].convention.key for camera in ("left", "right")} == {KEYS[name]}


@settings(max_examples=10, deadline=None)
@given(
    yaw=st.floats(-180, 180),
    grow=st.integers(0, 4),
    shoulders=st.booleans(),
    image=st.sampled_from([None, photo, room]),
    part=st.booleans(),
)
def test_cameras_that_are_right_are_never_corrected(
    yaw: float, grow: int, shoulders: bool, image: object, part: bool
) -> None:
    """From anywhere, with masks that are much larger than the scan, and scans of a face alone."""
    from scipy.ndimage import binary_dilation

    cameras = tuple(
        dataclasses.replace(camera, name=name)
        for camera, name in zip(rig((yaw, yaw + 30, yaw + 90)), ("left", "front", "right"), strict=True)
    )
    scan = HEAD
    if part:
        scan = Mesh.of(HEAD.vertices, HEAD.faces[HEAD.vertices[HEAD.faces].mean(axis=1)[:, 2] > 0.02])
    shown = {c.name: silhouette(c) for c in cameras}
    masks = {n: binary_dilation(m, iterations=grow) if grow else m for n, m in shown.items()}
    masks = {n: shouldered(m) if shoulders else m for n, m in masks.items()}
    images = {n: (lambda m=m: image(m)) for n, m in shown.items()} if image else {}
    found = examine(
        Frame(KEY, 0, 0.0, scan, cameras, images=images, masks={n: (lambda m=m: m) for n, m in masks.items()})
    )
    assert (found.fits, found.views.wrong) == ({}, {})


@pytest.mark.parametrize("smoothness", [1.0, 3.0, 8.0, 20.0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_pictures_that_show_nobody_take_no_right_camera_away(smoothness: float, count: int) -> None:
    """Whatever is tried lies on some edges of some picture."""
    rng = np.random.default_rng(int(10 * smoothness) + count)
    frame = frame_of(masks=None, images=None)
    noise = [
        gaussian_filter(rng.normal(size=(camera.height, camera.width, 3)), (smoothness, smoothness, 0))
        for camera in frame.cameras[:count]
    ]
    busy = [np.clip(128 + 45 * one / one.std(), 0, 255).astype(np.uint8) for one in noise]
    images = {camera.name: (lambda b=b: b) for camera, b in zip(frame.cameras, busy, strict=False)}
    assert examine(dataclasses.replace(frame, images=images)).views.wrong == {}


def test_a_scan_with_a_chair_in_it_is_no_wrong_camera() -> None:
    """Masks cut the chair away; where the cameras are wrong too, they are still found."""
    import trimesh

    back = trimesh.creation.box((0.3, 0.3, 0.02)).subdivide().subdivide().subdivide().subdivide()
    chair = np.asarray(back.vertices) + np.array([0.05, -0.1, -0.16])
    faces = np.concatenate([HEAD.faces, np.asarray(back.faces) + len(HEAD.vertices)])
    scan = Mesh.of(np.concatenate([HEAD.vertices, chair]), faces)
    found = examine(frame_of(scan=scan, images=room))
    assert found.views.wrong == {}
    assert min(found.wide.values()) > 0.2
    wrong = examine(frame_of(MISTAKES["K of twice the size"], scan=scan, images=room))
    assert set(wrong.views.wrong) == {"left", "front", "right"}
    assert wrong.wide == {}


@pytest.mark.parametrize("name", ["inverse", "opengl inverse"])
def test_a_scan_of_the_face_alone_tells_as_a_rig(name: str) -> None:
    """The cameras at the side see less of it than of the head in their masks."""
    front = HEAD.faces[HEAD.vertices[HEAD.faces].mean(axis=1)[:, 2] > 0]
    found = examine(frame_of(MISTAKES[name], scan=Mesh.of(HEAD.vertices, front)))
    assert {camera: fit.convention.key for camera, fit in found.fits.items()} == dict.fromkeys(
        ("left", "front", "right"), KEYS[name]
    )


def test_a_rig_is_mended_as_a_whole(tmp_path: Path) -> None:
    """One camera's masks are of another person: what fits the others is said, and nothing is written."""
    from PIL import Image

    folder = write_capture(tmp_path / "anna/speech", MISTAKES["opengl"])
    noise = np.random.default_rng(0).integers(0, 2, (8, 8)).repeat(12, 0).repeat(12, 1).astype(np.uint8) * 255
    for kind in ("images", "masks"):
        Image.fromarray(noise).convert("RGB" if kind == "images" else "L").save(folder / kind / "left/000000.png")
    before = (folder / "capture.json").read_bytes()
    mended, _ = fixed(tmp_path)
    assert mended[0].refused == "nothing fits camera left, and a rig is mended as a whole"
    assert (folder / "capture.json").read_bytes() == before


def test_what_was_done_to_masks_is_named() -> None:
    done = {"inverted": np.logical_not, "upside_down": lambda m: m[::-1], "mirrored": lambda m: m[:, ::-1]}
    for key, change in done.items():
        found = examine(frame_of(masks=change))
        fits = found.fits.values()
        assert {fit.convention.key for fit in fits} == {key}
        assert not any(fit.sure for fit in fits)


def cameras_of(folder: Path) -> tuple[Camera, ...]:
    return tuple(one.camera for one in read_capture_file(folder).recorded("capture.json"))


def quiet() -> Progress:
    return Progress("check", 0, "frames", io.StringIO())


def fixed(root: Path) -> tuple[list[Mended], CheckResult]:
    with quiet() as progress:
        found = check_captures(root, progress)
        return fix_captures(root, found, progress)


@pytest.mark.parametrize(
    ("name", "pixel_center"),
    [("opengl inverse", 0.5), ("K in widths", 0), ("K of half the size", 0), ("K before a crop", 0.5)],
)
def test_fix_writes_the_true_cameras_and_keeps_the_old_file(tmp_path: Path, name: str, pixel_center: float) -> None:
    cameras = MISTAKES[name]
    if pixel_center == 0:
        # What a program writes that counts pixels from the middle of the first: the same mistake of other figures.
        true = with_intrinsics(lambda K: K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]))
        if name == "K in widths":
            cameras = tuple(dataclasses.replace(c, K=np.diag([1 / c.width, 1 / c.width, 1]) @ c.K) for c in true)
        else:
            cameras = tuple(
                dataclasses.replace(c, K=c.K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])) for c in cameras
            )
    folder = write_capture(tmp_path / "anna/speech", cameras, pixel_center=pixel_center, _mine="a note")
    before = (folder / "capture.json").read_bytes()
    mended, after = fixed(tmp_path)
    assert after.problems == []
    assert [done.refused for done in mended] == [""]
    assert same(cameras_of(folder), pixels=1.01 if name == "K before a crop" else 1e-6)
    assert (folder / "capture.json.before-fix").read_bytes() == before
    content = json.loads((folder / "capture.json").read_text())
    assert content["_mine"] == "a note"
    assert len(content["_fixed"]) == 1
    changed = {path.name for path in folder.iterdir()}
    assert changed == {"capture.json", "capture.json.before-fix", "images", "masks", "scans"}
    assert fixed(tmp_path)[0] == []


def test_a_unit_of_all_cameras_is_stated_and_not_calculated(tmp_path: Path) -> None:
    cameras = with_pose(lambda E: scaled(E, 39.37007874015748))
    folder = write_capture(tmp_path / "anna/speech", cameras)
    fixed(tmp_path)
    assert read_capture_file(folder).camera_unit == "in"
    assert same(cameras_of(folder), pixels=1e-6)


def test_fix_refuses_what_is_not_sure_and_loses_no_file(tmp_path: Path) -> None:
    """Masks that agree with the cameras while images do not; a crop seen by one camera; an earlier fix."""
    one = write_capture(
        tmp_path / "anna/one", [rig()[0], dataclasses.replace(rig()[1], K=MISTAKES["K before a crop"][1].K), rig()[2]]
    )
    text = (one / "capture.json").read_bytes()
    mended, after = fixed(tmp_path)
    assert "a crop measured in pictures is not exact" in mended[0].refused
    assert (one / "capture.json").read_bytes() == text
    assert len(after.problems) == 1
    (one / "capture.json.before-fix").write_text("mine")
    write_capture(tmp_path / "anna/two", MISTAKES["inverse"])
    (tmp_path / "anna/two/capture.json.before-fix").write_text("mine")
    mended, _ = fixed(tmp_path)
    assert [(done.where, done.kept) for done in mended] == [("anna/one", ""), ("anna/two", "capture.json.before-fix-2")]
    assert (tmp_path / "anna/two/capture.json.before-fix").read_text() == "mine"


def test_cameras_whose_pictures_were_exchanged_are_exchanged_back(tmp_path: Path) -> None:
    left, front, right = rig()
    left = dataclasses.replace(left, K=np.diag([1.4, 1.4, 1]) @ left.K)
    left.K[:2, 2] = front.K[:2, 2]
    true = (left, front, right)
    swapped = (dataclasses.replace(right, name="left"), front, dataclasses.replace(left, name="right"))
    folder = write_capture(tmp_path / "anna/speech", swapped, true=true)
    mended, after = fixed(tmp_path)
    assert (after.problems, mended[0].refused) == ([], "")
    assert same(cameras_of(folder), true=true)


def test_a_picture_that_tells_nothing_is_said_to(tmp_path: Path) -> None:
    """Noise everywhere, without a mask: neither believed nor blamed."""
    from PIL import Image

    folder = write_capture(tmp_path / "anna/speech", rig(), masks=None)
    for k, camera in enumerate(rig()):
        noise = np.random.default_rng(k).integers(60, 200, (96, 96, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"images/{camera.name}/000000.png")
    with quiet() as progress:
        found = check_captures(tmp_path, progress, pictures=True)
    assert found.problems == []
    assert [note["where"] for note in found.notes] == [
        f"anna/speech camera {name}" for name in ("front", "left", "right")
    ]
    assert all("do not tell whether it is right" in note["problem"] for note in found.notes)
    assert {view.state for view in found.pictured[0].views} == {"unknown"}


def test_the_page_shows_every_camera_and_needs_nothing_else(tmp_path: Path) -> None:
    write_capture(tmp_path / "captures/<b>anna/speech", MISTAKES["opengl"])
    write_capture(tmp_path / "captures/ben/speech", rig())
    with quiet() as progress:
        found = check_captures(tmp_path / "captures", progress, pictures=True)
    assert [(one.where, one.poor) for one in found.pictured] == [("<b>anna/speech", 3), ("ben/speech", 0)]
    said = {"counted": "2 sequences", "fits": [str(one) for one in found.explained], "more": ""}
    page = write_check_page(
        tmp_path / "page.html", tmp_path, found.pictured, {**said, "problems": found.problems, "notes": []}
    )
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 6
    assert "<b>anna" not in html
    assert "OpenGL axes (y and z turned) fits" in html
    assert "http" not in html.replace("http-equiv", "")


WRITTEN = {
    "zero_one": (lambda m: m.astype(np.uint8), "the brightest value"),
    "inverted": (lambda m: np.where(m, 0, 255).astype(np.uint8), "inverted (white for black) fits"),
    "alpha": (lambda m: np.dstack([np.zeros((*m.shape, 3), np.uint8), m * np.uint8(255)]), "transparent pixels"),
    "black": (lambda m: np.zeros(m.shape, np.uint8), "black everywhere"),
    "upside_down": (lambda m: m[::-1] * np.uint8(255), "upside down fits"),
    "coloured": (lambda m: np.dstack([m * np.uint8(128), m * np.uint8(0), m * np.uint8(0)]), "has colours"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_masks_as_other_programs_write_them_are_found_by_every_camera(tmp_path: Path, name: str) -> None:
    from PIL import Image

    change, said = WRITTEN[name]
    folder = write_capture(tmp_path / "anna/speech", rig())
    for camera in rig():
        path = folder / "masks" / camera.name / "000000.png"
        Image.fromarray(change(np.asarray(Image.open(path)) > 0)).save(path)
    with quiet() as progress:
        found = check_captures(tmp_path, progress)
    assert len(found.problems) == 3
    assert all(said in entry["problem"] for entry in found.problems)


@pytest.mark.parametrize("level", [0, 5, 128])
def test_a_picture_that_was_never_taken_is_no_sample(level: int) -> None:
    """Black, black with a sensor's noise, or one grey: with masks that say that somebody is there."""
    noise = np.random.default_rng(0).integers(0, level + 1, (96, 96, 3)).astype(np.uint8)
    blank = noise if level < 128 else np.full_like(noise, level)
    found = examine(frame_of(images=lambda _: blank))
    assert set(found.views.wrong) == {"left", "front", "right"}
    word = "of one colour" if level == 128 else "black"
    assert all(f"is {word} wherever the scan is" in reason for reason in found.views.wrong.values())
