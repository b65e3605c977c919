"""Images of simulated captures: light, colour and noise against what they should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from render_scenes import camera_at, sphere

from datagen.errors import CameraError, InputError, MeshError
from datagen.geometry.mesh import vertex_normals
from datagen.heads.regions import REGIONS
from datagen.render.albedo import skin_albedo, skin_gloss
from datagen.render.backends.numba_backend import NumbaRenderer
from datagen.render.light import harmonics, light_from, random_background, random_light
from datagen.render.occlusion import ambient_occlusion, golden_spiral
from datagen.render.shading import encode_srgb, shade_image

RASTERISER = NumbaRenderer(threads=1)
V, F = sphere(48)
N = vertex_normals(V, F)
CAMERA = camera_at(0.2, size=96)
GREY = np.full((96, 96, 3), 0.5, np.float32)


def shade(light, albedo=0.4, seed=0, background=GREY, **options):
    colours = np.full((len(V), 3), albedo, np.float32)
    rng = np.random.default_rng(seed)
    return shade_image(V, F, N, colours, CAMERA, RASTERISER, light, background, rng, **options)


def ambient(level):
    return light_from([[0, 0, 1]], [[0, 0, 0]], [level] * 3)


def test_distant_light_is_a_clamped_cosine_to_second_order():
    """Ramamoorthi & Hanrahan 2001: nine coefficients hold irradiance to a few per cent."""
    normals = golden_spiral(500)
    key = np.array([0.6, 0.0, 0.8])
    light = light_from([key], [[1, 2, 3]], [0, 0, 0])
    irradiance = harmonics(normals) @ light.irradiance
    cosine = normals @ key
    np.testing.assert_allclose(irradiance[:, 0], 0.25 + cosine / 2 + 5 / 32 * (3 * cosine**2 - 1), atol=1e-5)
    assert np.abs(irradiance[:, 0] - np.maximum(cosine, 0)).max() < 0.1
    np.testing.assert_allclose(irradiance[:, 2], 3 * irradiance[:, 0])
    np.testing.assert_allclose(harmonics(normals) @ ambient(0.3).irradiance, 0.3, atol=1e-6)


def test_harmonics_are_orthonormal():
    normals = golden_spiral(20_000)
    gram = harmonics(normals).T @ harmonics(normals) * 4 * np.pi / len(normals)
    np.testing.assert_allclose(gram, np.eye(9), atol=1e-3)


def test_uniform_light_shows_albedo_times_light():
    image, mask = shade(ambient(0.5), albedo=0.4)
    expected = encode_srgb(np.array([0.2], np.float32))[0]
    core = image[40:56, 40:56].astype(float)
    assert mask.sum() > 1000
    assert abs(core.mean() - expected) < 1.0
    outside = image[:6, :6].astype(float)
    assert abs(outside.mean() - encode_srgb(np.array([0.5], np.float32))[0]) < 1.0


def test_the_lit_side_is_brighter_and_wet_skin_has_a_highlight():
    light = light_from([[1, 0, 0.6]], [[0.8, 0.8, 0.8]], [0.1, 0.1, 0.1])
    matt, mask = shade(light, gloss=np.zeros(len(V)))
    columns = np.nonzero(mask[48])[0]
    left, right = matt[48, columns[8]].mean(), matt[48, columns[-9]].mean()
    assert right > left + 40  # +x of the world is on the right of a camera that looks along −z
    wet, _ = shade(light, gloss=np.ones(len(V)))
    assert wet.max() > matt.max() + 30
    assert np.median(wet[mask].astype(int) - matt[mask]) < 3


def test_occlusion_darkens_the_surface_only():
    light = ambient(0.5)
    full, mask = shade(light)
    half, _ = shade(light, occlusion=np.full(len(V), 0.5))
    assert (half[48, 48] < full[48, 48]).all()
    np.testing.assert_array_equal(half[:5], full[:5])
    assert mask.any()


def test_the_mask_is_the_silhouette_and_edges_are_blended():
    image, mask = shade(ambient(1.0), albedo=0.9, background=np.zeros((96, 96, 3), np.float32))
    hit = RASTERISER.rasterise(V, F, [CAMERA])[0].face >= 0
    assert (mask != hit).sum() < 0.03 * hit.sum()
    middle = (image.mean(axis=2) > 60) & (image.mean(axis=2) < 200)
    assert middle.sum() > 50


def test_noise_follows_shot_and_read_noise_and_the_generator():
    image, _ = shade(ambient(0.0), albedo=0.0)
    again, _ = shade(ambient(0.0), albedo=0.0)
    other, _ = shade(ambient(0.0), albedo=0.0, seed=1)
    np.testing.assert_array_equal(image, again)
    assert (image != other).any()
    # At half of white: sigma² = 0.5 / 6000 + 0.0015², through the slope of the sRGB curve there.
    slope = 255 * 1.055 / 2.4 * 0.5 ** (1 / 2.4 - 1)
    expected = np.sqrt((0.5 / 6000 + 0.0015**2) * slope**2 + 1 / 12)
    np.testing.assert_allclose(image[:6].astype(float).std(), expected, rtol=0.1)


def test_srgb_reference_values():
    linear = np.array([-1, 0, 0.0031308, 0.21404, 1, 7], np.float32)
    np.testing.assert_allclose(encode_srgb(linear).astype(int), [0, 0, 10, 128, 255, 255], atol=1)


def head_points(n=4000):
    """Points on an ellipsoid with the regions the colours depend on, roughly where a face has them."""
    points = golden_spiral(n) * [0.7, 0.95, 0.85]
    labels = np.full(n, REGIONS["cheeks"], np.uint8)
    front = points[:, 2] > 0.3
    y = points[:, 1]
    labels[y > 0.55] = REGIONS["scalp"]
    labels[front & (y > 0.2) & (y < 0.3)] = REGIONS["brows"]
    labels[front & (np.abs(points[:, 0]) < 0.15) & (y > -0.2) & (y < 0.2)] = REGIONS["nose"]
    labels[front & (np.abs(points[:, 0]) < 0.3) & (y > -0.45) & (y < -0.3)] = REGIONS["lower_lip"]
    labels[y < -0.55] = REGIONS["chin"]
    eye = golden_spiral(n // 8) * 0.08 + [0.25, 0.15, 0.7]
    return np.concatenate([points, eye]), np.concatenate([labels, np.full(len(eye), REGIONS["left_eyeball"], np.uint8)])


def test_people_differ_and_the_same_person_stays():
    points, labels = head_points()
    cheeks = labels == REGIONS["cheeks"]
    tones = np.array([skin_albedo(points, labels, np.random.default_rng(s))[cheeks].mean(axis=0) for s in range(30)])
    assert tones[:, 1].max() > 3 * tones[:, 1].min()
    assert (tones[:, 0] > tones[:, 1]).all()
    assert (tones[:, 1] > tones[:, 2]).all()
    first, second = (skin_albedo(points, labels, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert 0 < first.min() <= first.max() < 1


def test_colour_belongs_to_canonical_space_not_to_the_sampling():
    points, _ = head_points()
    labels = np.full(len(points), REGIONS["forehead"], np.uint8)
    whole = skin_albedo(points, labels, np.random.default_rng(2))
    order = np.random.default_rng(0).permutation(len(points))[:900]
    part = skin_albedo(points[order], labels[order], np.random.default_rng(2))
    np.testing.assert_allclose(part, whole[order], atol=1e-5)


def test_lips_are_redder_and_brows_darker_than_cheeks():
    points, labels = head_points()
    for seed in range(8):
        colour = skin_albedo(points, labels, np.random.default_rng(seed))
        cheek, lip, brow = (colour[labels == REGIONS[name]] for name in ("cheeks", "lower_lip", "brows"))
        assert np.median(lip[:, 0] / lip[:, 1]) > 1.1 * np.median(cheek[:, 0] / cheek[:, 1])
        assert np.median(brow.sum(axis=1)) < np.median(cheek.sum(axis=1))


def test_eyes_have_a_pupil_an_iris_and_a_white():
    points, labels = head_points(40_000)
    eye = labels == REGIONS["left_eyeball"]
    colour = skin_albedo(points, labels, np.random.default_rng(0))[eye]
    local = (points[eye] - [0.25, 0.15, 0.7]) / 0.08
    off_axis = np.where(local[:, 2] > 0, np.hypot(local[:, 0], local[:, 1]), 2)
    assert colour[off_axis < 0.1].max() < 0.05
    white = colour[(off_axis > 0.6) & (off_axis < 0.9)]
    assert white.min() > 0.4
    iris = colour[(off_axis > 0.28) & (off_axis < 0.42)]
    assert iris.max() < white.min()


def test_unknown_points_are_grey_and_mismatched_arrays_refused():
    points, labels = head_points(500)
    points[:7] = np.nan
    colour = skin_albedo(points, labels, np.random.default_rng(0))
    assert np.isfinite(colour).all()
    assert (colour[:7] == colour[0, 0]).all()
    assert np.isfinite(skin_albedo(np.full((5, 3), np.nan), np.zeros(5, np.uint8), np.random.default_rng(0))).all()
    with pytest.raises(InputError):
        skin_albedo(points, labels[:-1], np.random.default_rng(0))


def test_eyes_are_wetter_than_skin():
    gloss = skin_gloss(np.array([REGIONS["cheeks"], REGIONS["lower_lip"], REGIONS["left_eyeball"]]))
    assert gloss[0] < gloss[1] < gloss[2] <= 1


def test_convex_bodies_are_unoccluded_and_hollows_are_not():
    open_sky = ambient_occlusion(V, F, N, RASTERISER)
    assert open_sky.min() > 0.98
    # A cup: the lower half of a sphere seen from within; its bottom sees only the opening's share of the sky.
    cup = F[(V[F][:, :, 1] < 0.001).all(axis=1)]
    inside = ambient_occlusion(V, cup, -N, RASTERISER, directions=200)
    bottom = np.argmin(V[:, 1])
    rim_angle = np.arctan2(0.09, 0.12)
    np.testing.assert_allclose(inside[bottom], np.sin(rim_angle) ** 2, atol=0.12)


def test_random_draws_are_plausible_and_repeatable():
    for seed in range(20):
        light, background = (
            random_light(np.random.default_rng(seed)),
            random_background(30, 40, np.random.default_rng(seed)),
        )
        front = harmonics(np.array([0.0, 0.0, 1.0])) @ light.irradiance
        assert 0.2 < front.min() <= front.max() < 1.8
        np.testing.assert_allclose(np.linalg.norm(light.key_direction), 1)
        assert background.shape == (30, 40, 3)
        assert 0 <= background.min() <= background.max() <= 1
    again = random_light(np.random.default_rng(19))
    np.testing.assert_array_equal(again.irradiance, light.irradiance)


def test_bad_arguments_are_refused():
    light = ambient(0.5)
    with pytest.raises(CameraError, match="background"):
        shade(light, background=GREY[:50])
    with pytest.raises(MeshError, match="gloss"):
        shade(light, gloss=np.zeros(3))
    with pytest.raises(MeshError, match="NaN"):
        shade_image(V * np.nan, F, N, N, CAMERA, RASTERISER, light, GREY, np.random.default_rng(0))
    with pytest.raises(CameraError):
        shade_image(V, F, N, N, replace(CAMERA, height=0), RASTERISER, light, GREY[:0], np.random.default_rng(0))
