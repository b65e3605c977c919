"""What a capture may bring is used, refused in words, or said: never dropped, and never a traceback."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen.common.errors import CanonfaceError, InputError, MeshError
from datagen.common.progress import Progress
from datagen.flows.check import CheckResult, check_captures
from datagen.geometry.camera import look_at
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.geometry.space import METRES_PER_UNIT
from datagen.shards.schema import MAX_FRAME
from datagen.sources.capture_file import CaptureFile
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from datagen.sources.topology import Topology
from tests.support.topologies import write_topology

KEY = SequenceKey("anna", "speech")
CAMERAS = tuple(
    look_at(name, [x, 0, 1], [0, 0, 0], 60, 32, 24) for name, x in (("left", -0.3), ("right", 0.3), ("top", 0))
)
FRAMES = (3, 5)


def ball() -> Mesh:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    return Mesh.of(points.astype(np.float32), rng.integers(0, 60, (80, 3)))


def marks() -> Landmarks:
    return Landmarks(np.array([8, 30, 36]), ball().vertices[[1, 7, 20]])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture with everything that one may have. Tests must not change it: they copy it."""
    root = tmp_path_factory.mktemp("written")
    write_topology(root, Topology("own", ball().vertices, ball().faces, marks()))
    with SequenceWriter(root, KEY, CAMERAS, 25.0, registration_topology="own", generator={"key": "k"}) as writer:
        for frame in FRAMES:
            rng = np.random.default_rng(frame)
            pictures = {c.name: rng.integers(0, 256, (24, 32, 3)).astype(np.uint8) for c in CAMERAS}
            # Where each camera sees the ball, six pixels in radius.
            masks = {
                name: np.hypot(*(np.indices((24, 32)) - np.array([11.5, 15.5])[:, None, None])) < 8 for name in pictures
            }
            writer.add(frame, ball(), registration=ball().vertices, landmarks=marks(), images=pictures, masks=masks)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "captures"))


def folder(root: Path) -> Path:
    return root / "anna" / "speech"


def content(root: Path) -> dict[str, Any]:
    return dict(json.loads((folder(root) / "capture.json").read_text()))


def edit(root: Path, **changes: Any) -> None:
    (folder(root) / "capture.json").write_text(json.dumps({**content(root), **changes}))


def check(root: Path) -> CheckResult:
    with Progress("check", 0, "frames", io.StringIO()) as progress:
        return check_captures(root, progress)


def flat(root: Path) -> None:
    """Put all pictures of a kind into one folder, named after frame and camera."""
    for kind in ("images", "masks"):
        for path in sorted((folder(root) / kind).rglob("*.png")):
            path.rename(folder(root) / kind / f"{path.stem}_{path.parent.name}.png")
        for camera in CAMERAS:
            (folder(root) / kind / camera.name).rmdir()
    edit(root, images="images/{frame:06d}_{camera}.png", masks="masks/{frame:06d}_{camera}.png")


