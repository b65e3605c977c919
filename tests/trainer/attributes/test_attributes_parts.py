"""Parts of the parameter head against geometry and light that are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from datagen.common.errors import ManifestError
from datagen.shards import Dataset
from tests.support.face_scene import build_faces, face_row, template
from trainer.align.crops import to_picture
from trainer.attributes.config import AttributesAugmentConfig, AttributesConfig, AttributesLossConfig
from trainer.attributes.data import ARRAYS, PLAIN, HeadTruth, Target, Views, sample_colours, skin_labels
from trainer.attributes.face_model import FaceModel, lay_on, learn_face_model
from trainer.attributes.light import fit_light, harmonics, linear, relative_colour, shade
from trainer.attributes.loss import attributes_loss, disagreement, nll
from trainer.attributes.network import AttributeNetwork, Attributes, posed
from trainer.attributes.pose import crop_axes, origin_of, place_of, rotation_of, turn_between
from trainer.attributes.posterior import posterior, turned_by
from trainer.config import load_run_config
from trainer.data import decode

CALM = {"photometric": 0, "background": 0, "occlusion": 0}
TURNED = AttributesAugmentConfig(**CALM, rotation_deg=40, scale=0.2, shift=0.1, people=0)
ONLY_LANDMARKS = AttributesLossConfig(
    vertices=0, parameters=0, light=0, colours=0, visibility=0, prior=0, agreement=0, landmarks=1
)
SMALL = ("network.width=4", "network.channels=8", "network.finest=8", "network.grid=3", "network.hidden=16")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_faces(tmp_path_factory.mktemp("faces") / "dataset.zarr")


@pytest.fixture(scope="module")
def face(faces: Dataset) -> FaceModel:
    return learn_face_model(faces, faces.attrs["regions"], 16)


def taken(
    faces: Dataset, face: FaceModel, config: AttributesAugmentConfig, seeds: list[int]
) -> tuple[Views, Target, dict[str, torch.Tensor]]:
    samples = np.arange(len(seeds))
    stored = faces["train"].read(ARRAYS, samples, decode=False)
    batch = {name: decode(name, torch.from_numpy(value), faces.depth_scale) for name, value in stored.items()}
    views, target = HeadTruth(faces["train"], face, skin_labels(faces)).crops(batch, samples, 48, config, seeds)
    return views, target, batch


def told(target: Target, face: FaceModel, **changes: torch.Tensor) -> Attributes:
    """What a network would say that knows the truth."""
    B = len(target.place)
    values = {
        "form": target.form,
        "expression": target.expression,
        "rotation": target.rotation,
        "place": target.place,
        "light": target.light,
        "albedo": torch.zeros(B, len(face.albedo_std)),
    } | changes
    sigmas = {
        f"log_sigma_{name}": torch.zeros(B, 3) if name == "rotation" else torch.zeros_like(value)
        for name, value in values.items()
    }
    values["points"] = target.positions
    sigmas["log_sigma_points"] = torch.zeros(target.positions.shape[:2])
    return Attributes(**values, **sigmas, visible=torch.zeros(B, len(face.vertices)))


def test_a_true_head_is_projected_to_where_the_cameras_see_it_whatever_the_crop(
    faces: Dataset, face: FaceModel
) -> None:
    """Turned, shifted, scaled and mirrored crops: rotation, place and shape together say the true places."""
    assert face.mirrored is not None
    views, target, _ = taken(faces, face, TURNED, list(range(10)))
    mirrored = ~target.named
    assert mirrored.any()
    assert (~mirrored).any()
    # Of a mirrored crop the axes are mirrored too; the head's rotation stays one.
    np.testing.assert_allclose(torch.linalg.det(views.axes), torch.where(mirrored, -1.0, 1.0), atol=1e-5)
    np.testing.assert_allclose(torch.linalg.det(target.rotation), 1, atol=1e-5)
    in_crop = target.shape @ target.rotation.transpose(1, 2)
    origin = origin_of(target.place, views.transform, views.intrinsics)
    in_camera = in_crop @ views.axes.transpose(1, 2) + origin[:, None]
    image = (in_camera / in_camera[..., 2:]) @ views.intrinsics.transpose(1, 2)
    pixels = target.positions @ views.transform[:, :, :2].transpose(1, 2) + views.transform[:, None, :, 2]
    torch.testing.assert_close(image[..., :2], pixels, atol=5e-3, rtol=0)


def test_what_the_crop_shows_does_not_depend_on_where_in_the_picture_it_was() -> None:
    """A head beside the camera's axis looks as a turned one in front of it: the same rotation in the crop's axes."""
    K = torch.tensor([[[200.0, 0, 50], [0, 200, 50], [0, 0, 1]]]).repeat(2, 1, 1)
    transform = torch.tensor([[[80.0, 0, 10], [0, 80, 10]], [[80, 0, 130], [0, 80, 10]]])
    axes = crop_axes(transform, K)
    torch.testing.assert_close(axes[0], torch.eye(3), atol=1e-6, rtol=0)
    angle = math.atan(120 / 200)
    aside = torch.tensor([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
    torch.testing.assert_close(axes[1], aside, atol=1e-6, rtol=0)


def test_places_and_turns_come_back() -> None:
    K = torch.tensor([[[200.0, 0, 50], [0, 200, 50], [0, 0, 1]]])
    transform = torch.tensor([[[60.0, -20, 30], [20, 60, 10]]])
    origin = torch.tensor([[0.03, -0.08, 0.7]])
    torch.testing.assert_close(origin_of(place_of(origin, transform, K), transform, K), origin)
    six = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    rotations = rotation_of(six)
    torch.testing.assert_close(rotations @ rotations.transpose(1, 2), torch.eye(3).expand(5, 3, 3), atol=1e-5, rtol=0)
    vector = torch.tensor([[0.3, -0.2, 0.5]])
    cross = torch.tensor([[[0, -0.5, -0.2], [0.5, 0, -0.3], [0.2, 0.3, 0]]])
    torch.testing.assert_close(
        turn_between(rotations[:1], rotations[:1] @ torch.linalg.matrix_exp(cross)), vector, atol=1e-5, rtol=0
    )


def test_the_face_model_finds_a_linear_head_of_which_only_rows_are_known(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Rows of a linear model come back from their parameters, whatever rigid motion a row was in."""
    number = len(template().vertices)
    rng = np.random.default_rng(5)
    basis = rng.normal(0, 2e-3, (3, number, 3))

    def row(person: str, frame: int) -> object:
        values = np.array([np.sin(ord(person[0]) * 3.0), np.cos(frame * 2.0), np.sin(frame * 5.0 + 1)])
        vertices = template().vertices + np.einsum("k,kvi->vi", values, basis) + 0.01 * values[0]
        return replace(
            face_row(person, frame),
            vertices=vertices.astype(np.float32),
            identity=values[:1].astype(np.float32),
            expression=values[1:].astype(np.float32),
        )

    dataset = build_faces(tmp_path_factory.mktemp("linear") / "dataset.zarr", row=row)  # type: ignore[arg-type]
    face = learn_face_model(dataset, dataset.attrs["regions"], 16)
    table = dataset["train"].frames
    expression = torch.from_numpy(table.expression)
    rows = torch.from_numpy(table.vertices(np.arange(len(table))))
    form = face.form(face.laid_on_mean(rows[:, face.vertices])[0] - face.expressed(expression))
    # Two people differ in one way, and the parameter follows from it.
    assert form.shape[1] == 1
    told, _ = face.identity(form, torch.zeros_like(form))
    torch.testing.assert_close(told, torch.from_numpy(table.identity), atol=0.05, rtol=0)
    shape = face.shape(form, expression, whole=True)
    true = torch.from_numpy(table.vertices(np.arange(len(table))))
    everywhere = torch.ones(number, dtype=torch.bool)
    laid, _ = lay_on(true, shape, everywhere)
    spread = (true - true.mean(0)).norm(dim=-1).mean()
    assert (laid - shape).norm(dim=-1).mean() < 0.15 * spread
    # A face of the mean parameters is the mean face, and in its own axes.
    mean = face.shape(torch.zeros(1, 1), face.expression_mean[None])
    torch.testing.assert_close(mean, face.mean[None])
    torch.testing.assert_close(face.laid_on_mean(mean)[1][0], torch.eye(4), atol=1e-4, rtol=0)


