"""The landmarks of a frame: points of space from their file, or of pictures, triangulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import LandmarkError
from datagen.geometry.landmark_formats import marked_points
from datagen.geometry.landmark_orders import SIZE, ibug_indices
from datagen.geometry.landmarks import (
    MINIMUM_POINTS,
    Landmarks,
    read_landmark_bytes,
    read_landmarks,
    validate_landmarks,
)
from datagen.geometry.lens import straight_pixels
from datagen.geometry.mesh import check_metric_scale
from datagen.geometry.triangulation import triangulate
from datagen.sources.camera_entry import RecordedCamera
from datagen.sources.capture_file import LandmarksEntry

# Of a picture's longer side, and pixels on top: what detectors of faces err.
MOST_ERROR = 0.004
MOST_ERROR_PX = 2.0
# The contour of the jaw that a camera sees is another line on the face for each.
_CONTOUR = range(17)
_SHARES = 2.0  # MediaPipe's points are shares of width and height: all of a face within two pixels is none
_SEE = "docs/capture-format.md, Landmarks"


def landmarks_of_space(path: Path, entry: LandmarksEntry, unit: str) -> Landmarks:
    """Read the landmarks of a frame that are points of space; ``unit`` is the capture's.

    Raises
    ------
    LandmarkError
        As :func:`datagen.geometry.landmarks.read_landmarks`.
    MeshError
        If they are no face in their unit.
    """
    landmarks = read_landmarks(path, unit=entry.unit or unit, order=entry.order_of_points)
    declare = "`unit` in that file, or inside `landmarks` of capture.json"
    check_metric_scale(landmarks.points, str(path), reference_diagonal_m=0.18, declare=declare)
    return landmarks


def landmarks_of_pictures(
    files: Mapping[str, Path], rig: Sequence[RecordedCamera], frame: int, entry: LandmarksEntry, pixel_center: float
) -> Landmarks:
    """Triangulate the landmarks of a frame from what cameras show; those that too few agree on are left out.

    Parameters
    ----------
    files : mapping of camera name to Path
        Cameras may be missing, as may points in a file.
    rig : sequence of RecordedCamera
    frame : int
        For the poses of cameras that move.
    pixel_center : float
        The capture's.

    Raises
    ------
    LandmarkError
        If a file is broken, or less than three points are found by two cameras or more.
    """
    used = [one for one in rig if one.stored.name in files]
    pixels = np.full((len(used), SIZE, 2), np.nan)
    for row, one in enumerate(used):
        pixels[row] = _in_straight_picture(files[one.stored.name], one, entry, pixel_center)
    pixels[:, list(_CONTOUR)] = np.nan
    sizes = [max(one.camera.width, one.camera.height) for one in used]
    most = [entry.most_px or MOST_ERROR_PX + MOST_ERROR * size for size in sizes]
    found = triangulate([one.at(frame) for one in used], pixels, most)
    good = np.flatnonzero(np.isfinite(found.points).all(axis=1))
    if len(good) < MINIMUM_POINTS:
        shown = int((np.isfinite(pixels).all(axis=2).sum(axis=0) >= 2).sum())
        raise LandmarkError(
            f"of the landmarks of frame {frame} that two cameras or more show, {shown}, {len(good)} lie within "
            f"{min(most, default=0):.1f} pixels of where the cameras agree",
            f"at least {MINIMUM_POINTS}",
            f"Check order, `pixel_center` and the cameras, or allow more: `most_px`. {_SEE}",
        )
    name = f"the landmarks of frame {frame}"
    landmarks = validate_landmarks(Landmarks(good.astype(np.int64), found.points[good]), name)
    check_metric_scale(landmarks.points, name, reference_diagonal_m=0.18, declare="`camera_unit` in capture.json")
    return landmarks


def _in_straight_picture(
    path: Path, one: RecordedCamera, entry: LandmarksEntry, pixel_center: float
) -> npt.NDArray[np.float64]:
    """Return where a file has the points (68, 2) in the straight picture, NaN for those not seen."""
    marked = marked_points(path, read_landmark_bytes(path))
    if marked is None:
        raise LandmarkError(f"{path} is no landmark file that is read", "points of a picture", f"See {_SEE}")
    indices = ibug_indices(marked, entry.order_of_points, path)
    points = marked.points[:, 1::-1] if marked.rows_first and marked.points.shape[1] == 2 else marked.points[:, :2]
    camera = one.camera
    if np.nanmax(np.abs(points), initial=0.0) <= _SHARES:
        points = points * np.array([camera.width, camera.height])
    else:
        first = entry.pixel_center if entry.pixel_center is not None else marked.first_pixel
        points = points + 0.5 - (pixel_center if first is None else first)
    inside = ((points >= 0) & (points <= [camera.width, camera.height])).all(axis=1) & (indices >= 0)
    found = np.full((SIZE, 2), np.nan)
    found[indices[inside]] = straight_pixels(one.lens, one.stored_intrinsics, camera.K, points[inside])
    return found
