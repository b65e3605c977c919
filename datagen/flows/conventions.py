"""What people get wrong about cameras: a table of named conventions, each a function of a camera to what was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera

F64 = npt.NDArray[np.float64]

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenCV's camera axes to OpenGL's, and back
_Y_TO_Z = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # a world with y up to one with z up

# Between units of length.
FACTORS = (10, 0.1, 100, 0.01, 1000, 0.001, 25.4, 1 / 25.4, 39.37, 1 / 39.37)
# Between sizes of images; what the principal point says is taken for the nearest of them.
RATIOS = tuple(sorted({a / b for a, b in product(range(1, 5), repeat=2)} - {1.0} | {8.0, 6.0, 1 / 6, 1 / 8}))
RATIO_TOLERANCE = 0.04
LARGEST_RATIO = 10.0
CROP = "crop"
EXCHANGED = "exchanged "  # and the name of the other camera
# What may have been done to a picture or mask, by what is done to its cells.
PICTURES = {
    "inverted": "inverted (white for black)",
    "upside_down": "upside down",
    "mirrored": "mirrored left to right",
    "half_turn": "turned by 180 degrees",
}
OFF_CENTRE = 0.2  # a principal point this share of the side nearer to an edge than the middle is nothing unusual


@dataclass(frozen=True)
class Convention:
    """A way to misunderstand a camera.

    Attributes
    ----------
    key : str
        Which it is, the same for all cameras of a rig.
    words : str
        What fits in place of what was given.
    changes : int
        How much has to be assumed: of conventions that fit alike the simplest is believed.
    fixable : bool
        Whether other figures of the camera mend it, and these are known.
    """

    key: str
    words: str
    changes: int
    fixable: bool = True


@dataclass(frozen=True)
class Candidate:
    """A camera as it may have been meant.

    Attributes
    ----------
    convention : Convention
    camera : Camera
        Of the given one's name and image size.
    shifted : bool
        Whether its principal point is still to be found, as of a picture that was cropped.
    picture : str
        What was done to the picture or mask, of :data:`PICTURES`; empty if nothing.
    """

    convention: Convention
    camera: Camera
    shifted: bool = False
    picture: str = ""


@dataclass(frozen=True)
class _Change:
    key: str
    words: str
    changes: int
    apply: Callable[[F64], F64]
    fixable: bool = True


def _centre_as_translation(E: F64) -> F64:
    E = E.copy()
    E[:3, 3] = -E[:3, :3] @ E[:3, 3]
    return E


def _transposed(E: F64) -> F64:
    E = E.copy()
    E[:3, :3] = E[:3, :3].T
    return E


def _inverse(E: F64) -> F64:
    R = E[:3, :3].T
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = R, -R @ E[:3, 3]
    return out


# Each takes what was given for world_to_camera to what was meant.
POSES: tuple[_Change, ...] = (
    _Change("inverse", "the inverse of the matrix", 1, _inverse),
    _Change("opengl", "a matrix with OpenGL axes (y and z turned)", 1, lambda E: _FLIP @ E),
    _Change(
        "inverse_opengl",
        "the inverse of the matrix with OpenGL axes (NeRF's transform_matrix)",
        2,
        lambda E: _FLIP @ _inverse(E),
    ),
    _Change("centre", "the camera's centre in place of the translation", 1, _centre_as_translation),
    _Change(
        "centre_opengl",
        "the camera's centre in place of the translation, with OpenGL axes,",
        2,
        lambda E: _FLIP @ _centre_as_translation(E),
    ),
    _Change("transposed", "the rotation transposed", 2, _transposed),
    _Change("y_up", "a world with z up where the scan's has y up", 2, lambda E: E @ _Y_TO_Z),
    _Change("z_up", "a world with y up where the scan's has z up", 2, lambda E: E @ _Y_TO_Z.T),
    _Change(
        "inverse_y_up",
        "the inverse of the matrix, in a world with z up where the scan's has y up,",
        3,
        lambda E: _inverse(E) @ _Y_TO_Z,
    ),
    _Change(
        "inverse_z_up",
        "the inverse of the matrix, in a world with y up where the scan's has z up,",
        3,
        lambda E: _inverse(E) @ _Y_TO_Z.T,
    ),
    _Change(
        "inverse_opengl_y_up",
        "the inverse of the matrix with OpenGL axes (NeRF's transform_matrix), in a world with z up where the scan's "
        "has y up,",
        4,
        lambda E: _FLIP @ _inverse(E) @ _Y_TO_Z,
    ),
)


def _scaled(factor: float) -> Callable[[F64], F64]:
    def apply(E: F64) -> F64:
        E = E.copy()
        E[:3, 3] *= factor
        return E

    return apply


UNITS: tuple[_Change, ...] = tuple(
    _Change(f"unit {factor:.6g}", f"another unit of the translation ({factor:.6g} times as much)", 1, _scaled(factor))
    for factor in FACTORS
)


def _intrinsics(camera: Camera) -> Iterator[_Change]:
    """Yield what K may have been meant as."""
    for ratio, exact in _size_ratios(camera):
        words = f"K of an image {1 / ratio:.4g} times as large"
        yield _Change(f"size {ratio:.4g}", words, 1, _zoomed((ratio, ratio), 0.0), exact)
    side = max(camera.width, camera.height)
    if max(camera.K[0, 0], camera.K[1, 1]) < side / 8:
        for name, scale in (("width", (camera.width,) * 2), ("width and height", (camera.width, camera.height))):
            words = f"K in units of the image's {name}"
            # Half a pixel may have been added on reading, to what was no pixel then.
            for half in (0.0, 0.5):
                yield _Change(f"units of {name}", words, 1, _zoomed((float(scale[0]), float(scale[1])), half))


def _size_ratios(camera: Camera) -> Iterator[tuple[float, bool]]:
    for ratio in (0.5, 2.0, 0.25, 4.0):
        yield ratio, True
    cx, cy = camera.K[0, 2], camera.K[1, 2]
    if cx <= 0 or cy <= 0:
        return
    for said in (camera.width / (2 * cx), camera.height / (2 * cy)):
        if not np.log1p(OFF_CENTRE) < abs(np.log(said)) < np.log(LARGEST_RATIO):
            continue
        nearest = min(RATIOS, key=lambda ratio: abs(np.log(ratio / said)))
        near = abs(np.log(nearest / said)) < RATIO_TOLERANCE
        yield (nearest if near else float(said)), near


def _zoomed(scale: tuple[float, float], half: float) -> Callable[[F64], F64]:
    def apply(K: F64) -> F64:
        K = K.copy()
        K[:2, 2] -= half
        K[0] *= scale[0]
        K[1] *= scale[1]
        K[:2, 2] += half
        return K

    return apply


def undone(picture: str, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return cells (h, w) as they were before something of :data:`PICTURES` was done to them; as they are for ""."""
    if picture == "inverted":
        return ~cells
    rows = picture in {"upside_down", "half_turn"}
    columns = picture in {"mirrored", "half_turn"}
    return cells[:: -1 if rows else 1, :: -1 if columns else 1]