def test_laying_a_face_on_another_undoes_a_rigid_motion(face: FaceModel) -> None:
    turn = rotation_of(torch.tensor([[0.8, 0.6, 0.1, -0.5, 0.9, 0.2]]))
    moved = face.mean[None] @ turn.transpose(1, 2) + torch.tensor([0.3, -0.1, 0.7])
    laid, motion = lay_on(moved, face.mean, face.is_face)
    torch.testing.assert_close(laid[0], face.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(motion[:, :3, :3], turn.transpose(1, 2), atol=1e-5, rtol=0)
    # A mirrored face is not turned inside out.
    _, motion = lay_on(face.mean[None] * torch.tensor([-1.0, 1, 1]), face.mean, face.is_face)
    assert float(torch.linalg.det(motion[0, :3, :3])) == pytest.approx(1, abs=1e-4)


def test_a_face_made_another_persons_is_what_the_picture_shows(faces: Dataset, face: FaceModel) -> None:
    """Pixels move with the vertices; all pictures of a clip become one person's, and the head stays where it was."""
    calm = AttributesAugmentConfig(**CALM, rotation_deg=0, scale=0, shift=0, mirror=False, people=1, camera=0)
    samples, seeds = np.arange(4), [3, 4, 8, 9]
    stored = faces["train"].read(ARRAYS, samples, decode=False)
    batch = {name: decode(name, torch.from_numpy(value), faces.depth_scale) for name, value in stored.items()}
    # A picture that tells where each of its pixels was.
    n = batch["image"].shape[-1]
    across = ((torch.arange(n) + 0.5) / n).expand(4, n, n)
    batch["image"] = torch.stack([across, across.transpose(1, 2), 0 * across], 1)
    truth = HeadTruth(faces["train"], face, skin_labels(faces))
    views, target = truth.crops(batch, samples, 96, calm, seeds, clip=2)
    torch.testing.assert_close(target.form[::2], target.form[1::2], atol=1e-4, rtol=0)
    assert float((target.form[0] - target.form[2]).abs().max()) > 0.05
    own = truth.crops(batch, samples, 96)[1]
    torch.testing.assert_close(target.expression, own.expression)
    torch.testing.assert_close(target.rotation, own.rotation, atol=0.02, rtol=0)
    seen = target.visible & face.is_face
    came_from = sample_colours(views.images, target.positions)[..., :2] * n
    now, before = to_picture(target.positions, views.transform), truth.seen(stored, samples).pixels
    moved = (now - before).norm(dim=-1)[seen]
    left = (came_from - before).norm(dim=-1)[seen]
    assert float(moved.mean()) > 0.5
    assert float(left.median()) < 0.25 * float(moved.median())


def test_points_and_geometry_tell_pose_and_shape(faces: Dataset, face: FaceModel) -> None:
    """What heads say wrongly and unsurely is mended as far as points tell; what they are sure of stays."""
    views, target, _ = taken(faces, face, PLAIN, [0, 1, 2])
    turned = target.rotation @ turned_by(torch.tensor([[0.1, -0.08, 0.05]]).expand(3, -1))
    wrong = told(target, face, form=target.form + 0.5, rotation=turned, place=target.place + 0.03)
    sure = {"log_sigma_place": torch.full((3, 3), -3.0), "log_sigma_rotation": torch.full((3, 3), -2.0)}
    unsure = replace(wrong, **sure, log_sigma_points=torch.full_like(wrong.log_sigma_points, -6.0))
    found = posterior(unsure, face, views)
    before, after = (
        face.landmarks(posed(said, face, views).positions - wrong.points).norm(dim=-1).mean()
        for said in (unsure, found)
    )
    assert float(after) < 0.1 * float(before)
    assert (found.log_sigma_rotation < unsure.log_sigma_rotation).all()
    # The other way round: points that know nothing.
    vague = replace(unsure, log_sigma_points=torch.full_like(wrong.log_sigma_points, 6.0))
    kept = posterior(vague, face, views)
    torch.testing.assert_close(kept.form, vague.form, atol=1e-3, rtol=0)
    torch.testing.assert_close(kept.log_sigma_place, vague.log_sigma_place, atol=1e-3, rtol=0)


def test_the_size_of_a_face_is_told_by_the_camera_or_not_at_all(face: FaceModel) -> None:
    config = load_run_config(AttributesConfig, "tiny", (*SMALL, "network.image_size=48"), prefix="attributes")
    model = AttributeNetwork(config, face).eval()
    model.angles.copy_(torch.tensor([-1.0, 0.1]))
    image = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1)
    # Usual, larger, farther from all that was learnt than anything, and not known.
    found = model(image, torch.tensor([-1.0, -0.9, 1.0, torch.nan]))
    assert found.place[1, 2].item() - found.place[0, 2].item() == pytest.approx(0.1, abs=0.02)
    torch.testing.assert_close(found.place[2], found.place[3])
    torch.testing.assert_close(found.form[2], found.form[3])
    assert not torch.equal(found.form[0], found.form[1])


