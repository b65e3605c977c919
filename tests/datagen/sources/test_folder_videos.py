"""Videos as the pictures and masks of cameras in the folder layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import CameraError, InputError
from datagen.geometry.camera import look_at
from datagen.geometry.mesh import Mesh
from datagen.sources import camera_pictures
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.test_folder import edit
from tests.support.videos import shade, write_video

pytest.importorskip("av")

KEY = SequenceKey("anna", "speech")
WIDTH, HEIGHT = 64, 48
CAMERAS = tuple(look_at(name, [x, 0.0, 0.8], [0, 0, 0], 60.0, WIDTH, HEIGHT) for name, x in (("a", 0.1), ("b", -0.1)))
TIMES = [0, 20, 55, 63, 110, 150]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    points = np.random.default_rng(0).normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    with SequenceWriter(tmp_path, KEY, CAMERAS, 25.0) as writer:
        for frame in (1, 3, 4):
            writer.add(frame, Mesh.of(points, np.arange(60).reshape(-1, 3)))
    folder = tmp_path / "anna" / "speech"
    halves = [np.where(np.arange(WIDTH)[None, :, None] < 8 * (k + 1), 255, 0) for k in range(len(TIMES))]
    masks = [np.broadcast_to(half, (HEIGHT, WIDTH, 3)).astype(np.uint8) for half in halves]
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for camera in CAMERAS:
            write_video(folder / kind / f"cam_{camera.name}.mp4", TIMES, masks if kind == "masks" else None)
    edit(tmp_path, lambda content: content.update(images="images/cam_{camera}.mp4", masks="masks/cam_{camera}.mp4"))
    return tmp_path


def _changed(root: Path, change: Callable[[dict[str, Any]], Any]) -> FolderCaptures:
    edit(root, lambda content: change(content) and None)
    return FolderCaptures(root)


def _shade(source: FolderCaptures, frame: int) -> float:
    return float(source.frame(KEY, frame).images["a"]().mean())


def test_pictures_and_masks_come_from_videos(root: Path) -> None:
    source = FolderCaptures(root)
    for index in (4, 1, 3):
        frame = source.frame(KEY, index)
        assert set(frame.images) == set(frame.masks) == {"a", "b"}
        assert abs(frame.images["b"]().mean() - shade(index)) < 3
        assert int(frame.masks["a"]()[20].sum()) == pytest.approx(8 * (index + 1), abs=1)


def test_frames_may_be_numbered_from_another_or_found_by_time(root: Path) -> None:
    source = _changed(root, lambda content: content.update(video={"first": 1}))
    assert abs(_shade(source, 1) - shade(0)) < 3
    times = {"times_s": [100.02, 100.063, 100.15], "fps": None, "video": {"by": "time", "start_s": 100.0}}
    source = _changed(root, lambda content: content.update(times))
    for index, number in ((1, 1), (3, 3), (4, 5)):
        assert abs(_shade(source, index) - shade(number)) < 3
    source = _changed(root, lambda content: content.update(times_s=[100.02, 100.08, 100.15]))
    with pytest.raises(InputError, match=r"cam_a\.mp4 has no frame at 0\.08 s: the nearest, number 3"):
        source.frame(KEY, 3)


def test_the_digest_of_a_frame_holds_the_videos_and_reads_each_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = camera_pictures.digest_file
    monkeypatch.setattr(camera_pictures, "digest_file", lambda path: (read.append(path.name), real(path))[1])
    source = FolderCaptures(root)
    digests = [source.input_digest(KEY, index) for index in (1, 3, 4)]
    assert len(set(digests)) == 3
    assert sorted(read) == ["cam_a.mp4", "cam_a.mp4", "cam_b.mp4", "cam_b.mp4"]
    path = root / "anna/speech/images/cam_b.mp4"
    path.unlink()
    write_video(path, TIMES[:-1])
    assert all(source.input_digest(KEY, index) != old for index, old in zip((1, 3, 4), digests, strict=True))


def _read_all(source: FolderCaptures) -> None:
    for info in source.sequences():
        for index in info.frames:
            source.frame(KEY, index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(video={"by": "time", "start_s": -9}), "has no frame at 9.04 s: the nearest, number 5"),
        (lambda c: c.update(video={"first": 2}), "has no frame -1"),
        (lambda c: c.update(images="images/{camera}_{frame}.mp4"), "names {frame}, but there is one such file per cam"),
        (lambda c: c.update(images="images/all.mp4"), "needs {camera}"),
        (lambda c: c.update(images="images/{camera}.png"), "needs {frame} and {camera}"),
        (lambda c: c["cameras"]["a"].update(width=65), "cam_a.mp4 is 64×48 pixels, but camera a"),
        (lambda c: c.update(video={"from": 2}), "video"),
        (lambda c: c["cameras"].pop("a"), "'a', which is no camera"),
    ],
)
def test_what_does_not_fit_is_named(root: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    source = _changed(root, change)
    with pytest.raises((InputError, CameraError), match=message):
        _read_all(source)


def test_a_camera_without_a_video_has_no_images(root: Path) -> None:
    (root / "anna/speech/images/cam_b.mp4").unlink()
    assert set(FolderCaptures(root).frame(KEY, 1).images) == {"a"}
