"""Images of simulated captures: a lit scene seen by a camera, as linear light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F32, F64, I32
from datagen.common.errors import CameraError, MeshError
from datagen.geometry.camera import Camera
from datagen.render.contract import Renderer
from datagen.simulation.photo.face_fields import COLUMN, SKIN, FaceFields
from datagen.simulation.photo.illumination import Diffusion, Illumination, illuminate
from datagen.simulation.photo.light import MOST_LAMPS, Lamp, Light
from datagen.simulation.photo.look import Look
from datagen.simulation.photo.surface_kernel import FIXED_SIZE, MOVING_SIZE, OPEN, shade_view

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Part:
    """A thing in the picture that no map holds: teeth, a shirt.

    Attributes
    ----------
    vertices, normals : (N, 3) float64
        World metres; unit normals.
    faces : (F, 3) int32
    places : (N, 3) float32
        What its pattern is a function of, millimetres.
    behind : bool
        Seen only where the subject is not.
    """

    vertices: F64
    normals: F64
    faces: I32
    places: F32
    material: int
    behind: bool


@dataclass(frozen=True)
class Scene:
    """A subject and what belongs to it at one instant, lit.

    Attributes
    ----------
    vertices : (N, 3) float64
    head_faces, rest_faces : (F, 3) int32
        Of the subject with what lies in it, and of what is seen only behind it.
    materials : (F,) int8
        Of both lists of faces, one after the other.
    moving, fixed : (N, MOVING_SIZE) and (N, FIXED_SIZE) float32
        Columns of :mod:`datagen.simulation.photo.surface_kernel`.
    eyes : (2, 4) float64
    rank : (N,) int64
        Where each vertex as given stands in these arrays, subject first, then the parts.
    """

    vertices: F64
    head_faces: I32
    rest_faces: I32
    materials: npt.NDArray[np.int8]
    moving: F32
    fixed: F32
    eyes: F64
    unit_mm: float
    rank: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subject3D:
    """A subject's surface at one instant: world metres and unit normals, with and without the finest relief."""

    vertices: F64
    normals: F64
    smooth_normals: F64
    faces: I32


