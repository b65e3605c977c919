"""What each change of a clip does to every map that may be in it, normals and regions among them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.augmentation import augment, crop, mirror, occlude, photometric
from trainer.config import AugmentConfig

MAPS = ("depth", "canonical", "confidence", "region", "normal", "edge")
HEIGHT, WIDTH = 20, 28


class Draws:
    """Numbers that a change asks for, given one after another."""

    def __init__(self, *numbers: float | torch.Tensor) -> None:
        self.numbers = list(numbers)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        value = self.numbers.pop(0)
        return low + (high - low) * torch.as_tensor(value, dtype=torch.float32).expand(shape)

    def number(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(self.numbers.pop(0))

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.as_tensor(self.numbers.pop(0), dtype=torch.float32).expand(shape)


def clip(frames: int = 2) -> dict[str, torch.Tensor]:
    """A clip with every map; no two pixels are alike, and no frame is square."""
    shape = (frames, HEIGHT, WIDTH)
    number = torch.arange(math.prod(shape)).reshape(shape)
    draw = torch.Generator().manual_seed(0)
    world_to_camera = torch.eye(4).repeat(frames, 1, 1)
    world_to_camera[:, :3, :3] = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]])
    world_to_camera[:, :3, 3] = torch.tensor([0.1, 0.2, 0.3])
    return {
        "image": torch.rand((frames, 3, HEIGHT, WIDTH), generator=draw),
        "depth": 0.5 + 1e-4 * number,
        "canonical": torch.rand((frames, 3, HEIGHT, WIDTH), generator=draw) + 0.01,
        "confidence": 0.1 + 0.9 * torch.rand(shape, generator=draw),
        "region": (1 + number % 250).to(torch.uint8),
        "normal": F.normalize(torch.rand((frames, 3, HEIGHT, WIDTH), generator=draw) + 0.1, dim=1),
        "edge": torch.ones(shape, dtype=torch.bool),
        "intrinsics": torch.tensor([[60.0, 0.5, 12.0], [0, 50.0, 9.0], [0, 0, 1]]).repeat(frames, 1, 1),
        "world_to_camera": world_to_camera,
        "index": torch.arange(frames),
    }


def test_a_mirror_flips_every_map_and_the_signs_of_what_points_sideways() -> None:
    given = clip()
    out = mirror(given, 0.5, Draws(0.4), False)
    assert mirror(given, 0.5, Draws(0.6), False) is given
    flipped = torch.tensor([-1.0, 1, 1])[:, None, None]
    for name in MAPS:
        expected = given[name].flip(-1) * (flipped if name in {"canonical", "normal"} else 1)
        assert torch.equal(out[name], expected.to(given[name].dtype)), name
        assert out[name].dtype == given[name].dtype
    assert torch.equal(out["image"], given["image"].flip(-1))
    expected = torch.tensor([[60.0, -0.5, WIDTH - 12.0], [0, 50.0, 9.0], [0, 0, 1]])
    assert torch.equal(out["intrinsics"][1], expected)
    E = out["world_to_camera"][0]
    torch.testing.assert_close(E[:3, :3], torch.tensor([[0.6, 0.0, -0.8], [0.0, 1.0, 0.0], [0.8, 0.0, 0.6]]))
    torch.testing.assert_close(E[:3, 3], torch.tensor([-0.1, 0.2, 0.3]))
    assert torch.equal(out["index"], given["index"])


@pytest.mark.parametrize("views", [False, True])
def test_a_crop_takes_the_same_pixel_of_every_map(views: bool) -> None:
    given = clip()
    strength, sizes = 0.4, torch.tensor([0.53, 0.97]) if views else torch.tensor([0.53])
    places = torch.tensor([[0.23, 0.71], [0.52, 0.13]])[: 2 if views else 1]
    out = crop(given, strength, Draws(sizes, places), views)
    for frame in range(2):
        own = frame if views else 0
        share = 1 - strength * sizes[own].item()
        left, top = (places[own] * (1 - share)).tolist()
        rows = ((top + share * (torch.arange(HEIGHT) + 0.5) / HEIGHT) * HEIGHT - 0.5).round().long()
        columns = ((left + share * (torch.arange(WIDTH) + 0.5) / WIDTH) * WIDTH - 0.5).round().long()
        for name in MAPS:
            taken = given[name][frame][..., rows[:, None], columns]
            assert torch.equal(out[name][frame], taken), name
            assert out[name].dtype == given[name].dtype
        K = given["intrinsics"][frame]
        expected = [
            [60 / share, 0.5 / share, (12 - left * WIDTH) / share],
            [0, 50 / share, (9 - top * HEIGHT) / share],
            [0, 0, 1],
        ]
        torch.testing.assert_close(out["intrinsics"][frame], torch.tensor(expected, dtype=K.dtype))
    # Bilinear: an image that is a ramp stays one, with the window's slope.
    ramp = {**given, "image": torch.arange(WIDTH).float().expand(2, 3, HEIGHT, WIDTH) / WIDTH}
    shown = crop(ramp, strength, Draws(sizes, places), views)["image"][0, 0, 5]
    inner = shown[2:-2].diff()
    torch.testing.assert_close(inner, torch.full_like(inner, (1 - strength * 0.53) / WIDTH), atol=1e-5, rtol=0)
    assert crop(given, 0.0, Draws(sizes, places), views) is given


@pytest.mark.parametrize(("square", "covered"), [(0.4, "box"), (0.6, "ellipse")])
def test_an_object_hides_every_map_where_it_is_and_nothing_else(square: float, covered: str) -> None:
    given = clip(3)
    # Chance, centre, half axes, turn, colour, grain, drift, square; then the grain itself.
    numbers = (0.2, 0.5, torch.tensor([[1.0, 0.5]]), 0.0, 0.3, 0.0, torch.tensor([1.0, 0.5]), square, 0.0)
    out = occlude(given, 0.3, Draws(*numbers), False)
    half = (0.22, 0.06 + 0.5 * 0.16)
    for frame in range(3):
        v, u = torch.meshgrid((torch.arange(HEIGHT) + 0.5) / HEIGHT, (torch.arange(WIDTH) + 0.5) / WIDTH, indexing="ij")
        a, b = (u - 0.5 - 0.03 * frame) / half[0], (v - 0.5) / half[1]
        hidden = (a.abs() < 1) & (b.abs() < 1) if covered == "box" else a**2 + b**2 < 1
        assert 0.02 < hidden.float().mean() < 0.3
        for name in MAPS:
            assert (out[name][frame][..., hidden] == 0).all(), name
            assert torch.equal(out[name][frame][..., ~hidden], given[name][frame][..., ~hidden]), name
            assert out[name].dtype == given[name].dtype
        torch.testing.assert_close(out["image"][frame][:, hidden], torch.full((3, int(hidden.sum())), 0.3))
        assert torch.equal(out["image"][frame][:, ~hidden], given["image"][frame][:, ~hidden])
    assert torch.equal(out["intrinsics"], given["intrinsics"])
    assert occlude(given, 0.2, Draws(*numbers), False) is given


def test_an_object_may_be_turned() -> None:
    given = clip(1)
    numbers = (0.0, 0.5, torch.tensor([[1.0, 0.0]]), 0.25, 0.3, 0.0, 0.5, 0.0, 0.0)
    hidden = occlude(given, 1.0, Draws(*numbers), False)["depth"][0] == 0
    v, u = torch.meshgrid((torch.arange(HEIGHT) + 0.5) / HEIGHT, (torch.arange(WIDTH) + 0.5) / WIDTH, indexing="ij")
    # An eighth of a turn: long along the diagonal from the upper left to the lower right.
    along, across = (u - 0.5 + v - 0.5) / math.sqrt(2), (v - u) / math.sqrt(2)
    assert torch.equal(hidden, (along.abs() < 0.22) & (across.abs() < 0.06))


@pytest.mark.parametrize("views", [False, True])
def test_colours_change_by_gain_gamma_saturation_and_contrast_in_this_order(views: bool) -> None:
    given = clip()
    strength = 0.6
    own = strength / 3 if views else 0.0
    gains, gains_own = torch.tensor([0.9, 0.2, 0.5])[None, :, None, None], torch.tensor([[0.7], [0.1]])[..., None, None]
    numbers = (gains, gains_own, 0.8, 0.3, 0.25, 0.9, 0.65, 0.4)
    out = photometric(given, strength, Draws(*numbers, 0.9, 0.5, 0.0), views)

    def around(centre: float, spread: float, shared, individual) -> torch.Tensor:
        return centre + strength * spread * (2 * torch.as_tensor(shared) - 1) + own * spread * (
            2 * torch.as_tensor(individual) - 1
        )  # fmt: skip

    x = (given["image"] * around(1, 0.1, gains, gains_own)).clamp(0, 1) ** torch.exp(around(0, 0.2, 0.8, 0.3))
    grey = (0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]) * torch.ones(1, 3, 1, 1)
    x = grey + around(1, 0.4, 0.25, 0.9) * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + around(1, 0.2, 0.65, 0.4) * (x - mean)
    torch.testing.assert_close(out["image"], x.clamp(0, 1))
    assert all(out[name] is given[name] for name in given if name != "image")
    # Noise of a strength of its own, and the blur of one pixel now and then.
    noisy = photometric(given, strength, Draws(*numbers, 0.9, 0.5, 0.01), views)["image"]
    torch.testing.assert_close(noisy, (x + strength * 0.01 * 0.01).clamp(0, 1))
    blurred = photometric(given, strength, Draws(*numbers, 0.1, 0.4, 0.5, 0.0), views)["image"]
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    torch.testing.assert_close(blurred, (0.6 * x + 0.4 * soft).clamp(0, 1))
    kept = photometric(given, strength, Draws(*numbers, 0.16, 0.5, 0.0), views)["image"]
    torch.testing.assert_close(kept, x.clamp(0, 1))  # the chance of a blur is a quarter of the strength


def test_switching_one_change_off_leaves_the_others_as_they_were() -> None:
    batch = {name: value[None] for name, value in clip().items()}
    everything = AugmentConfig(photometric=0, background=0, occlusion=1, crop=0.3, mirror=True)
    seeds = [seed for seed in range(40) if mirrored(batch, seed)][:1]
    with_all = augment(batch, everything, seeds, views=False)
    without_mirror = augment(batch, everything.model_copy(update={"mirror": False}), seeds, views=False)
    assert torch.equal(with_all["depth"], without_mirror["depth"].flip(-1))
    assert torch.equal(with_all["region"], without_mirror["region"].flip(-1))
    uncropped = augment(batch, everything.model_copy(update={"crop": 0.0}), seeds, views=False)
    assert torch.equal(uncropped["intrinsics"][0, 0, :2, :2].abs(), batch["intrinsics"][0, 0, :2, :2])
    assert not torch.equal(with_all["depth"], uncropped["depth"])
    # Half of the clips are mirrored.
    assert 10 <= sum(mirrored(batch, seed) for seed in range(40)) <= 30


def mirrored(batch: dict[str, torch.Tensor], seed: int) -> bool:
    out = augment(batch, AugmentConfig(photometric=0, mirror=True), [seed], views=False)
    return torch.equal(out["depth"], batch["depth"].flip(-1))
