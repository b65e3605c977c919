"""Masks as gates of a scan: what two cameras see beside the person is no part of the head."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.flows.silhouettes import grown
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.sources.frame import Frame
from datagen.warp.result import Warp

# Part of the content keys of what is made of gated scans: a number more, and it is made again.
GATE_VERSION = 1
LEAST_VIEWS = 2
GROWN_PX = 1  # a mask's border is known to a pixel
NOTED_SHARE = 0.01  # of a scan: less is strays, which every scan has
METRIC = "outside_masks"


@dataclass(frozen=True)
class Gated:
    """A frame without the scan points that its masks cut away.

    Attributes
    ----------
    frame : Frame
    outside : int
        How many were cut away.
    points : int
        How many there were.
    used : bool
        Whether there were masks enough.
    """

    frame: Frame
    outside: int
    points: int
    used: bool

    def told(self, warp: Warp) -> Warp:
        """Return the warp with count and scale among its metrics, and in words where it is many or not given."""
        warp = _scale_told(self.frame, warp)
        if not self.used:
            return warp
        verdict = warp.verdict
        share = self.outside / self.points
        note = (
            f"note: {self.outside} of {self.points} scan points ({share:.1%}) lie outside the masks of {LEAST_VIEWS} "
            "cameras or more, and were left out"
        )
        reasons = (*verdict.reasons, note) if share >= NOTED_SHARE else verdict.reasons
        metrics = {**verdict.metrics, METRIC: float(self.outside)}
        return replace(warp, verdict=replace(verdict, reasons=reasons, metrics=metrics))


def _scale_told(frame: Frame, warp: Warp) -> Warp:
    scale, verdict = frame.scale, warp.verdict
    if scale is None:
        return warp
    reasons = (*verdict.reasons, f"note: the capture's unit is not known; it was scaled by {scale}")
    metrics = {**verdict.metrics, "scale_factor": scale.factor, "scale_sigma": scale.sigma}
    return replace(warp, verdict=replace(verdict, reasons=reasons, metrics=metrics))


def views_outside(
    points: npt.NDArray[np.floating], cameras: Iterable[Camera], masks: Mapping[str, npt.NDArray[np.bool_]]
) -> npt.NDArray[np.int64]:
    """Return in how many views each point lies beside the person.

    Parameters
    ----------
    points : (N, 3) float
        World metres.
    cameras : iterable of Camera
        Those without a mask tell nothing, nor does one of a point outside of its image.
    masks : mapping of camera name to (H, W) bool
        Each is grown by a pixel.

    Returns
    -------
    (N,) int64
    """
    outside = np.zeros(len(points), np.int64)
    for camera in cameras:
        if camera.name not in masks:
            continue
        mask = grown(masks[camera.name], GROWN_PX)
        pixels, z = camera.project(points)
        with np.errstate(invalid="ignore"):
            seen = (z > 0) & (pixels >= 0).all(axis=1) & (pixels < (camera.width, camera.height)).all(axis=1)
        column, row = pixels[seen].astype(np.int64).T
        outside[np.flatnonzero(seen)[~mask[row, column]]] += 1
    return outside


def gate(frame: Frame, wrong: Collection[str], *, use: bool = True) -> Gated:
    """Leave out scan points that two views or more show beside the person.

    A scan that is its registration stays whole: its vertices are known by their numbers.

    Parameters
    ----------
    frame : Frame
    wrong : collection of str
        Cameras that contradict their pictures: their masks tell nothing.
    use : bool
        Whether masks are used at all.

    Raises
    ------
    InputError
        If nothing is left.
    """
    scan, registration = frame.scan, frame.registration
    names = [camera.name for camera in frame.cameras if camera.name in frame.masks and camera.name not in wrong]
    whole = registration is not None and registration.vertices.shape == scan.vertices.shape
    if not use or len(names) < LEAST_VIEWS or whole:
        return Gated(frame, 0, len(scan.vertices), used=False)
    masks = {name: frame.masks[name]() for name in names}
    kept = views_outside(scan.vertices, frame.cameras, masks) < LEAST_VIEWS
    if not kept.any():
        raise InputError(
            f"all of the scan of frame {frame.index} of {frame.key} lies outside the masks",
            "masks that are white on the person",
            "`datagen check --page` shows both",
        )
    if kept.all():
        return Gated(frame, 0, len(kept), used=True)
    number = np.cumsum(kept) - 1
    faces = scan.faces[kept[scan.faces].all(axis=1)] if len(scan.faces) else scan.faces
    inside = Mesh.of(scan.vertices[kept], number[faces], None if scan.normals is None else scan.normals[kept])
    return Gated(replace(frame, surface=inside), int((~kept).sum()), len(kept), used=True)
