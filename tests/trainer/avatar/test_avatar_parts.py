"""Parts of an avatar against geometry, colours and motion that are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datagen.common.errors import DatasetError, InputError, ManifestError
from datagen.common.settings import parse
from tests.support.avatar_scene import build_person, pattern
from tests.support.face_scene import HALF_EXTENT_M, template
from trainer.attributes.data import Views
from trainer.attributes.pose import project
from trainer.avatar.appearance import AppearanceModel, Basis, principal_shapes
from trainer.avatar.clip import Clip, read_clip
from trainer.avatar.colour import colour_distance, corrected, fit_colour
from trainer.avatar.config import AdaptConfig, AvatarConfig, AvatarNetworkConfig
from trainer.avatar.data import Studio, Truth, studio_person
from trainer.avatar.measure import motion_metrics
from trainer.avatar.network import Avatar
from trainer.avatar.relight import relit
from trainer.avatar.skin import Skin, learn_skin
from trainer.avatar.unwrap import fine_detail, texel_weights, unwrap
from trainer.config import load_run_config
from trainer.prediction.boxed import PictureOptions

MATRIX = torch.tensor([[0.75, 0.1, 0.0], [0.0, 0.7, 0.05], [0.05, 0.1, 0.9]])


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    dataset = build_person(tmp_path_factory.mktemp("person") / "dataset.zarr")
    skin = learn_skin(dataset.template, dataset.attrs["regions"], 32)
    return Studio(dataset, skin, torch.from_numpy(dataset.template.vertices)[skin.vertices])


@pytest.fixture(scope="module")
def seen(studio: Studio) -> tuple[Views, Truth]:
    samples = np.array([0, 5, 14, 20])
    return studio.crops(studio.batch(samples), samples, 84)


def test_what_is_unwrapped_through_the_true_mesh_is_the_skin_s_own_colour(
    studio: Studio, seen: tuple[Views, Truth]
) -> None:
    """Of every texel that counts, in every picture, although the face bends and turns."""
    views, truth = seen
    texture = unwrap(views, truth.driven.in_camera, studio.skin)
    canonical = torch.from_numpy(template().vertices)[studio.skin.vertices] / HALF_EXTENT_M
    places = studio.skin.at_texels(canonical[None])[0].T.double().numpy()
    expected = torch.from_numpy(pattern(places)).float().T
    believed = texture.weights > 0.4
    assert believed.float().mean() > 0.2
    error = (texture.colours - expected).abs().mean(-1)[believed]
    # A ball hangs before the face, of which the skin knows nothing: where it is seen, it is taken for skin.
    assert error.median() < 0.005
    assert error.quantile(0.9) < 0.03
    shown = studio.skin.square(texture.colours)
    assert shown.shape == (4, 3, 32, 32)
    assert torch.equal(shown.flatten(2)[:, :, studio.skin.texels].transpose(1, 2), texture.colours)


def plates(turn: float = 1.0) -> tuple[Skin, torch.Tensor]:
    """A small plate a decimetre before the middle of a large one, both towards the camera; every texel a vertex."""
    n = 41
    y, x = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    plate = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    number = torch.arange(n * n).reshape(n, n)
    a, b, c, d = (part.flatten() for part in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    triangles = torch.cat([torch.stack([a, c, b], -1), torch.stack([b, c, d], -1)])
    both = torch.cat([0.1 * plate + torch.tensor([0, 0, 1.0]), 0.04 * plate + torch.tensor([0, 0, 0.9])])
    every = torch.arange(2 * n * n)
    shares = torch.tensor([1.0, 0, 0]).expand(len(every), 3)
    triangles = torch.cat([triangles, triangles + n * n])
    if turn < 0:
        triangles = triangles[:, [0, 2, 1]]
    skin = Skin(every, every >= 0, triangles, every[:, None].expand(-1, 3), shares, every, 58)
    return skin, both[None]


def test_what_is_turned_away_hidden_or_beyond_the_picture_does_not_count() -> None:
    skin, points = plates()
    K = torch.tensor([[[500.0, 0, 50], [0, 500, 50], [0, 0, 1]]])
    transform = torch.tensor([[[100.0, 0, 0], [0, 100, 0]]])
    places = project(points, transform, K)
    weights = texel_weights(points, points, places, skin)[0]
    back, front = weights[:1681].reshape(41, 41), weights[1681:].reshape(41, 41)
    assert bool((front > 0.99).all())
    # The small plate covers 4 / 9 × 10 of the large one's half side; cells are 1 / 16 of it.
    assert bool((back[13:28, 13:28] == 0).all())
    assert bool((back[1:10, 1:-1] > 0.95).all())
    assert bool((back[1:-1, 32:-1] > 0.95).all())
    turned, _ = plates(-1)
    assert float(texel_weights(points, points, places, turned).abs().max()) == 0
    aside = texel_weights(points, points, places + torch.tensor([0.6, 0]), skin)[0, :1681].reshape(41, 41)
    assert bool((aside[:, 21:] == 0).all())
    assert bool((aside[1:-1, 1:7] > 0.9).all())


def test_textures_say_where_the_mesh_should_go(studio: Studio, seen: tuple[Views, Truth]) -> None:
    """Colours have a gradient by the mesh's place, weights have none, and it leads back to the true place."""
    views, truth = seen
    shift = torch.full((1, 1, 3), 2e-3).mul(torch.tensor([1.0, 0.5, 0.0])).requires_grad_()
    texture = unwrap(views, truth.driven.in_camera + shift, studio.skin)
    assert not texture.weights.requires_grad
    distance = (texture.colours - truth.texture.colours).square().sum(-1) * truth.texture.weights
    (gradient,) = torch.autograd.grad(distance.sum(), shift)
    assert float(gradient[..., 0]) > 0
    assert float(gradient[..., 1]) > 0