def light_scene(
    subject: Subject3D,
    fields: FaceFields,
    light: Light,
    renderer: Renderer,
    *,
    parts: Sequence[Part] = (),
    blocker_faces: tuple[I32, I32] | None = None,
    spread: Diffusion | None = None,
) -> Scene:
    """Put a subject and its parts together and compute the light that reaches each vertex.

    Parameters
    ----------
    fields : FaceFields
        Of the same vertices.
    renderer : Renderer
        Draws depth maps from the light.
    blocker_faces : two of (B, 3) int32, optional
        Fewer triangles over the subject's vertices that stand for it before lamps, and before the surroundings.
    spread : Diffusion, optional
        Of the subject's vertices.

    Raises
    ------
    datagen.common.errors.MeshError
        If arrays disagree in length or there are too many lamps.
    """
    n = len(subject.vertices)
    for name, array in (
        ("normals", subject.normals), ("smooth normals", subject.smooth_normals), ("fields", fields.points_mm),
    ):  # fmt: skip
        if np.shape(array) != (n, 3):
            raise MeshError(
                f"the mesh to shade has {name} of shape {np.shape(array)}", f"{(n, 3)}", "Pass one row per vertex"
            )
    if len(light.lamps) > MOST_LAMPS:
        raise MeshError(f"the light has {len(light.lamps)} lamps", f"at most {MOST_LAMPS}", "Leave the weakest out")
    starts = np.cumsum([n, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([subject.vertices, *(part.vertices for part in parts)])
    normals = np.concatenate([subject.normals, *(part.normals for part in parts)])
    others = [part.faces + start for part, start in zip(parts, starts, strict=False)]
    blockers, coarse = (
        np.concatenate([stand_in, *others]).astype(np.int32)
        for stand_in in (blocker_faces or (subject.faces, subject.faces))
    )
    thin = np.zeros(len(vertices), np.float32)
    thin[:n] = fields.values[:, COLUMN["thin"]]
    centre = (subject.vertices.min(axis=0) + subject.vertices.max(axis=0)) / 2
    radius = float(np.linalg.norm(subject.vertices - centre, axis=1).max())
    lit = illuminate(
        vertices, normals, (vertices, blockers), light, renderer, coarse=coarse, sphere=(centre, radius),
        spread=spread, thin=thin,
    )  # fmt: skip
    moving = _moving(vertices, normals, lit)
    moving[:n, 6:9] = subject.smooth_normals
    fixed = np.zeros((len(vertices), FIXED_SIZE), np.float32)
    fixed[:n, :3], fixed[:n, 3:] = fields.points_mm, fields.values
    for part, start in zip(parts, starts, strict=False):
        fixed[start : start + len(part.vertices), :3] = part.places
    front = [subject.faces, *(p.faces + s for p, s in zip(parts, starts, strict=False) if not p.behind)]
    rest = [np.zeros((0, 3), np.int32), *(p.faces + s for p, s in zip(parts, starts, strict=False) if p.behind)]
    kinds = [
        _face_materials(fields.material, subject.faces),
        *(np.full(len(p.faces), p.material, np.int8) for p in parts if not p.behind),
        *(np.full(len(p.faces), p.material, np.int8) for p in parts if p.behind),
    ]
    order = np.concatenate([fields.order, np.arange(n, len(vertices))])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Scene(
        vertices=vertices[order],
        head_faces=rank[np.concatenate(front)].astype(np.int32),
        rest_faces=rank[np.concatenate(rest)].astype(np.int32),
        materials=np.concatenate(kinds).astype(np.int8),
        moving=moving[order],
        fixed=fixed[order],
        eyes=fields.eyes,
        unit_mm=fields.unit_mm,
        rank=rank,
    )


def _face_materials(material: npt.NDArray[np.int8], faces: I32) -> npt.NDArray[np.int8]:
    """Return one material per triangle: skin where corners disagree."""
    corners = material[faces]
    same = (corners[:, 0] == corners[:, 1]) & (corners[:, 1] == corners[:, 2])
    return np.where(same, corners[:, 0], SKIN).astype(np.int8)


def _moving(vertices: F64, normals: F64, lit: Illumination) -> F32:
    moving = np.zeros((len(vertices), MOVING_SIZE), np.float32)
    moving[:, :3], moving[:, 3:6], moving[:, 6:9] = vertices, normals, normals
    moving[:, 9:12], moving[:, 12:15], moving[:, OPEN] = lit.irradiance, lit.vector, lit.open
    moving[:, OPEN + 1 : OPEN + 1 + lit.lamps.shape[1]] = lit.lamps
    return moving


def shade_image(
    scene: Scene, camera: Camera, renderer: Renderer, light: Light, look: Look, background: F32
) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Shade a scene as a perfect camera would see it.

    Four subsamples a pixel find the silhouettes; where one piece of surface fills a pixel it is shaded once, with
    patterns finer than the pixel faded out. Ground-truth maps are never made this way.

    Parameters
    ----------
    light : Light
        The one the scene was lit with.
    background : (H, W, 3) float32
        Linear RGB behind the subject.

    Returns
    -------
    image : (H, W, 3) float32
        Linear RGB.
    mask : (H, W) bool
        True where the subject covers at least half of the pixel.

    Raises
    ------
    datagen.common.errors.CameraError
        If the camera is not valid or the background has another size.
    """
    if background.shape != (camera.height, camera.width, 3):
        raise CameraError(
            f"the background has shape {background.shape}",
            f"{(camera.height, camera.width, 3)}, the size of camera {camera.name}",
            "Make it with random_backdrop(rng).view(camera.height, camera.width)",
        )
    fine = _enlarged(camera, SUPERSAMPLING)
    head = renderer.rasterise(scene.vertices, scene.head_faces, [fine])[0]
    rest_face = np.full((camera.height, camera.width), -1, np.int32)
    rest_weights = head.barycentric
    if len(scene.rest_faces):
        rest = renderer.rasterise(scene.vertices, scene.rest_faces, [camera])[0]
        rest_face = np.where(rest.face >= 0, rest.face + len(scene.head_faces), -1).astype(np.int32)
        rest_weights = rest.barycentric
    image, coverage = shade_view(
        head.face, head.barycentric, head.depth, rest_face, rest_weights,
        np.concatenate([scene.head_faces, scene.rest_faces]), scene.materials, scene.moving, scene.fixed,
        np.ascontiguousarray(camera.world_to_camera[2], np.float64), float(camera.K[0, 0]),
        np.ascontiguousarray(camera.centre, np.float64), scene.unit_mm, scene.eyes, look, lamp_rows(light.lamps),
        np.ascontiguousarray(light.irradiance, np.float64), np.ascontiguousarray(background, np.float32), SUPERSAMPLING,
    )  # fmt: skip
    return image, coverage >= 0.5


def lamp_rows(lamps: Sequence[Lamp]) -> F64:
    """Return lamps as the compiled code wants them, (L, 14) float64: frame, colour, half sizes."""
    rows = np.zeros((len(lamps), 14))
    for row, lamp in zip(rows, lamps, strict=True):
        row[:9], row[9:12], row[12:14] = lamp.frame().ravel(), lamp.colour, (lamp.half_width, lamp.half_height)
    return rows


def _enlarged(camera: Camera, factor: int) -> Camera:
    K = camera.K.copy()
    K[:2] *= factor
    return replace(camera, K=K, width=camera.width * factor, height=camera.height * factor)
