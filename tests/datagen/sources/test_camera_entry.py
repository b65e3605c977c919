"""Lens distortion, moving cameras and colour correction of capture.json, as the folder reader applies them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import CameraError, InputError
from datagen.flows.one_scan import chosen_cameras
from datagen.geometry.camera import Camera, look_at
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens, TsaiLens, source_pixels
from datagen.geometry.lens_models import LENS_MODELS, lens_of, model_of
from datagen.geometry.mesh import Mesh
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.test_folder import edit

KEY = SequenceKey("anna", "speech")
WIDTH, HEIGHT = 96, 72
CAMERA = look_at("left", [0.1, 0.0, 0.8], [0, 0, 0], 90.0, WIDTH, HEIGHT)


def _pattern(points: np.ndarray) -> np.ndarray:
    """Colours of a smooth wall, by where it is seen by a pinhole of focal length 1."""
    x, y = points[:, 0], points[:, 1]
    return 128 + 60 * np.stack([np.sin(9 * x), np.cos(11 * y), np.sin(7 * (x + y))], 1)


def _centres() -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.stack([x.ravel(), y.ravel()], 1)


def _seen_through(lens: Lens, camera: Camera) -> np.ndarray:
    """Return what a picture as stored shows: the lens is inverted by fixed points, apart from what is tested."""
    wanted = (_centres() - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
    straight = wanted.copy()
    for _ in range(300):
        straight += wanted - lens.distort(straight)
    assert np.abs(wanted - lens.distort(straight)).max() < 1e-6
    return straight


def _captures(root: Path, image: np.ndarray, mask: np.ndarray) -> FolderCaptures:
    points = np.random.default_rng(0).normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    with SequenceWriter(root, KEY, (CAMERA,), 25.0) as writer:
        for frame in (3, 5):
            faces = np.arange(60).reshape(-1, 3)
            writer.add(frame, Mesh.of(points, faces), images={"left": image}, masks={"left": mask})
    return FolderCaptures(root)


def _with(root: Path, **keys: Any) -> Callable[[], Any]:
    def change(content: dict[str, Any]) -> None:
        camera = content["cameras"]["left"]
        camera.update({key: value for key, value in keys.items() if value is not None})
        for key in [key for key, value in keys.items() if value is None]:
            del camera[key]

    edit(root, change)
    return lambda: FolderCaptures(root).frame(KEY, 5)


LENSES = {
    "opencv": (BrownLens((-0.2, 0.05, -0.01), (), (0.003, -0.002)), [-0.2, 0.05, 0.003, -0.002, -0.01]),
    "opencv_fisheye": (FisheyeLens((-0.03, 0.01, -0.004, 0.001)), [-0.03, 0.01, -0.004, 0.001]),
    "metashape": (BrownLens((0.1, 0.02, 0.01, -0.01), (), (0.002, -0.001)), [0.1, 0.02, 0.01, -0.01, -0.001, 0.002]),
    "radial": (BrownLens((0.12,)), [0.12]),
    "tsai": (TsaiLens((0.15, 0.02)), [0.15, 0.02]),
}


@pytest.mark.parametrize("model", LENSES)
def test_pictures_and_masks_are_straight_when_they_are_read(tmp_path: Path, model: str) -> None:
    lens, parameters = LENSES[model]
    seen = _seen_through(lens, CAMERA)
    image = np.rint(_pattern(seen)).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
    disc = np.linalg.norm(seen, axis=1).reshape(HEIGHT, WIDTH) < 0.3
    source = _captures(tmp_path, image, disc)
    frame = _with(tmp_path, distortion={"model": model, "parameters": parameters})()
    (camera,) = frame.cameras
    straight = (_centres() - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
    error = np.abs(frame.images["left"]() - _pattern(straight).reshape(HEIGHT, WIDTH, 3))[3:-3, 3:-3]
    assert error.max() < 3
    radius = np.linalg.norm(straight, axis=1).reshape(HEIGHT, WIDTH)
    clear = np.abs(radius - 0.3) > 0.75 / camera.K[0, 0]
    # But for pixels that the border itself crosses.
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(frame.masks["left"]()[clear], (radius < 0.3)[clear])
    # The size and the principal point stay; without the key the pictures are as they were stored.
    np.testing.assert_array_equal(camera.K[:2, 2], CAMERA.K[:2, 2])
    assert source.sequences()[0].cameras == 1
    _with(tmp_path, distortion=None)
    np.testing.assert_array_equal(FolderCaptures(tmp_path).frame(KEY, 5).images["left"](), image)


def test_tsai_leads_from_the_picture_to_the_ray() -> None:
    lens = TsaiLens((0.15, -0.02))
    shown = np.random.default_rng(0).uniform(-0.7, 0.7, (300, 2))
    square = (shown**2).sum(1)
    straight = shown * (1 + 0.15 * square - 0.02 * square**2)[:, None]
    np.testing.assert_allclose(lens.distort(straight), shown, atol=1e-12)
    assert lens.distort(np.zeros((1, 2))).tolist() == [[0, 0]]
    # Nothing is seen beyond where the polynomial turns back.
    folding = TsaiLens((-1.0,))
    assert np.isnan(folding.distort(np.array([[0.5, 0.0]]))).all()
    assert np.isfinite(folding.distort(np.array([[0.3, 0.0]]))).all()


def test_tsai_coefficients_of_millimetres_agree_with_the_same_lens_in_pixels() -> None:
    """A .tka file has f in mm and kappa in 1/mm²: k1 = kappa f², whatever the size of the picture."""
    f, kappa, pixel = 8.5, 6e-4, 0.0075
    K = np.array([[f / pixel, 0, 800.0], [0, f / pixel, 600.0], [0, 0, 1]])
    lens = lens_of("tsai", [kappa * f * f], "c")
    pixels = np.array([[100.0, 80.0], [1500.0, 1100.0], [800.0, 600.0]])
    plane = (pixels - K[:2, 2]) * pixel
    undistorted = plane * (1 + kappa * (plane**2).sum(1))[:, None]
    found = source_pixels(lens, K, K, undistorted / pixel + K[:2, 2])
    np.testing.assert_allclose(found, pixels, atol=1e-8)


@pytest.mark.parametrize(
    "lens",
    [lens for lens, _ in LENSES.values()]
    + [BrownLens((0.4, 0.1, 0.02), (0.7, 0.05, 0.01), (0.001, 0.002)), BrownLens(), FisheyeLens()]
    + [BrownLens((0.1, 0.2, 0.3, 0.4, 0.5))],
)
def test_every_lens_has_a_model_that_makes_it_again(lens: Lens) -> None:
    model, parameters = model_of(lens)
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 2))
    np.testing.assert_array_equal(lens_of(model, parameters, "c").distort(points), lens.distort(points))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"model": "fov", "parameters": [1]}, "camera left has the distortion model 'fov'.*opencv_fisheye"),
        ({"model": "opencv", "parameters": [0.1]}, "1 parameters.*4, 5, 8, 12 or 14 of the model opencv: k1, k2, p1"),
        ({"model": "opencv", "parameters": [0.1] * 12}, "thin prism"),
        ({"model": "opencv", "parameters": [-9.0, 0, 0, 0]}, "camera left.*can be filled"),
        ({"model": "opencv"}, r"distortion\.parameters"),
    ],
)
def test_a_distortion_that_is_none_is_refused(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    _captures(tmp_path, np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.ones((HEIGHT, WIDTH), bool))
    with pytest.raises(InputError, match=message):
        _with(tmp_path, distortion=entry)()


def test_zeros_beyond_the_eighth_parameter_are_passed_over() -> None:
    short, long = (lens_of("opencv", [0.1, 0.2, 0.001, 0.002, *[0.0] * n], "c") for n in (0, 8))
    assert short == long
    assert set(LENS_MODELS) == set(LENSES)


def _poses() -> list[list[list[float]]]:
    return [look_at("left", [x, 0.0, 0.8], [0, 0, 0], 90.0, WIDTH, HEIGHT).world_to_camera.tolist() for x in (0, 0.2)]


def test_a_camera_that_moves_has_the_pose_of_the_frame(tmp_path: Path) -> None:
    image, mask = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), np.ones((HEIGHT, WIDTH), bool)
    _captures(tmp_path, image, mask)
    edit(tmp_path, lambda content: content.update(camera_unit="mm"))
    poses = _poses()
    for pose in poses:
        for row in pose[:3]:
            row[3] *= 1000
    _with(tmp_path, world_to_camera=None, poses=poses)
    source = FolderCaptures(tmp_path)
    for frame, pose in zip((3, 5), _poses(), strict=True):
        (camera,) = source.frame(KEY, frame).cameras
        np.testing.assert_allclose(camera.world_to_camera, pose, atol=1e-12)
    # Where one camera is meant, the frame has to be named.
    folder = tmp_path / "anna" / "speech"
    with pytest.raises(InputError, match=r"camera left of .* moves.*--frame"):
        chosen_cameras(folder, None)
    (camera,) = chosen_cameras(folder, None, 5)
    np.testing.assert_allclose(camera.world_to_camera, _poses()[1], atol=1e-12)
    with pytest.raises(InputError, match="has no frame 4"):
        chosen_cameras(folder, None, 4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"poses": None}, "give `world_to_camera`, or `poses`"),
        ({"world_to_camera": CAMERA.world_to_camera.tolist()}, "give `world_to_camera`, or `poses`"),
        ({"poses": _poses()[:1]}, "has 1 `poses` for 2 frames"),
        ({"poses": [_poses()[0], np.eye(3).tolist()]}, r"camera left at frame 5 .*shape \(3, 3\)"),
        ({"poses": [_poses()[0], (np.eye(4) * 2).tolist()]}, "camera left at frame 5: the rotation part"),
    ],
)
def test_poses_that_are_none_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    _captures(tmp_path, np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.ones((HEIGHT, WIDTH), bool))
    _with(tmp_path, world_to_camera=None, poses=_poses())
    with pytest.raises(InputError, match=message):
        _with(tmp_path, **keys)()


def test_colours_are_corrected_as_rows_times_the_matrix(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    _captures(tmp_path, image, np.ones((HEIGHT, WIDTH), bool))
    A = np.array([[0.9, 0.1, 0.0, 0.02], [0.05, 0.8, 0.0, -0.01], [0.0, 0.2, 1.1, 0.0]])
    frame = _with(tmp_path, color=A.tolist())()
    expected = np.clip((image / 255.0) @ A[:3, :3] + A[:3, 3], 0, 1)
    assert np.abs(frame.images["left"]() / 255.0 - expected).max() < 0.51 / 255
    with pytest.raises(CameraError, match="`color` of camera left has rows of"):
        _with(tmp_path, color=A[:, :3].tolist())()