def candidates(camera: Camera, others: Sequence[Camera] = ()) -> list[Candidate]:
    """Return what a camera may have been meant as; two conventions may come to the same.

    Parameters
    ----------
    others : sequence of Camera
        Of the same rig: their pictures may have been exchanged.
    """
    found = dict[str, Candidate]()
    intrinsics = list(_intrinsics(camera))
    for pose in (None, *POSES):
        for lens in (None, *intrinsics):
            _add(found, camera, pose, lens)
        for unit in UNITS:
            _add(found, camera, pose, unit)
    for other in others:
        if other.name != camera.name and (other.width, other.height) == (camera.width, camera.height):
            convention = Convention(
                f"{EXCHANGED}{other.name}", f"the calibration of camera {other.name} (were pictures exchanged?)", 1
            )
            found[convention.key] = Candidate(convention, replace(other, name=camera.name))
    convention = Convention(CROP, "K before a crop", 2)
    found[CROP] = Candidate(convention, camera, shifted=True)
    for name, words in PICTURES.items():
        convention = Convention(name, f"the picture or mask {words}", 2, fixable=False)
        found[name] = Candidate(convention, camera, picture=name)
    given = figures(camera)
    return [one for one in found.values() if one.shifted or one.picture or figures(one.camera) != given]


def _add(found: dict[str, Candidate], camera: Camera, pose: _Change | None, other: _Change | None) -> None:
    """Enter the camera after both changes, of intrinsics or of a translation's unit, and of the pose."""
    parts = [change for change in (pose, other) if change is not None]
    if not parts:
        return
    K, E = camera.K, camera.world_to_camera
    if other is not None and other in UNITS:
        E = other.apply(E)
    elif other is not None:
        K = other.apply(K)
    if pose is not None:
        E = pose.apply(E)
    convention = Convention(
        "+".join(part.key for part in parts),
        " and ".join(part.words for part in parts),
        sum(part.changes for part in parts) + (len(parts) - 1),
        all(part.fixable for part in parts),
    )
    key = convention.key
    while key in found:  # the same convention by another reading
        key += "'"
    found[key] = Candidate(convention, replace(camera, K=K, world_to_camera=E))


def figures(camera: Camera) -> tuple[float, ...]:
    """Return a camera's figures to five digits: the same for two cameras that no picture tells apart."""
    values = np.concatenate([camera.K[:2].ravel(), camera.world_to_camera[:3].ravel()])
    return tuple(float(f"{value:.5g}") for value in values + 0.0)
