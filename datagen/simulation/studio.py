"""The studio of a simulated capture: its cameras around the head, its light, what lies behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera, look_at, validate_camera
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadTemplate
from datagen.render.contract import Renderer
from datagen.simulation.person import DenseTemplate, PosedSurface, Subject
from datagen.simulation.photo.background import random_backdrop
from datagen.simulation.photo.face_fields import SKIN, FaceFields, face_fields
from datagen.simulation.photo.illumination import Diffusion
from datagen.simulation.photo.light import random_light
from datagen.simulation.photo.look import Look, Traits, draw_look
from datagen.simulation.photo.sensor import expose, random_sensor, vary_sensor
from datagen.simulation.photo.shading import Part, Subject3D, light_scene, shade_image
from datagen.simulation.teeth_and_clothes import Shirt
from datagen.sources.frame import Image

AZIMUTH_DEG = 50.0
ELEVATIONS_DEG = (-8.0, 15.0)
DISTANCE_M = 1.0
FILL = 0.65


def frontal_arc(
    count: int, image_size: int, head_extent_m: float, rng: np.random.Generator, target: tuple[float, float, float]
) -> tuple[Camera, ...]:
    """Return ``count`` cameras on an arc of ±50° that look at ``target``, slightly out of place as real ones are.

    Parameters
    ----------
    image_size : int
        Pixels a side.
    head_extent_m : float
        Largest side of the head; it fills about 65 % of the image.
    rng : numpy Generator
    target : 3 floats, world metres
    """
    azimuths = np.linspace(-AZIMUTH_DEG, AZIMUTH_DEG, count) if count > 1 else np.zeros(1)
    cameras = []
    for k, azimuth in enumerate(azimuths):
        a = np.deg2rad(azimuth + rng.normal(0, 1.5))
        e = np.deg2rad(ELEVATIONS_DEG[k % 2] + rng.normal(0, 1.5))
        distance = DISTANCE_M * rng.uniform(0.97, 1.03)
        direction = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        aim = np.array(target) + rng.normal(0, 0.004, 3)
        focal_px = FILL * image_size * distance / head_extent_m
        camera = look_at(f"cam{k:02d}", aim + distance * direction, aim, focal_px, image_size, image_size)
        K = camera.K.copy()
        K[:2, 2] += rng.normal(0, 0.005 * image_size, 2)
        cameras.append(validate_camera(replace(camera, K=K)))
    return tuple(cameras)


Faces = npt.NDArray[np.int32]
Generators = Callable[[str], np.random.Generator]

# Mean melanin of the origins that anny mixes, between the palest and the darkest skin.
ORIGIN_MELANIN = {"african": 0.78, "asian": 0.26, "caucasian": 0.17}
# Cameras expose for the subject, but not fully: a dark face stays darker than a pale one.
METERED_GREY, METERED_SHARE = 0.31, 0.45


class Studio:
    """Everything in a subject's pictures besides its shape.

    Parameters
    ----------
    generator : callable
        Returns the generator of a purpose: ``look``, ``light``, ``backdrop``, ``sensor``.
    """

    def __init__(
        self, subject: Subject, cameras: tuple[Camera, ...], renderer: Renderer, generator: Generators
    ) -> None:
        self._subject, self._cameras, self._renderer = subject, cameras, renderer
        template = subject.head.template
        self.fields, self._spread, self._coarse = _template_parts(subject.dense, template)
        self.look = draw_look(generator("look"), traits_of(subject))
        light = random_light(generator("light"))
        self.light = light.scaled(_metered(self.look))
        self._rest = subject.shape(np.zeros(len(subject.head.expression_names)))
        self._shirt = Shirt(template, generator("build"))
        backdrop = random_backdrop(generator("backdrop"))
        level = np.float32(_metered(self.look) ** 0.8)
        self._backgrounds = [level * backdrop.view(c.height, c.width, k) for k, c in enumerate(cameras)]
        draws = generator("sensor")
        model = random_sensor(draws)
        self._sensors = [vary_sensor(model, draws) for _ in cameras]

    def pictures(
        self, surface: PosedSurface, teeth: Part | None, rng: np.random.Generator
    ) -> tuple[dict[str, Image], dict[str, npt.NDArray[np.bool_]]]:
        """Return each camera's picture (H, W, 3) uint8 sRGB and where the subject is in it, (H, W) bool."""
        posed = Subject3D(surface.vertices, surface.normals, surface.smooth_normals, self._subject.faces)
        shirt = self._shirt.part(surface.template_vertices, self._rest, surface.head_to_world)
        scene = light_scene(
            posed,
            self.fields,
            self.light,
            self._renderer,
            parts=[part for part in (teeth, shirt) if part is not None],
            blocker_faces=self._coarse,
            spread=self._spread,
        )
        images, masks = {}, {}
        for camera, background, sensor in zip(self._cameras, self._backgrounds, self._sensors, strict=True):
            linear, mask = shade_image(scene, camera, self._renderer, self.light, self.look, background)
            images[camera.name], masks[camera.name] = expose(linear, sensor, rng), mask
        return images, masks


def traits_of(subject: Subject) -> Traits:
    """Return what a subject's shape says of its looks; average where the head model does not tell."""
    names: tuple[str, ...] = getattr(subject.head, "identity_names", ())
    if not {"gender", "age", *ORIGIN_MELANIN} <= set(names):
        return Traits()
    z = dict(zip(names, subject.identity, strict=True))
    mixture = np.exp(2.5 * np.array([z[name] for name in ORIGIN_MELANIN]))
    melanin = float(mixture @ np.array(list(ORIGIN_MELANIN.values())) / mixture.sum())
    return Traits(
        masculine=float(1 / (1 + np.exp(-3 * z["gender"]))),
        age=float(0.5 + 0.5 * np.tanh(0.6 * z["age"])),
        melanin=melanin,
    )


def _metered(look: Look) -> float:
    """Return the exposure that a camera would choose for a face of this tone."""
    return float((METERED_GREY / (0.62 * np.exp(-2.5 * look.melanin))) ** METERED_SHARE) * 1.05


def _template_parts(dense: DenseTemplate, template: HeadTemplate) -> tuple[FaceFields, Diffusion, tuple[Faces, Faces]]:
    return _cached_parts(_ById(dense, template))


class _ById:
    """A dense template as a cache key: it is itself cached, so identity will do."""

    def __init__(self, dense: DenseTemplate, template: HeadTemplate) -> None:
        self.dense, self.template = dense, template

    def __hash__(self) -> int:
        return id(self.dense)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.dense is self.dense


@lru_cache(maxsize=2)
def _cached_parts(key: _ById) -> tuple[FaceFields, Diffusion, tuple[Faces, Faces]]:
    dense, template = key.dense, key.template
    fields = face_fields(template, dense.points, dense.normals, dense.subdivision.faces, dense.regions)
    spread = Diffusion(fields.points_mm, dense.subdivision.faces, fields.material == SKIN)
    # Loop subdivision keeps the vertices of each level first, so fewer levels are coarser meshes of the same points.
    half = loop_subdivision(template.faces, len(template.vertices), max(0, dense.levels - 1)).faces
    return fields, spread, (half, template.faces)