def test_the_colours_of_another_camera_are_found_though_some_texels_lie() -> None:
    draws = torch.Generator().manual_seed(3)
    source = 0.1 + 0.5 * torch.rand(4000, 3, generator=draws)
    target = corrected(source, MATRIX) + 0.003 * torch.randn(4000, 3, generator=draws)
    assert colour_distance(fit_colour(source, target, torch.ones(4000)), MATRIX) < 0.01
    target[:400] = torch.rand(400, 3, generator=draws)
    assert colour_distance(fit_colour(source, target, torch.ones(4000)), MATRIX) < 0.05
    weights = torch.ones(4000)
    weights[:400] = 0
    assert colour_distance(fit_colour(source, target, weights), MATRIX) < 0.01
    # Grey alone tells brightness alone: the rest is left as it was.
    grey = source.mean(1, keepdim=True).expand(-1, 3)
    torch.testing.assert_close(fit_colour(grey, 0.5 * grey, weights), 0.5 * torch.eye(3), atol=2e-3, rtol=0)
    assert colour_distance(MATRIX, 3 * MATRIX) == pytest.approx(0, abs=1e-6)


def test_fine_detail_is_the_skin_s_whatever_the_light(studio: Studio, seen: tuple[Views, Truth]) -> None:
    """Twice as bright, of another white balance, lit from one side: the same. Moved by a few texels: not."""
    _, truth = seen
    texture, skin = truth.texture, studio.skin
    spots = 1 + 0.5 * (torch.arange(len(skin.texels)) % 7 == 0).float()[None, :, None]
    colours = 0.3 * spots.expand(4, -1, 3)
    across = (skin.texels % skin.size).float() / skin.size
    lit = colours * (0.5 + across)[None, :, None] * torch.tensor([1.4, 1.0, 0.7])
    plain, other = (fine_detail(c, texture.weights, skin, c.mean()) for c in (colours, lit))
    believed = texture.weights > 0.4
    spread = plain[believed].std()
    assert float((plain - other)[believed].abs().mean()) < 0.2 * float(spread)
    moved = fine_detail(colours.roll(3, 1), texture.weights, skin, colours.mean())
    assert float((plain - moved)[believed].abs().mean()) > 0.6 * float(spread)
    assert float(plain[texture.weights == 0].abs().max()) == 0


def test_another_lamp_shades_the_head_alone_by_its_normals() -> None:
    """Flat sides keep one shade each, background stays; and the same seeds draw the same lamps."""
    normals = torch.zeros(6, 3, 8, 8)
    normals[:, 0, :, 1:4], normals[:, 0, :, 4:7], normals[:, 2, :, 1:7] = -0.8, 0.8, -0.6
    images = torch.full((6, 3, 8, 8), 0.4)
    found = relit(images, normals, range(6), 1)
    assert torch.equal(found, relit(images, normals, range(6), 1))
    assert torch.equal(found[..., 0], images[..., 0])
    assert torch.equal(relit(images, normals, range(6), 0), images)
    assert bool((found[..., 1:4].flatten(2).std(-1) < 1e-6).all())
    left, right = found[..., 2].mean((1, 2)), found[..., 5].mean((1, 2))
    assert bool(((left > 1.1 * right) | (right > 1.1 * left)).any())
    # A lamp from the left, where normals look there; from above, no side is brighter than the other.
    assert bool(((left - right).sign() != (left - right).sign()[0]).any())
    some = relit(images, normals, range(6), 0.5)
    changed = (some != images).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 6
    assert torch.equal(some[changed], found[changed])


