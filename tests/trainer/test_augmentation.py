"""Changes of training clips: what they may touch, what they must keep, and whose they are."""

from __future__ import annotations

import pytest
import torch

from trainer.augmentation import augment
from trainer.config import AugmentConfig
from trainer.loss_terms import pixel_directions, unproject

NONE = AugmentConfig(photometric=0)


def batch(clips: int = 1, frames: int = 2, size: int = 28) -> dict[str, torch.Tensor]:
    """Return clips of a disc with a hole, before a grey wall; every frame and clip is the same."""
    v, u = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    radius = ((u - size / 2) ** 2 + (v - size / 2) ** 2).sqrt()
    disc = (radius < 0.3 * size) & ~((u - 16).abs() + (v - 14).abs() < 1.5)
    depth = torch.where(disc, 0.8 + 0.001 * u, torch.zeros(()))
    K = torch.tensor([[60.0, 0, size / 2 + 1], [0, 60.0, size / 2], [0, 0, 1]])
    canonical = pixel_directions(K, size, size) * disc
    E = torch.eye(4)
    E[:3, 3] = torch.tensor([0.1, 0.2, 0.3])
    sample = {
        "image": torch.where(disc, u / size, torch.full((), 0.4)).expand(3, size, size),
        "depth": depth,
        "canonical": canonical,
        "confidence": disc.float(),
        "intrinsics": K,
        "world_to_camera": E,
        "index": torch.tensor(3),
    }
    return {name: value.expand(clips, frames, *value.shape).clone() for name, value in sample.items()}


def test_strength_zero_changes_nothing() -> None:
    given = batch()
    out = augment(given, NONE, [1], views=False)
    assert all(torch.equal(out[name], given[name]) for name in given)


def test_a_clip_s_changes_are_its_own_wherever_it_stands() -> None:
    config = AugmentConfig(photometric=1, background=0.7, occlusion=0.7, crop=0.2, mirror=True)
    seeds = [11, 12, 13, 14]
    together = augment(batch(4), config, seeds, views=False)
    for k, seed in enumerate(seeds):
        alone = augment(batch(1), config, [seed], views=False)
        assert all(torch.equal(alone[name][0], together[name][k]) for name in alone)
    assert not torch.equal(together["image"][0], together["image"][1])


@pytest.mark.parametrize(("views", "same"), [(False, True), (True, False)])
def test_light_and_colour_are_one_for_a_camera_over_time_and_differ_between_cameras(views: bool, same: bool) -> None:
    given = batch(frames=3)
    out = augment(given, AugmentConfig(photometric=1), [5], views=views)
    means = out["image"].mean((-1, -2))[0]
    # The noise averages out over 784 pixels.
    assert bool((means - means[0]).abs().max() < 5e-3) is same
    assert all(torch.equal(out[name], given[name]) for name in given if name != "image")
    assert out["image"].min() >= 0
    assert out["image"].max() <= 1


def test_a_new_background_leaves_the_head_and_its_holes() -> None:
    given = batch()
    out = augment(given, AugmentConfig(photometric=0, background=1), [2], views=False)
    changed = (out["image"] - given["image"]).abs().amax(2) > 1e-3
    inside = given["depth"] > 0
    inside[..., 11:17, 12:20] = True  # the hole
    assert not changed[inside].any()
    assert changed[0, 0, :3].float().mean() > 0.8
    assert torch.equal(out["depth"], given["depth"])
    assert torch.equal(out["image"][:, 0], out["image"][:, 1])
    other_walls = augment(given, AugmentConfig(photometric=0, background=1), [2], views=True)["image"]
    assert not torch.equal(other_walls[:, 0], other_walls[:, 1])


def test_behind_an_occluder_there_is_no_truth_and_elsewhere_all_of_it() -> None:
    given, hidden_share = batch(), []
    for seed in range(8):
        out = augment(given, AugmentConfig(photometric=0, occlusion=1), [seed], views=False)
        touched = (out["image"] - given["image"]).abs().amax(2) > 0
        lost = (out["depth"] == 0) & (given["depth"] > 0)
        assert (touched | ~lost).all()
        assert (out["confidence"][lost] == 0).all()
        assert torch.equal(out["depth"][~touched], given["depth"][~touched])
        hidden_share.append(touched.float().mean().item())
    assert 0.02 < sum(hidden_share) / 8 < 0.3


def test_a_crop_s_camera_sees_what_its_pixels_show() -> None:
    given = batch(size=56)
    out = augment(given, AugmentConfig(photometric=0, crop=0.3), [4], views=True)
    assert not torch.equal(out["intrinsics"][:, 0], out["intrinsics"][:, 1])
    # The canonical map holds each pixel's ray: nearest sampling is off by half a pixel of the original at most.
    seen = out["confidence"] > 0
    rays = pixel_directions(out["intrinsics"], 56, 56)
    off = (out["canonical"] - rays).abs().amax(2)[seen]
    assert seen.float().mean() > 0.2
    assert off.max() <= 0.5 / 60 + 1e-5
    assert off.mean() > 1e-4


def test_a_mirrored_world_is_seen_by_rigid_cameras() -> None:
    given = batch()
    for seed in range(20):
        out = augment(given, AugmentConfig(photometric=0, mirror=True), [seed], views=False)
        if not torch.equal(out["image"], given["image"]):
            break
    E = out["world_to_camera"][0, 0]
    torch.testing.assert_close(E[:3, :3] @ E[:3, :3].T, torch.eye(3))
    assert torch.linalg.det(E[:3, :3]) > 0

    def world_points(maps: dict[str, torch.Tensor]) -> torch.Tensor:
        points = unproject(maps["depth"], maps["intrinsics"])[0, 0].flatten(1)
        pose = torch.linalg.inv(maps["world_to_camera"][0, 0])
        return (pose[:3, :3] @ points + pose[:3, 3:]).unflatten(1, maps["depth"].shape[-2:])

    was, now = world_points(given).flip(-1), world_points(out)
    known = out["depth"][0, 0] > 0
    torch.testing.assert_close(now[:, known], (was * torch.tensor([-1.0, 1, 1])[:, None, None])[:, known])
    torch.testing.assert_close(out["canonical"][0, 0, 0], -given["canonical"][0, 0, 0].flip(-1))
