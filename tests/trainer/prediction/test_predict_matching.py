"""Every frame gets its own camera and mask; what a folder or a camera file holds is used, refused or said."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen.common.errors import InputError
from tests.support.predict_scene import SIDE, write_photos
from tests.support.turned import TURNS
from trainer.predict import PredictOptions, predict
from trainer.prediction.cameras import CameraEntry, GivenCameras
from trainer.prediction.frames import ImageFiles, image_files
from trainer.prediction.matching import assign

QUICK = ("ply", "videos", "viewer", "tracks", "maps")
STEMS = st.sampled_from(["a", "b", "A", "a.b", "f1", "f01", "f10", "scan.0001", "scan.0002", "long name (2)"])
SUFFIXES = st.sampled_from([".png", ".jpg", ".JPG", ".tiff"])
FILES = st.builds(str.__add__, STEMS, SUFFIXES)
ENTRIES = st.builds(
    lambda folder, stem, suffix: folder + stem + suffix,
    st.sampled_from(["", "images/", "C:\\photos\\"]),
    STEMS,
    st.one_of(st.just(""), SUFFIXES),
)


def stem_of(name: str) -> str:
    """A second way to take folder and suffix off a name."""
    return re.sub(r"\.(png|jpg|tiff)$", "", name.replace("\\", "/").split("/")[-1], flags=re.IGNORECASE)


@given(st.lists(FILES, min_size=1, max_size=5, unique=True), st.lists(ENTRIES, min_size=1, max_size=6))
@settings(max_examples=400, deadline=None)
def test_a_frame_gets_its_own_entry_or_there_is_an_error(frames: list[str], names: list[str]) -> None:
    stems, of_frames = [stem_of(name) for name in names], [stem_of(name) for name in frames]
    plain = len(set(of_frames)) == len(frames) and all(stems.count(stem) == 1 for stem in of_frames)
    found: dict[int, int] = {}
    with suppress(InputError):
        found = assign(frames, range(len(frames)), names, "camera", "c.json", in_order=False)
    if not found:
        assert not plain
        return
    assert sorted(found) == list(range(len(frames)))
    assert len(set(found.values())) == len(frames)
    for number, entry in found.items():
        assert stems[entry] == of_frames[number]
        if frames[number] in names:
            assert names[entry] == frames[number]


@given(st.lists(FILES, min_size=2, max_size=5, unique_by=stem_of), st.data())
@settings(max_examples=100, deadline=None)
def test_an_entry_that_is_missing_is_never_made_up_for(frames: list[str], data: st.DataObject) -> None:
    names = data.draw(st.permutations([stem_of(name) for name in frames]))
    names.remove(stem_of(data.draw(st.sampled_from(frames))))
    assume("never" not in names)
    with pytest.raises(InputError, match="no mask for"):
        assign(frames, range(len(frames)), [*names, "never"], "mask", "m", in_order=False)


@given(st.integers(0, 6), st.integers(0, 6), st.one_of(st.none(), st.integers(1, 6)))
def test_order_needs_as_many_as_there_are_frames(frames: int, entries: int, stop: int | None) -> None:
    numbers = [f"{k:06d}" for k in range(frames)]
    wanted = range(frames)[:stop]
    if entries in {frames, len(wanted)}:
        assert assign(numbers, wanted, ["x"] * entries, "mask", "m", in_order=True) == {k: k for k in wanted}
    else:
        with pytest.raises(InputError, match=f"{entries} masks .* {frames} frames"):
            assign(numbers, wanted, ["x"] * entries, "mask", "m", in_order=True)


@pytest.mark.parametrize(
    ("frames", "names", "words"),
    [
        (["a.jpg", "a.png"], ["a"], "matches several frames: a.jpg, a.png"),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], "2 cameras for a.jpg"),
        (["a.jpg"], ["a", "a"], "2 cameras for a.jpg"),
        (["f1.png"], ["F1.png"], "no camera for f1.png; c.json has F1.png"),
        (["f1.png"], ["f01", "f10", "f1.x"], "no camera for f1.png"),
        (["a\nb.png"], ["c"], r"no camera for a\\nb.png"),
    ],
)
def test_names_that_do_not_tell_are_refused(frames: list[str], names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        assign(frames, range(len(frames)), names, "camera", "c.json", in_order=False)


def test_whole_names_come_first_and_what_is_left_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    frames, names = ["a.jpg", "a.png", "e\u0301.png"], ["x/a.png", "a.jpg", "b.png", "\u00e9"]
    assert assign(frames, range(3), names, "camera", "c.json", in_order=False) == {0: 1, 1: 0, 2: 3}
    assert "1 camera of c.json is of no frame here: b.png" in capsys.readouterr().err
    # Masks are often called after the whole name of their picture.
    assert assign(["a.jpg", "a.png"], range(2), ["a.png.png", "a.jpg.png"], "mask", "m", in_order=False) == {0: 1, 1: 0}


def entry(name: str | None = None, **change: Any) -> dict[str, Any]:
    matrix = [[70.0, 0, 14], [0, 70, 14], [0, 0, 1]]
    whole = {"width": SIDE, "height": SIDE, "intrinsics": matrix, "world_to_camera": np.eye(4).tolist()}
    return whole | ({} if name is None else {"name": name}) | change


def cameras(folder: Path, *entries: dict[str, Any], **others: Any) -> GivenCameras:
    (folder / "c.json").write_text(json.dumps({"frames": entries} | others))
    return GivenCameras(folder / "c.json")


def moved(x: float) -> list[list[float]]:
    pose = np.eye(4)
    pose[0, 3] = x
    return pose.tolist()


def test_cameras_and_masks_of_a_folder_go_by_name(
    learnt_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "masks").mkdir()
    for k in (10, 9, 8):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[8:20, k : k + 9] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"f{k}.jpg.png" if k == 9 else tmp_path / "masks" / f"f{k}.png")
    (tmp_path / "photos" / "f9.png").rename(tmp_path / "photos" / "f9.jpg")
    entries = [entry(f"images/f{k}.png", world_to_camera=moved(k)) for k in (11, 10, 8, 9)]
    cameras(tmp_path, *entries)
    options = PredictOptions(cameras=tmp_path / "c.json", masks=tmp_path / "masks", without=QUICK)
    predict(learnt_model, tmp_path / "photos", tmp_path / "out", options, device_name="cpu")
    with np.load(tmp_path / "out" / "raw_predictions.npz") as raw:
        assert raw["extrinsics"][:, 0, 3].tolist() == [8, 9, 10]
        assert [int(np.flatnonzero(valid.any(0))[0]) for valid in raw["valid"]] == [8, 9, 10]
    assert "is of no frame here: images/f11.png" in capsys.readouterr().err
    parts: list[dict[str, Any]] = [{"cameras": tmp_path / "c.json"}, {"masks": tmp_path / "masks"}]
    for part in parts:
        (tmp_path / "photos" / "f10.png").rename(tmp_path / "photos" / "g10.png")
        with pytest.raises(InputError, match=r"no (camera|mask) for g10\.png"):
            predict(
                learnt_model, tmp_path / "photos", tmp_path / "new", PredictOptions(without=QUICK, **part),
                device_name="cpu",
            )  # fmt: skip
        (tmp_path / "photos" / "g10.png").rename(tmp_path / "photos" / "f10.png")
    assert not (tmp_path / "new").exists()


def test_one_camera_stands_for_all_unless_it_is_anothers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras(tmp_path, entry()).assign(["a.png", "b.png"], range(2))
    assert capsys.readouterr().err == ""
    cameras(tmp_path, entry("b.jpg")).assign(["a.png", "b.png"], range(2))
    assert "one camera, 'b.jpg', which stands for all frames" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no camera for a\.png; .* has c"):
        cameras(tmp_path, entry("c")).assign(["a.png", "b.png"], range(2))
    with pytest.raises(InputError, match=r"1 of 2 frames .* have no name"):
        cameras(tmp_path, entry("a"), entry()).assign(["a.png", "b.png"], range(2))
    with pytest.raises(InputError, match="2 cameras without names of frames, and there are 3 frames"):
        cameras(tmp_path, entry(), entry()).assign(["a.png", "b.png", "c.png"], range(3))


@given(st.sampled_from(sorted(CameraEntry.model_fields)), st.integers(0, 30), st.sampled_from("xq_"))
@settings(max_examples=60, deadline=None)
def test_a_misspelt_key_is_an_error_that_names_the_nearest(
    tmp_path_factory: pytest.TempPathFactory, key: str, place: int, letter: str
) -> None:
    folder = tmp_path_factory.mktemp("c")
    at = place % (len(key) + 1)
    with pytest.raises(InputError, match=rf"unknown key frames\.0\..*did you mean {key}\?"):
        cameras(folder, entry() | {key[:at] + letter + key[at:]: 1})


@pytest.mark.parametrize("key", ["camera_to_world", "distortion", "pixel_center", "transform_matrix", "extrinsics"])
@pytest.mark.parametrize("above", [True, False])
def test_a_key_of_another_program_is_an_error_that_says_what_to_do(key: str, above: bool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"keys that are not read: {key}\..*{key}: "):
        cameras(tmp_path, entry() | ({} if above else {key: [0]}), **({key: [0]} if above else {}))


def matrix(fx: float, fy: float, cx: float, cy: float) -> list[list[float]]:
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


@pytest.mark.parametrize(
    ("intrinsics", "words"),
    [
        (matrix(1.9, 1.9, 0.5, 0.5), "focal length of 1.9 pixels .* normalised"),
        (matrix(50, 50, 960, 540), "focal length of 50 pixels .* millimetres"),
        (matrix(2e5, 2e5, 960, 540), "as if of a larger image"),
        (matrix(2000, 2000, 0.5, 0.5), "principal point .* as if normalised"),
        (matrix(2000, 2000, 9000, 540), "principal point .* far outside"),
        (matrix(2000, 2000, 960, -1081), "principal point .* far outside"),
        (matrix(2000, 1000, 960, 540), "not square"),
        (np.transpose(matrix(2000, 2000, 960, 540)).tolist(), "intrinsics are not"),
        ([[2000, 0, 960], [0, 2000, 540]], "intrinsics"),
    ],
)
def test_intrinsics_that_no_camera_has_are_refused_with_the_likely_cause(
    intrinsics: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        cameras(tmp_path, entry(width=1920, height=1080, intrinsics=intrinsics))


@given(st.floats(0.21, 49), st.floats(0.92, 1.08), st.floats(-0.9, 1.9), st.floats(-0.9, 1.9))
@settings(max_examples=60, deadline=None)
def test_fisheyes_telescopes_and_crops_are_cameras(
    tmp_path_factory: pytest.TempPathFactory, focal: float, ratio: float, x: float, y: float
) -> None:
    assume(max(abs(x * 1920), abs(y * 1080)) > 1)
    assume(0.21 < focal * ratio < 49)
    size = {"width": 1920, "height": 1080}
    K = matrix(focal * 1920, focal * ratio * 1920, x * 1920, y * 1080)
    cameras(tmp_path_factory.mktemp("c"), entry(intrinsics=K) | size).assign(["a.png"], [0])


def test_camera_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    twice = '{"frames": [{"name": "a", "name": "b"}]}'
    for content, words in ((twice, "given twice"), ("[]", "mapping|section|dictionary"), ("", "cannot be read")):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            GivenCameras(path)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"frames": [entry()]}).encode())
    GivenCameras(path)
    with pytest.raises(InputError, match="another convention"):
        cameras(tmp_path, entry(), convention="OpenGL")
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=re.escape(str(special))):
            GivenCameras(special)


SUFFIXES_OF_ANY = st.sampled_from([".png", ".JPG", ".heic", ".avif", ".gif", ".txt", ".mp4", ""])


@given(st.lists(SUFFIXES_OF_ANY, min_size=1, max_size=8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_what_a_folder_holds_is_taken_or_counted(
    tmp_path_factory: pytest.TempPathFactory, suffixes: list[str], hidden: int
) -> None:
    folder = tmp_path_factory.mktemp("f")
    for k, suffix in enumerate(suffixes):
        (folder / f"f{k}{suffix}").write_bytes(b"")
    for k in range(hidden):
        (folder / f"._f{k}.png").write_bytes(b"")
    taken = [f"f{k}{suffix}" for k, suffix in enumerate(suffixes) if suffix in {".png", ".JPG"}]
    left = len(suffixes) - len(taken)
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("sys.stderr", type("Stream", (), {"write": lambda _, text: said.append(text)})())
        if not taken:
            with pytest.raises(InputError, match=rf"holds no images \({left} files? left out"):
                image_files(folder)
            return
        assert [path.name for path in image_files(folder)] == taken
    assert (f"{left} file{'s' if left > 1 else ''} left out: " in "".join(said)) == (left > 0)
    for suffix in set(suffixes) - {".png", ".JPG", ""}:
        assert suffix in "".join(said)


@pytest.mark.parametrize("kind", ["folder", "dangling", "loop", "pipe", "device"])
def test_what_looks_like_an_image_and_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    odd = tmp_path / "photos" / "f9.5.png"
    if kind == "folder":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"dangling": "nowhere", "loop": odd.name, "device": "/dev/zero"}[kind])
    for source in (tmp_path / "photos", *(() if kind == "folder" else (odd,))):
        with pytest.raises(InputError, match=r"f9\.5\.png is (a folder|a pipe or a device|a link that leads nowhere)"):
            image_files(source)


def test_links_to_images_are_images_and_twins_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "photos").iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert len(list(ImageFiles(image_files(tmp_path / "links"), SIDE))) == 3
    assert capsys.readouterr().err == ""
    (tmp_path / "links" / "f9.jpg").symlink_to(tmp_path / "photos" / "f9.png")
    assert len(image_files(tmp_path / "links")) == 4
    assert "f9.jpg, f9.png" in capsys.readouterr().err


# A mirror image, and a quarter turn: tests/datagen/common/test_pictures.py reads all tags.
@pytest.mark.parametrize("tag", [2, 6])
def test_a_turn_beside_masks_or_cameras_is_asked_about_and_applies_to_all(
    tag: int, learnt_model: Path, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos")
    exif = Image.Exif()
    exif[0x0112] = tag
    with Image.open(tmp_path / "photos" / "f9.png") as opened:
        upright = opened.convert("RGB").crop((0, 0, SIDE, SIDE - 6))
    for path in (tmp_path / "photos").iterdir():
        path.unlink()
    stored = upright.transpose(TURNS[tag])
    stored.save(tmp_path / "photos" / "f9.png", exif=exif)
    mark = np.zeros((SIDE - 6, SIDE), np.uint8)
    mark[:9, :12] = 255
    of_pixels = {
        "upright": Image.fromarray(mark),
        "stored": Image.fromarray(mark).transpose(TURNS[tag]),
    }
    (tmp_path / "masks").mkdir()

    def valid(**how: Any) -> np.ndarray[Any, Any]:
        options = PredictOptions(without=QUICK, **how)
        predict(learnt_model, tmp_path / "photos", tmp_path / "out", options, device_name="cpu")
        with np.load(tmp_path / "out" / "raw_predictions.npz") as raw:
            left, top, right, bottom = raw["content_box"][0]
            shown = raw["image"][0].transpose(1, 2, 0)[top:bottom, left:right]
            wanted = stored if how.get("orientation") == "stored" else upright
            np.testing.assert_array_equal(shown, np.asarray(wanted))
            return np.array(raw["valid"][0][top:bottom, left:right])

    valid()
    for orientation, mask in of_pixels.items():
        mask.save(tmp_path / "masks" / "f9.png")
        given_masks = {"masks": tmp_path / "masks"}
        cameras(tmp_path, entry("f9", width=mask.size[0], height=mask.size[1], intrinsics=matrix(70, 70, 14, 11)))
        for what in (given_masks, {"cameras": tmp_path / "c.json"}):
            with pytest.raises(InputError, match=rf"EXIF orientation {tag}.*--orientation stored or"):
                valid(**what)
            valid(orientation=orientation, **what)
        np.testing.assert_array_equal(valid(orientation=orientation, **given_masks), np.asarray(mask) > 0)
        if mask.size != of_pixels["upright"].size:
            with pytest.raises(InputError, match="its image turned"):
                valid(orientation="upright", **given_masks)
            with pytest.raises(InputError, match="as if one of them were turned"):
                valid(orientation="upright", cameras=tmp_path / "c.json")