# ------------------------------------------------------------------ any edit of capture.json
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 1e308, 10**400, "m", "in"])
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value of a JSON document."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_edit_of_a_capture_is_used_or_refused_in_words(
    written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    edited = copy.deepcopy(content(written))
    edited.update(camera_unit="m", orientation="stored")
    edited["registration"]["unit"] = "m"
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from([path for path in places(edited) if path]))
        holder: Any = edited
        for key in path:
            holder = holder[key]
        match data.draw(st.sampled_from(["replace", "delete", "add"])):
            case "replace":
                holder[last] = data.draw(JSON)
            case "delete":
                del holder[last]
            case "add" if isinstance(holder, dict):
                holder[data.draw(st.text(max_size=5) | st.just(str(last).upper()))] = data.draw(JSON)
    root = Path(shutil.copytree(written, tmp_path_factory.mktemp("edited") / "captures"))
    with suppress(ValueError):  # too long a number is not written
        (folder(root) / "capture.json").write_text(json.dumps(edited))
    check(root)
    with suppress(CanonfaceError):
        source = FolderCaptures(root)
        (info,) = source.sequences()
        for index in info.frames[:3]:
            with suppress(CanonfaceError):
                source.input_digest(KEY, index)
                frame = source.frame(KEY, index)
                assert np.isfinite([c.K for c in frame.cameras]).all()
                assert np.isfinite(np.float32([c.world_to_camera for c in frame.cameras])).all()
                assert np.isfinite(frame.time_s)
                for read in (*frame.images.values(), *frame.masks.values()):
                    read()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_file_of_a_capture_is_found_by_check_or_harmless(
    written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    root = Path(shutil.copytree(written, tmp_path_factory.mktemp("damaged") / "captures"))
    path = root / data.draw(st.sampled_from(files))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    path.write_bytes(before[:at] + data.draw(st.binary(max_size=4)) + before[at + data.draw(st.integers(0, 40)) :])
    assert check(root).sequences == 1


# ------------------------------------------------------------------ pictures that belong to no camera, or are missing
NAMES = st.text("abLRleftrightopTP_-. 0", min_size=1, max_size=8).filter(
    lambda name: name not in {"left", "right", "top"} and name.strip(". ") == name
)


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(["images", "masks"]), name=NAMES, one_folder=st.booleans())
def test_pictures_of_a_camera_that_there_is_not_are_refused_with_the_nearest_name(
    written: Path, tmp_path_factory: pytest.TempPathFactory, kind: str, name: str, one_folder: bool
) -> None:
    root = Path(shutil.copytree(written, tmp_path_factory.mktemp("strangers") / "captures"))
    if one_folder:
        flat(root)
        (folder(root) / kind / f"000003_{name}.png").write_bytes(b"")
    else:
        (folder(root) / kind / name).mkdir()
    source = FolderCaptures(root)
    for read in (source.frame, source.input_digest):
        with pytest.raises(InputError, match="which is no camera") as caught:
            read(KEY, 3)
        assert repr(name) in caught.value.found
    (problem,) = check(root).problems
    assert (problem["where"], problem["problem"].endswith("(2 frames)")) == (f"{KEY}/000003", True)


@pytest.mark.parametrize(("name", "near"), [("Left", "left"), ("rihgt", "right"), ("TOP", "top")])
def test_the_nearest_camera_is_named(root: Path, name: str, near: str) -> None:
    (folder(root) / "images" / near).rename(folder(root) / "images" / name)
    with pytest.raises(InputError, match=f"'{name}'.*nearest name is '{near}'"):
        FolderCaptures(root).frame(KEY, 3)


def test_what_is_beside_the_pictures_is_no_camera(root: Path) -> None:
    (folder(root) / "images" / ".cache").mkdir()
    (folder(root) / "images" / "notes.txt").write_text("")
    assert len(FolderCaptures(root).frame(KEY, 3).images) == 3
    flat(root)
    (folder(root) / "images" / "notes.png").write_text("")
    (folder(root) / "images" / "thumbnails").mkdir()
    assert len(FolderCaptures(root).frame(KEY, 3).images) == 3


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("one_folder", [True, False])
def test_a_file_that_is_missing_in_some_frames_is_an_error_in_any_layout(
    root: Path, kind: str, one_folder: bool
) -> None:
    if one_folder:
        flat(root)
    path = folder(root) / kind / ("000003_left.png" if one_folder else "left/000003.png")
    path.unlink()
    for read in (FolderCaptures(root).frame, FolderCaptures(root).input_digest):
        with pytest.raises(InputError, match=f"{path.name} is missing.*every frame of camera left"):
            read(KEY, 3)
    assert [problem["where"] for problem in check(root).problems] == [f"{KEY}/000003"]


@pytest.mark.parametrize("change", ["suffix", "numbers"])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_files_of_a_camera_under_other_names_are_not_passed_over(root: Path, kind: str, change: str) -> None:
    flat(root)
    for path in list((folder(root) / kind).glob("*_left.png")):
        number = path.name[:6] if change == "suffix" else f"{int(path.name[:6]) + 100:06d}"
        path.rename(path.with_name(f"{number}_left.{'JPG' if change == 'suffix' else 'png'}"))
    name = "000003_left.JPG" if change == "suffix" else "000103_left.png"
    for read in (FolderCaptures(root).frame, FolderCaptures(root).input_digest):
        with pytest.raises(InputError, match=f"000003_left.png is missing.*correct `{kind}`.*there is '"):
            read(KEY, 3)
    assert (folder(root) / kind / name).is_file()