def test_light_and_the_colour_of_skin_are_told_from_a_ball() -> None:
    grid = (torch.arange(64) + 0.5) / 32 - 1
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    inside = x * x + y * y < 0.95
    normals = torch.stack([x, y, -(1 - x * x - y * y).clamp(min=0).sqrt()])[None]
    light = torch.zeros(1, 9, 3)
    light[0, 0], light[0, 1], light[0, 2] = 0.4, torch.tensor([0.15, 0.1, 0.05]), -0.1
    colours = shade(light.flatten(1), normals.flatten(2).transpose(1, 2))
    encoded = torch.where(colours <= 0.0031308, 12.92 * colours, 1.055 * colours.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
    torch.testing.assert_close(linear(encoded.clamp(0, 1)), colours.clamp(0, 1), atol=1e-4, rtol=0)
    image = encoded.transpose(1, 2).reshape(1, 3, 64, 64)
    found, known = fit_light(image, normals, inside[None].float())
    assert bool(known[0])
    seen = inside.flatten()
    shown = shade(found, normals.flatten(2).transpose(1, 2))
    assert float((shown - colours)[0, seen].abs().max()) < 0.02
    spot = torch.where(x.flatten()[:, None] > 0, 0.5, 1.0) * colours[0]
    ratio = relative_colour(spot[None], colours)[0, seen]
    assert sorted(torch.unique(ratio.round(decimals=2)).tolist()) == [0.5, 1.0]
    # Too little skin tells nothing.
    assert not bool(fit_light(image, normals, torch.zeros(1, 64, 64))[1][0])


def test_harmonics_turn_with_a_head_as_light_does() -> None:
    """The nine functions span what turned ones are: each turned function is a sum of the nine."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=-1)
    turn = rotation_of(torch.tensor([[0.2, 0.9, -0.4, 0.7, 0.1, 0.5]]))[0]
    basis, turned = harmonics(directions), harmonics(directions @ turn.T)
    weights = torch.linalg.lstsq(basis, turned).solution
    torch.testing.assert_close(basis @ weights, turned, atol=1e-5, rtol=0)


def test_landmarks_alone_ask_for_nothing_that_only_labels_tell(faces: Dataset, face: FaceModel) -> None:
    views, target, _ = taken(faces, face, TURNED, [0, 1, 2, 3])

    def loss(other: Target) -> torch.Tensor:
        said = told(target, face, form=target.form + 0.5)
        return attributes_loss(said, posed(said, face, views), views, other, face, ONLY_LANDMARKS, clip=2)["loss"]

    unknown = replace(
        target,
        shape=torch.full_like(target.shape, torch.nan),
        rotation=torch.full_like(target.rotation, torch.nan),
        place=torch.full_like(target.place, torch.nan),
        form=torch.full_like(target.form, torch.nan),
        identity=torch.full_like(target.identity, torch.nan),
        expression=torch.full_like(target.expression, torch.nan),
        light=torch.full_like(target.light, torch.nan),
        visible=~target.visible,
    )
    assert float(loss(target)) > 0
    torch.testing.assert_close(loss(unknown), loss(target))
    moved = replace(target, positions=target.positions + 0.1)
    assert abs(float(loss(moved)) - float(loss(target))) > 1e-3


def test_a_mirrored_person_is_asked_for_no_expression_by_its_parameters(faces: Dataset, face: FaceModel) -> None:
    views, target, _ = taken(faces, face, TURNED, list(range(8)))
    config = AttributesLossConfig(
        vertices=0, landmarks=0, light=0, colours=0, visibility=0, prior=0, agreement=0, parameters=1
    )

    def loss(which: torch.Tensor) -> float:
        said = told(target, face, expression=target.expression + 3 * which.float()[:, None])
        return float(attributes_loss(said, posed(said, face, views), views, target, face, config, clip=1)["loss"])

    true = loss(torch.zeros(8, dtype=torch.bool))
    assert loss(~target.named) == pytest.approx(true)
    assert loss(target.named) > true + 1


def test_likelihood_is_greatest_where_sigma_is_the_error() -> None:
    error, log_sigma = torch.full((50,), 0.2), torch.linspace(-4, 1, 50)
    assert float(log_sigma[nll(error, log_sigma).argmin()]) == pytest.approx(math.log(0.2), abs=0.1)


def test_pictures_of_one_person_disagree_by_their_variance() -> None:
    values = torch.tensor([[0.0], [2.0], [5.0], [5.0]])
    assert float(disagreement(values, 2)) == pytest.approx((2 + 0) / 2)
    assert float(disagreement(values[:, :0], 2)) == 0


@pytest.mark.parametrize(
    ("encoder", "fusion", "more"),
    [
        ("convolutional", "large_kernel", ()),
        ("convolutional", "dpt", ()),
        ("segformer", "large_kernel", ("network.segformer=b0",)),
        ("transformer", "large_kernel", ("backbone.dim=16", "backbone.heads=2", "backbone.blocks=4")),
    ],
)
def test_every_encoder_and_fusion_tells_all_attributes(
    face: FaceModel, encoder: str, fusion: str, more: tuple[str, ...]
) -> None:
    changes = (*SMALL, *more, f"network.encoder={encoder}", f"network.fusion={fusion}", "network.image_size=56")
    torch.manual_seed(0)
    model = AttributeNetwork(load_run_config(AttributesConfig, "tiny", changes, prefix="attributes"), face)
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    found = model(images, torch.tensor([0.1, torch.nan]))
    assert found.form.shape == found.log_sigma_form.shape == (2, 1)
    assert found.expression.shape == (2, 2)
    assert found.light.shape == (2, 27)
    assert found.visible.shape == (2, len(face.vertices))
    torch.testing.assert_close(torch.linalg.det(found.rotation), torch.ones(2))
    # It begins near what it knows of the training people.
    assert (found.form.abs() < 1).all()
    # Each map has a part in it.
    sum(value.sum() for value in vars(found).values() if value.requires_grad).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None and "camera_tokens" not in name]
    assert [name for name in idle if "scales" in name or "fusion" in name] == []


def test_settings_that_would_do_nothing_are_refused() -> None:
    for changes, message in (
        (("network.weights=somewhere",), "set encoder"),
        (("loss.anchor=1",), "set start"),
        (("loss.points=0",), "loss.points alone"),
        (("fit.steps=20",), "none of the 20 steps"),
        (("fit.layer_decay=0.9",), "change nothing"),
        (("backbone.dim=64",), "set network.encoder"),
        (("network.encoder=transformer", "network.image_size=100"), "multiple of"),
        (tuple(f"loss.{name}=0" for name in AttributesLossConfig.model_fields), "all weights"),
    ):
        with pytest.raises(ManifestError, match=message):
            load_run_config(AttributesConfig, "tiny", changes, prefix="attributes")
