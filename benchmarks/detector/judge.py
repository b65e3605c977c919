"""What the detector's evidence is worth: alone, with raw scans, and on a real face in its own texture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFilter

from benchmarks.detector.people import Instant
from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.common.open3d_library import load_open3d
from datagen.evidence.contract import Maker
from datagen.evidence.detector_model import on_smooth_surface
from datagen.fit.problem import FitFrame, FitSettings, FittedFrame
from datagen.fit.refine import fit_pictures
from datagen.fit.stereo import StereoView
from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh_io import read_mesh
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.sources.frame import Image
from datagen.warp.engine import warp_frame
from datagen.warp.surface import Surface
from datagen.warp.template import prepare_template

VIEWS = ((-50, -8), (-36, 15), (-21, -8), (-7, 15), (7, -8), (21, 15), (36, -8), (50, 15))


def evidence_of(maker: Maker, images: Mapping[str, Image], cameras: Sequence[Camera]) -> list[PixelEvidence]:
    """Return what a maker sees in the pictures of one instant."""
    by_name = {camera.name: camera for camera in cameras}
    seen = maker.look(images, by_name)
    return [PixelEvidence(one.points, by_name[name]) for name, one in seen.items() if one.points is not None]


def fitted(
    head: HeadModel,
    pixels: Sequence[PixelEvidence],
    images: Mapping[str, Image],
    cameras: Sequence[Camera],
    stereo: bool,
) -> FittedFrame | None:
    """Return the head that ``datagen fit`` makes of the pictures of one instant; None if they do not place it.

    Parameters
    ----------
    stereo : bool
        Whether pictures also tell where the skin is.
    """
    views = [StereoView(camera, images[camera.name]) for camera in cameras]
    template, frames = prepare_template(head.template, None), [FitFrame(0, 0.0, pixels)]
    try:
        fit, _ = fit_pictures(head, template, frames, lambda _: views, FitSettings(stereo=stereo))
    except InputError:
        return None
    return fit.frames[0]


@dataclass(frozen=True, eq=False)
class Errors:
    """Distances to the truth by region.

    Attributes
    ----------
    off_mm : (N,) float64
        Of points of the face, all instants.
    region : (N,) uint8
    expected_mm : (N,) float64
        Of the same points, as the fit says; empty if it says nothing.
    """

    off_mm: F64
    region: npt.NDArray[np.uint8]
    expected_mm: F64

    def figures(self, name: str) -> dict[str, float]:
        """Return median and 95th percentile, and how many times as far off as stated the points are (RMS)."""
        found = {f"{name}_median_mm": float(np.median(self.off_mm)), f"{name}_p95_mm": _p95(self.off_mm)}
        if len(self.expected_mm):
            found[f"{name}_sigma_ratio"] = float(np.sqrt(np.mean((self.off_mm / self.expected_mm) ** 2)))
        return found

    def by_region(self) -> dict[str, float]:
        """Return the median of each region of the face."""
        return {name: float(np.median(self.off_mm[self.region == REGIONS[name]])) for name in FACE_REGIONS}


def _p95(values: F64) -> float:
    return float(np.percentile(values, 95))


def fit_errors(head: HeadModel, instants: Sequence[Instant], maker: Maker, *, stereo: bool = True) -> Errors:
    """Return how far fits of pictures alone lie from the true skin, in the world of the cameras."""
    face = mask_of(head.template.regions, FACE_REGIONS)
    off, expected = [], []
    for one in instants:
        fit = fitted(head, evidence_of(maker, one.images, one.cameras), one.images, one.cameras, stereo)
        if fit is None:
            continue
        apart = on_smooth_surface(head.template, fit.vertices) - on_smooth_surface(head.template, one.vertices)
        off.append(np.linalg.norm(apart, axis=1)[face] * MM_PER_M)
        expected.append(fit.spread_m[: len(face)][face] * MM_PER_M)
    region = np.tile(head.template.regions[face], len(off))
    return Errors(np.concatenate(off), region, np.concatenate(expected))


def hidden_mouth(one: Instant, head: HeadModel) -> dict[str, Image]:
    """Return the pictures of an instant with a mask over mouth and chin."""
    marks = head.template.landmarks(one.vertices)
    covered = marks[[2, 4, 6, 8, 10, 12, 14, 35, 30, 31]]
    result = {}
    for camera in one.cameras:
        picture = Pictures.fromarray(one.images[camera.name])
        outline = [(float(x), float(y)) for x, y in camera.project(covered)[0]]
        ImageDraw.Draw(picture).polygon(outline, fill=(150, 170, 190))
        result[camera.name] = np.asarray(picture)
    return result


def blurred(one: Instant, radius_px: float) -> dict[str, Image]:
    """Return the pictures of an instant, blurred by a Gaussian."""
    blur = ImageFilter.GaussianBlur(radius_px)
    return {name: np.asarray(Pictures.fromarray(image).filter(blur)) for name, image in one.images.items()}


def warp_errors(head: HeadModel, instants: Sequence[Instant], given: Callable[[Instant], dict[str, Any]]) -> Errors:
    """Return how far warps of raw scans lie from the truth in canonical space, points of the true face.

    Parameters
    ----------
    given : callable
        Of an instant: what :func:`datagen.warp.engine.warp_frame` is given besides the scan.
    """
    space = head.template.space
    off, region = [], []
    for one in instants:
        assert one.frame is not None
        warp = warp_frame(one.frame.scan, head, WarpConfig(), **given(one))
        distance = space.distance_mm(warp.canonical, one.frame.truth)
        kept = mask_of(one.frame.region, FACE_REGIONS) & np.isfinite(distance)
        off.append(distance[kept])
        region.append(one.frame.region[kept])
    return Errors(np.concatenate(off), np.concatenate(region), np.zeros(0))


def real_marks_mm(head: HeadModel, real: Path, maker: Maker, image_size: int = 768) -> dict[str, F64]:
    """Return how far from 68 landmarks by hand a real face's are found, which nobody gave; (68,) mm each.

    ``pictures``: from eight pictures of the textured scan alone, and ``points`` from what the detector sees in them.
    ``warp``: from the scan and these pictures. ``scan``: from the scan alone. Besides, how far the face's vertices lie
    from the scan: ``pictures_surface``, ``points_surface``.
    """
    place = real / "scans" / "menpo_james"
    table = json.loads((place / "landmarks.json").read_text())
    marks = np.array(table["points"], np.float64)[table["ibug68_order"]] / MM_PER_M
    scan = read_mesh(place / "james.obj", "mm")
    images, cameras = textured_views(place / "james.obj", place / "james.jpg", marks.mean(axis=0), image_size)
    pixels = evidence_of(maker, images, cameras)
    template = prepare_template(head.template, None)
    operator = template.landmark_matrix(np.arange(68))
    face, surface = mask_of(head.template.regions, FACE_REGIONS), Surface(scan.vertices, scan.faces)
    found, apart = {}, {}
    for name, stereo in (("pictures", True), ("points", False)):
        alone = fitted(head, pixels, images, cameras, stereo)
        assert alone is not None
        found[name] = operator @ (template.subdivide @ alone.vertices)[: operator.shape[1]]
        at = alone.vertices[face]
        apart[f"{name}_surface"] = np.linalg.norm(surface.closest(at).position - at, axis=1) * MM_PER_M
    for name, seen in (("warp", pixels), ("scan", [])):
        warp = warp_frame(scan, head, WarpConfig(), pixels=seen)
        found[name] = operator @ warp.registered_vertices[: operator.shape[1]]
    return {name: np.linalg.norm(points - marks, axis=1) * MM_PER_M for name, points in found.items()} | apart


def textured_views(
    mesh: Path, texture: Path, centre: F64, image_size: int, unit_m: float = 1e-3
) -> tuple[dict[str, Image], list[Camera]]:
    """Return pictures of a textured scan, unlit as it was photographed, from the front and both sides."""
    o3d = load_open3d()
    trimesh: Any = import_module("trimesh")
    loaded = trimesh.load(mesh, process=False, force="mesh")
    vertices, faces = np.asarray(loaded.vertices) * unit_m, np.asarray(loaded.faces)
    uv = np.asarray(loaded.visual.uv)
    paint = np.asarray(Pictures.open(texture).convert("RGB"), np.float64)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(faces.astype(np.uint32)))
    images, cameras = {}, []
    for k, (azimuth, elevation) in enumerate(np.radians(VIEWS)):
        side = np.cos(elevation)
        outward = np.array([np.sin(azimuth) * side, np.sin(elevation), np.cos(azimuth) * side])
        camera = look_at(f"cam{k:02d}", centre + outward, centre, 2.4 * image_size, image_size, image_size)
        at = camera.unproject(np.ones((image_size, image_size)))
        rays = np.concatenate([np.broadcast_to(camera.centre, at.shape), at - camera.centre], axis=2)
        hit = scene.cast_rays(o3d.core.Tensor(rays.astype(np.float32)))
        depth, face = hit["t_hit"].numpy(), hit["primitive_ids"].numpy()
        shown = np.isfinite(depth)
        second = hit["primitive_uvs"].numpy()[shown]
        share = np.column_stack([1 - second.sum(axis=1), second])
        where = np.einsum("nc,ncd->nd", share, uv[faces[face[shown]]])
        x = np.clip(where[:, 0] * paint.shape[1], 0, paint.shape[1] - 1).astype(int)
        y = np.clip((1 - where[:, 1]) * paint.shape[0], 0, paint.shape[0] - 1).astype(int)
        picture = np.full((image_size, image_size, 3), 110, np.uint8)
        picture[shown] = paint[y, x]
        images[camera.name] = picture
        cameras.append(camera)
    return images, cameras