@pytest.mark.parametrize("one_folder", [True, False])
def test_a_camera_without_any_pictures_is_allowed_and_said(root: Path, one_folder: bool) -> None:
    if one_folder:
        flat(root)
    for kind in ("images", "masks"):
        for path in [p for p in (folder(root) / kind).rglob("*.png") if "left" in str(p.relative_to(root))]:
            path.unlink()
        shutil.rmtree(folder(root) / kind / "left", ignore_errors=True)
    assert sorted(FolderCaptures(root).frame(KEY, 3).images) == ["right", "top"]
    (note,) = [note for note in check(root).notes if "left" in note["where"]]
    assert "no image" in note["problem"]


def test_promised_pictures_of_which_there_are_none_are_missed(root: Path) -> None:
    shutil.rmtree(folder(root) / "images")
    with pytest.raises(InputError, match=r"none of the images that capture\.json promises"):
        FolderCaptures(root).frame(KEY, 3)


# ------------------------------------------------------------------ turned, transparent and deep pictures
@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("said", [None, "stored", "upright"])
def test_a_turned_picture_is_refused_unless_the_capture_says_what_is_meant(root: Path, tag: int, said: str) -> None:
    stored = np.random.default_rng(tag).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x112] = tag
    path = folder(root) / "images/left/000003.png"
    Image.fromarray(stored).save(path, exif=exif)
    if said:
        edit(root, orientation=said)
    source = FolderCaptures(root)
    if tag > 1 and said is None:
        with pytest.raises(InputError, match=f"orientation {tag}.*orientation.*capture.json"):
            source.frame(KEY, 3)
    elif tag >= 5 and said == "upright":
        # Upright it is 24 wide, which its camera is not.
        with pytest.raises(CanonfaceError, match="24×32 pixels"):
            source.frame(KEY, 3)
    else:
        shown = source.frame(KEY, 3).images["left"]()
        turned = {2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]}.get(tag, stored)
        np.testing.assert_array_equal(shown, turned if said == "upright" else stored)


def test_colours_hidden_under_transparency_never_reach_a_frame(root: Path) -> None:
    pixels = np.zeros((24, 32, 4), np.uint8)
    pixels[...] = (255, 0, 255, 0)
    pixels[5:20, 5:20] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(folder(root) / "images/left/000003.png")
    shown = FolderCaptures(root).frame(KEY, 3).images["left"]()
    assert tuple(shown[10, 10]) == (10, 20, 30)
    assert (shown[:4] == shown[0, 0]).all()
    assert tuple(shown[0, 0]) != (255, 0, 255)


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (np.eye(24, 32, dtype=np.uint8), "brightest value of mask .* is 1"),
        (np.dstack([np.eye(24, 32) * 128, np.zeros((24, 32, 2))]).astype(np.uint8), "has colours"),
        (np.dstack([np.zeros((24, 32, 3)), np.eye(24, 32) * 255]).astype(np.uint8), "transparent"),
        ((np.eye(24, 32) * 65535).astype(np.uint16), "more than 8 bits"),
    ],
)
def test_masks_that_are_not_white_on_black_are_refused_by_name(root: Path, pixels: np.ndarray, word: str) -> None:
    Image.fromarray(pixels).save(folder(root) / "masks/top/000005.png")
    with pytest.raises(InputError, match=word):
        FolderCaptures(root).frame(KEY, 5).masks["top"]()
    (problem,) = [p for p in check(root).problems if "camera top" in p["where"]]
    assert problem["where"] == f"{KEY}/000005 camera top"


# ------------------------------------------------------------------ numbers that a dataset cannot hold
FRAME_NUMBERS = st.one_of(st.integers(0, 99), st.integers(MAX_FRAME - 9, MAX_FRAME + 9), st.integers(0, 2**60))


