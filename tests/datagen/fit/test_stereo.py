"""Where the skin is, found by pictures that agree: held against heads whose skin and pattern are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datagen.common.arrays import F64, I64
from datagen.fit.problem import FitFrame, FitSettings, SkinPoints
from datagen.fit.refine import fit_pictures
from datagen.fit.solver import fit_frames
from datagen.fit.stereo import Stereo, StereoView
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import vertex_normals
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.render.registry import make_renderer
from datagen.warp.template import prepare_template
from tests.support.freckles import pictured
from tests.support.seen import SIX, cameras_around, seen_vertices

REACH_M = 5e-3
TEXELS = 128
FOUR = SIX[1:5]


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def stereo(head: HeadModel) -> Stereo:
    return Stereo(head.template, make_renderer("numba"))


@pytest.fixture(scope="module")
def face(head: HeadModel) -> I64:
    return np.flatnonzero(mask_of(head.template.regions, FACE_REGIONS))


@pytest.fixture(scope="module")
def cameras(head: HeadModel, face: I64) -> list[Camera]:
    return cameras_around(head.template.vertices[face].mean(axis=0), FOUR, size_px=160, field_m=0.25)


@pytest.fixture(scope="module")
def views(head: HeadModel, cameras: list[Camera]) -> list[StereoView]:
    """Pictures of the template itself: the skin is where its vertices are. Each has a light of its own."""
    found = []
    for k, camera in enumerate(cameras):
        frame = pictured(head, [camera], head.template.vertices, 0, gain=1.0 - 0.1 * k)
        found.append(StereoView(camera, frame.images[camera.name]()))
    return found


def off_mm(head: HeadModel, found: SkinPoints) -> F64:
    """How far along its normal each point is from the true skin."""
    at = np.einsum("nc,ncd->nd", found.barycentric, head.template.vertices[head.template.faces[found.faces]])
    return np.asarray(1000 * np.einsum("nd,nd->n", found.points - at, found.normals))


@pytest.mark.parametrize("offset_mm", [-2.5, 0.0, 2.5])
def test_the_skin_is_found_from_either_side(
    head: HeadModel, stereo: Stereo, views: list[StereoView], offset_mm: float
) -> None:
    template = head.template
    start = template.vertices + offset_mm / 1000 * vertex_normals(template.vertices, template.faces)
    found = stereo.skin(start, views, REACH_M, TEXELS)
    assert found is not None
    assert len(found.faces) > 100
    off = off_mm(head, found)
    assert np.median(np.abs(off)) < 0.25
    assert abs(np.median(off)) < 0.1
    # What it says of itself counts neighbours that err together, and is no wilder than that.
    assert np.mean(np.abs(off) < 1000 * found.sigma_m) > 0.6


def test_pictures_that_do_not_agree_say_nothing(head: HeadModel, stereo: Stereo, views: list[StereoView]) -> None:
    vertices = head.template.vertices
    assert stereo.skin(vertices, views[:1], REACH_M, TEXELS) is None
    noise = np.random.default_rng(0)
    other = [replace(one, picture=noise.integers(0, 255, one.picture.shape).astype(np.uint8)) for one in views]
    assert stereo.skin(vertices, other, REACH_M, TEXELS) is None
    flat = [replace(one, picture=np.full_like(one.picture, 127)) for one in views]
    assert stereo.skin(vertices, flat, REACH_M, TEXELS) is None
    hidden = [replace(one, mask=np.zeros(one.picture.shape[:2], bool)) for one in views]
    assert stereo.skin(vertices, hidden, REACH_M, TEXELS) is None


def test_a_picture_of_another_instant_hardly_matters(head: HeadModel, stereo: Stereo, views: list[StereoView]) -> None:
    rolled = replace(views[0], picture=np.roll(views[0].picture, 9, axis=0))
    found = stereo.skin(head.template.vertices, [rolled, *views[1:]], REACH_M, TEXELS)
    assert found is not None
    assert np.median(np.abs(off_mm(head, found))) < 0.4


def test_a_fit_that_looks_at_its_pictures_is_nearer(
    head: HeadModel, face: I64, cameras: list[Camera], views: list[StereoView]
) -> None:
    # Points whose errors all pictures share, as a program's that takes the face for another: millimetres in depth.
    template = prepare_template(head.template)
    wrong = head.template.vertices.copy()
    wrong[:, 2] += 0.004 * np.sin(40 * wrong[:, 0]) + 0.003
    rng = np.random.default_rng(1)
    some = face[:: len(face) // 150]
    evidence = [seen_vertices(head.template, wrong, some, camera, rng, sigma_px=0.5) for camera in cameras]
    # They say that they may be off by three pixels, some five millimetres.
    evidence = [
        replace(one, points=replace(one.points, covariance=9 * np.tile(np.eye(2), (len(some), 1, 1))))
        for one in evidence
    ]
    frames = [FitFrame(0, 0.0, evidence)]
    settings = FitSettings(rounds=6, amplitudes=False)

    def error_mm(vertices: F64) -> float:
        normals = vertex_normals(head.template.vertices, head.template.faces)
        return 1000 * float(np.median(np.abs(((vertices - head.template.vertices) * normals).sum(axis=1)[face])))

    points = error_mm(fit_frames(head, template, frames, settings).frames[0].vertices)
    looked, known = fit_pictures(head, template, frames, lambda _: views, settings)
    assert known[0].skin is not None
    assert error_mm(looked.frames[0].vertices) < 0.4 * points
    # Where it is off, or focal lengths are unknown, nothing is looked at.
    for other in (replace(settings, stereo=False), replace(settings, focal=True, rounds=1)):
        _, known = fit_pictures(head, template, frames, lambda _: [], other)
        assert known[0].skin is None
