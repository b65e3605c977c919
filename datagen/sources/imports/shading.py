"""Simulated pictures of meshes that came without: cameras around the head, a light beside each camera.

A matt surface of one grey under the light of the camera itself, on black: the brightness of a pixel is the cosine
between the surface's normal and the ray. Nothing is drawn by chance, and nothing pretends to be a photograph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh import Mesh, check_metric_scale, vertex_normals
from datagen.geometry.space import metres_per
from datagen.sources.frame import Image
from datagen.sources.imports.imported import (
    ImportedCamera,
    ImportedFrame,
    ImportedRegistration,
    ImportedSequence,
    ImportSettings,
)

CAMERAS = 8
IMAGE_SIZE = 512
_AZIMUTH_DEG = 50.0
_ELEVATIONS_DEG = (-8.0, 15.0)
_DISTANCE = 3.5  # of the head's longest side
_FILL = 0.65  # of the picture
_ALBEDO = 0.6
_AMBIENT = 0.15


def around(vertices: npt.NDArray[np.float64], facing: str, count: int, size: int) -> tuple[Camera, ...]:
    """Return cameras on an arc of ±50° in front of a face whose +y is up; lengths are in the unit of its vertices.

    Parameters
    ----------
    vertices : (N, 3) float64
    facing : str
        Axis that comes out of the face, one of :data:`datagen.sources.imports.registry.FACINGS`.
    count, size : int
        Of the cameras, and of their square pictures in pixels.
    """
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    middle, side = (low + high) / 2, float((high - low).max())
    sign = 1.0 if facing[0] == "+" else -1.0
    turn = {"z": 0.0, "x": 90.0}[facing[1]] + (0.0 if sign > 0 else 180.0)
    azimuths = np.linspace(-_AZIMUTH_DEG, _AZIMUTH_DEG, count) if count > 1 else np.zeros(1)
    cameras = []
    for k, azimuth in enumerate(azimuths):
        a, e = np.deg2rad(turn + azimuth), np.deg2rad(_ELEVATIONS_DEG[k % 2])
        direction = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        centre = middle + _DISTANCE * side * direction
        cameras.append(look_at(f"cam{k:02d}", centre, middle, _FILL * size * _DISTANCE, size, size))
    return tuple(cameras)


def drawn(
    frames: Sequence[ImportedFrame],
    first: Mesh,
    settings: ImportSettings,
    *,
    facing: str,
    unit: str,
    registration: ImportedRegistration | None = None,
    missing: tuple[str, ...] = (),
    remarks: tuple[str, ...] = (),
) -> ImportedSequence:
    """Return a sequence of meshes without pictures, with cameras around the first of them.

    Parameters
    ----------
    first : Mesh
        In the sequence's unit.
    facing, unit : str
        The set's own; the settings come before them.
    """
    facing, unit = settings.facing or facing, settings.unit or unit
    check_metric_scale(first.vertices * metres_per(unit, "--unit"), "the first mesh", declare="--unit")
    rig = around(first.vertices, facing, settings.cameras or CAMERAS, settings.image_size or IMAGE_SIZE)
    cameras = tuple(
        ImportedCamera(camera.name, camera.K, camera.world_to_camera, (camera.width, camera.height)) for camera in rig
    )
    said = (f"taken for granted: {facing} comes out of the face and +y is up (--facing), lengths in {unit} (--unit)",)
    doubts = facing_remark(first.vertices, facing)
    return ImportedSequence(
        cameras,
        tuple(frames),
        unit,
        registration=registration,
        shaded=True,
        missing=missing,
        remarks=(*remarks, *said, *doubts),
    )


def facing_remark(vertices: npt.NDArray[np.float64], facing: str) -> tuple[str, ...]:
    """Return a doubt, if vertices are denser where the cameras do not look: meshes of heads are densest in the face."""
    axis, sign = "xyz".index(facing[1]), 1.0 if facing[0] == "+" else -1.0
    along = sign * vertices[:, axis]
    front = float((along > (along.min() + along.max()) / 2).mean())
    if front >= 0.5:
        return ()
    return (f"doubtful: {1 - front:.0%} of the vertices lie in the half away from the cameras; see --facing",)


def shaded(mesh: Mesh, cameras: Sequence[Camera]) -> tuple[Mapping[str, Image], Mapping[str, npt.NDArray[np.bool_]]]:
    """Return each camera's picture (H, W, 3) uint8 sRGB, and where the mesh is in it (H, W) bool.

    Raises
    ------
    InputError
        If the mesh has no faces.
    """
    from datagen.render.registry import make_renderer

    if not len(mesh.faces):
        raise InputError("a mesh without faces cannot be drawn", "triangles", "Name a mesh that has them: --topology")
    normals = vertex_normals(mesh.vertices, mesh.faces)
    images: dict[str, Image] = {}
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    # One by one: kernels that a build has compiled already, and the same pixels on every machine.
    views = make_renderer("numba", threads=1).rasterise(mesh.vertices, mesh.faces, cameras)
    for camera, view in zip(cameras, views, strict=True):
        seen = view.face >= 0
        corners = mesh.faces[view.face[seen]]
        weights = view.barycentric[seen].astype(np.float64)
        normal = np.einsum("pc,pcx->px", weights, normals[corners])
        points = np.einsum("pc,pcx->px", weights, mesh.vertices[corners])
        ray = camera.centre - points
        lengths = np.linalg.norm(normal, axis=1) * np.linalg.norm(ray, axis=1)
        # Both sides of a triangle count: holes show the inside, which is lit as well.
        cosine = np.abs((normal * ray).sum(axis=1)) / np.maximum(lengths, 1e-12)
        linear = _ALBEDO * (_AMBIENT + (1 - _AMBIENT) * cosine)
        srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        image = np.zeros((camera.height, camera.width, 3), np.uint8)
        image[seen] = np.rint(255 * srgb).astype(np.uint8)[:, None]
        images[camera.name], masks[camera.name] = image, seen
    return images, masks