@settings(max_examples=100, deadline=None)
@given(frames=st.sets(FRAME_NUMBERS, min_size=1, max_size=6).map(sorted), fps=st.sampled_from([0.5, 25.0, 60.0, 1e6]))
def test_frames_whose_numbers_and_times_can_be_stored_and_no_others(frames: list[int], fps: float) -> None:
    entry = {"K": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "world_to_camera": np.eye(4).tolist(), "width": 1, "height": 1}
    capture = CaptureFile.model_validate(
        {
            "format": "canonface-capture",
            "version": 1,
            "unit": "m",
            "fps": fps,
            "frames": frames,
            "pixel_center": 0.5,
            "cameras": {"a": entry},
        }
    )
    times = [(frame - frames[0]) / fps for frame in frames]
    steps = [Fraction(after - before) / Fraction(fps) for before, after in pairwise(frames)]
    apart = [Fraction(after) - Fraction(before) for before, after in pairwise(times)]
    storable = frames[-1] <= 2**63 - 1
    storable &= all(abs(found - step) <= step / 10 for found, step in zip(apart, steps, strict=True))
    with (
        nullcontext() if storable else pytest.raises(InputError, match=r"Number the frames|can no longer be told apart")
    ):
        capture.check_storable("it")
    if storable:
        assert all(capture.seconds(frame) == time for frame, time in zip(frames, times, strict=True))


def test_one_sequence_that_cannot_be_stored_does_not_touch_the_others(root: Path) -> None:
    shutil.copytree(folder(root), root / "micro" / "speech")
    path = root / "micro" / "speech" / "capture.json"
    path.write_text(json.dumps({**content(root), "frames": [3, 2**62, 2**62 + 1]}))
    source = FolderCaptures(root)
    assert [str(info.key) for info in source.sequences()] == ["anna/speech", "micro/speech"]
    assert source.frame(KEY, 3).time_s == 0
    for read in (source.frame, source.input_digest):
        with pytest.raises(InputError, match=r"frame 4611686018427387905 .* can no longer be told apart"):
            read(SequenceKey("micro", "speech"), 3)


# ------------------------------------------------------------------ units
@pytest.mark.parametrize("registration", [None, "m", "mm"])
@pytest.mark.parametrize("cameras", [None, "m", "in"])
@pytest.mark.parametrize("unit", ["m", "mm"])
def test_scan_registration_and_cameras_may_have_units_of_their_own(
    root: Path, unit: str, cameras: str | None, registration: str | None
) -> None:
    expected = FolderCaptures(root).frame(KEY, 3)
    changes = content(root)
    for entry in changes["cameras"].values():
        for row in entry["world_to_camera"][:3]:
            row[3] /= METRES_PER_UNIT[cameras or unit]
    changes["registration"] = {k: v for k, v in changes["registration"].items() if k != "unit"}
    changes["registration"] |= {"unit": registration} if registration else {}
    changes |= {"unit": unit} | ({"camera_unit": cameras} if cameras else {})
    edit(root, **changes)
    scan = Mesh.of(ball().vertices / METRES_PER_UNIT[unit], ball().faces)
    (folder(root) / "scans/000003.ply").write_bytes(ply_bytes(scan))
    vertices = ball().vertices / METRES_PER_UNIT[registration or unit]
    np.savez(folder(root) / "registrations/000003.npz", vertices=vertices)
    frame = FolderCaptures(root).frame(KEY, 3)
    np.testing.assert_allclose(frame.scan.vertices, expected.scan.vertices, rtol=1e-6)
    assert frame.registration is not None
    np.testing.assert_allclose(frame.registration.vertices, ball().vertices, rtol=1e-6)
    for found, camera in zip(frame.cameras, CAMERAS, strict=True):
        np.testing.assert_allclose(found.world_to_camera, camera.world_to_camera, atol=1e-9)


def test_a_registration_in_another_unit_gets_advice_that_can_be_followed(root: Path) -> None:
    scan = Mesh.of(ball().vertices * 1000, ball().faces)
    (folder(root) / "scans/000003.ply").write_bytes(ply_bytes(scan))
    edit(root, unit="mm", camera_unit="m")
    with pytest.raises(MeshError, match=r"000003\.npz measures.*`unit` inside `registration` of capture\.json"):
        FolderCaptures(root).frame(KEY, 3)
    edit(root, registration={**content(root)["registration"], "unit": "m"})
    assert FolderCaptures(root).frame(KEY, 3).registration is not None