def test_shapes_are_the_person_s_own() -> None:
    draws = torch.Generator().manual_seed(5)
    basis = torch.randn(3, 20, 3, generator=draws)
    shapes = torch.einsum("bk,kvi->bvi", torch.randn(30, 3, generator=draws), basis) + 1
    mean, found = principal_shapes(shapes, 8)
    assert len(found) == 3
    flat = found.flatten(1)
    weights = (shapes - mean).flatten(1) @ flat.T / flat.square().sum(1)
    torch.testing.assert_close(weights @ flat, (shapes - mean).flatten(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(weights.std(0), torch.ones(3), atol=1e-3, rtol=0)
    assert len(principal_shapes(shapes, 2)[1]) == 2
    mean, found = principal_shapes(shapes[:1].repeat(4, 1, 1), 8)
    assert found.shape == (1, 20, 3)
    assert bool(found.isfinite().all())


def test_an_avatar_gives_back_meshes_of_its_shapes() -> None:
    basis = Basis(torch.rand(20, 3), torch.rand(2, 20, 3), torch.rand(15, 3))
    model = AppearanceModel(AvatarNetworkConfig(state=4, hidden=16), basis)
    mean, log_variance = model.encode(basis.mean[None], basis.texture[None], torch.ones(1, 15))
    assert mean.shape == log_variance.shape == (1, 4)
    moved = (model.shape(torch.randn(5, 4)) - basis.mean).flatten(1)
    told = moved @ torch.linalg.pinv(basis.shapes.flatten(1))
    torch.testing.assert_close(told @ basis.shapes.flatten(1), moved, atol=1e-4, rtol=1e-3)
    # What is not seen of a texture changes no state.
    other = basis.texture[None].clone()
    other[:, 3] = 9
    hidden = torch.ones(1, 15)
    hidden[:, 3] = 0
    assert torch.equal(
        model.encode(basis.mean[None], other, hidden)[0], model.encode(basis.mean[None], basis.texture[None], hidden)[0]
    )


def test_figures_of_motion_tell_place_shape_and_tremble_apart() -> None:
    draws = torch.Generator().manual_seed(1)
    rest, wave = torch.randn(50, 3, generator=draws).double(), torch.randn(50, 3, generator=draws).double()
    times = torch.arange(60).double()
    true = 0.05 * rest + 0.004 * torch.sin(times / 6)[:, None, None] * wave + torch.tensor([0, 0, 1.0])
    K = torch.tensor([[500.0, 0, 50], [0, 500, 50], [0, 0, 1]]).double().expand(60, 3, 3)
    exact = motion_metrics(true, true, K)
    assert {name: round(value, 6) for name, value in exact.items()} == {
        "vertices_mm": 0, "laid_mm": 0, "pixels": 0, "jitter_mm": 0, "laid_jitter_mm": 0, "motion": 1,
    }  # fmt: skip
    shifted = motion_metrics(true + torch.tensor([0, 0, 0.01]), true, K)
    assert shifted["vertices_mm"] == pytest.approx(10)
    assert shifted["laid_mm"] == pytest.approx(0, abs=1e-6)
    assert shifted["jitter_mm"] == pytest.approx(0, abs=1e-9)
    # Independent noise of σ: second differences have √6 σ an axis.
    noise = 1e-3 * torch.randn(60, 1, 3, generator=draws).double()
    trembling = motion_metrics(true + noise, true, K)
    assert trembling["jitter_mm"] == pytest.approx(math.sqrt(6) * 2 * math.sqrt(2 / math.pi), rel=0.15)
    assert trembling["laid_jitter_mm"] == pytest.approx(0, abs=1e-6)
    assert trembling["motion"] == pytest.approx(1, rel=1e-6)
    # A face that never moves does not pass for one that trembles little.
    frozen = motion_metrics(true[:1].expand_as(true), true, K)
    assert frozen["motion"] == pytest.approx(0, abs=1e-6)
    assert frozen["jitter_mm"] > 0.05
    assert math.isnan(motion_metrics(true[:2], true[:2], K[:2])["jitter_mm"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("fit.val_every=7",), "val_every change nothing"),
        (("fit.backbone_rate=0.5", "fit.compile=true"), "backbone_rate, fit.compile change nothing"),
        (("loss.positions=0",), "none may be 0"),
        (("augment.mirror=true",), "mirror"),
        (("network.image_size=50",), "multiple of 16"),
    ],
)
def test_keys_that_change_nothing_or_leave_nothing_are_refused(changes: tuple[str, ...], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        load_run_config(AvatarConfig, "tiny", changes, prefix="avatar")


def test_an_adaptation_asks_for_something() -> None:
    with pytest.raises(ManifestError, match="nothing is learnt from the clip"):
        parse(AdaptConfig, {"consistency": 0, "appearance": 0, "detail": 0}, "x", "y")
    with pytest.raises(ManifestError, match="studio_rise"):
        parse(AdaptConfig, {"studio_rise": 1}, "x", "y")


def test_a_studio_shows_one_person(tmp_path: Path) -> None:
    assert studio_person(build_person(tmp_path / "one.zarr")) == "ada"
    with pytest.raises(DatasetError, match="shows 2 people"):
        studio_person(build_person(tmp_path / "two.zarr", persons=("ada", "ben")))


def photos(folder: Path, count: int = 3) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{k}.png" for k in range(count)]
    for k, path in enumerate(paths):
        Image.fromarray(np.full((60, 80, 3), 20 * k, np.uint8)).save(path)
    return paths


def test_a_clip_is_its_pictures_in_order_cut_to_the_face(tmp_path: Path) -> None:
    paths = photos(tmp_path / "clip", 11)
    boxed = PictureOptions(box=(20, 10, 60, 50))
    clip = read_clip([tmp_path / "clip"], boxed, 32)
    assert clip.names == tuple(f"{k}.png" for k in range(11))
    assert clip.crops.shape == (11, 3, 32, 32)
    assert clip.crops.float().mean((1, 2, 3)).tolist() == [20 * k for k in range(11)]
    assert clip.intrinsics[0].tolist() == [[96, 0, 40], [0, 96, 30], [0, 0, 1]]
    corners = clip.transform[0] @ torch.tensor([[0.0, 1], [0, 1], [1, 1]])
    torch.testing.assert_close(corners, torch.tensor([[16.0, 64], [6, 54]]))
    views = clip.views(torch.tensor([2, 5]))
    assert views.images.shape == (2, 3, 32, 32)
    assert float(views.images.max()) <= 1
    named = read_clip(paths[3:5], PictureOptions(), 32, focal_px=100)
    assert named.names == ("3.png", "4.png")
    assert float(named.intrinsics[0, 0, 0]) == 100


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    paths = photos(tmp_path / "clip")
    (tmp_path / "none").mkdir()
    (tmp_path / "boxes.json").write_text('{"0.png": [1, 2, 30, 40]}')
    for k, camera in enumerate(("left", "right")):
        photos(tmp_path / "rig" / camera, 2 + k)
    for sources, options, said in (
        ([tmp_path / "none"], PictureOptions(), "holds no images"),
        (paths[:1], PictureOptions(), "1 picture"),
        ([tmp_path / "gone.png", *paths], PictureOptions(), "is no picture"),
        ([tmp_path / "clip"], PictureOptions(boxes=tmp_path / "boxes.json"), "has no box of 1.png"),
        ([tmp_path / "clip"], PictureOptions(box=(100, 100, 120, 120)), "lies outside"),
        ([tmp_path / "clip"], PictureOptions(box=(30, 30, 20, 40)), "right > left"),
        ([tmp_path / "rig"], PictureOptions(pattern="{camera}/{frame}.png"), "several pictures of its instant"),
    ):
        with pytest.raises(InputError, match=said):
            read_clip(sources, options, 32)


def test_parts_move_to_a_device(studio: Studio) -> None:
    device = torch.device("meta")
    assert studio.skin.to(device).corners.device == device
    assert Skin(**studio.skin.content()).size == 32
    clip = Clip(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 2, 3), torch.zeros(2, 3, 3), ("a", "b"))
    assert clip.to(device).crops.device == device
    basis = Basis(torch.rand(4, 3), torch.rand(1, 4, 3), torch.rand(2, 3))
    assert Avatar(AvatarNetworkConfig(image_size=32), basis, studio.skin).image_size == 32
