"""The benchmark of adaptation: what is filmed is true, the other camera is as said, figures compare what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.adapt import command, run
from benchmarks.adapt.camera import MATRIX, Camera, filmed
from benchmarks.adapt.person import Take, film
from datagen.shards import Dataset
from tests.support.avatar_scene import build_person
from trainer.align.data import FaceTruth, visible_vertices
from trainer.avatar.colour import colour_distance, fit_colour
from trainer.avatar.skin import learn_skin
from trainer.avatar.unwrap import unwrap


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_person(tmp_path_factory.mktemp("person") / "dataset.zarr")


def textures(dataset: Dataset, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Unwrap the first camera's frames through the true meshes."""
    skin = learn_skin(dataset.template, dataset.attrs["regions"], 24)
    shown = filmed(dataset, skin, camera, 84, seed=2, frames=slice(0, 12))
    texture = unwrap(shown.clip.views(slice(None)), shown.truth, skin)
    return texture.colours, texture.weights


def test_what_is_filmed_is_where_the_meshes_are(tmp_path: Path) -> None:
    dataset = film(tmp_path / "take.zarr", Take(1, 2, 1, 30.0), seed=23, resolution=64)
    skin = learn_skin(dataset.template, dataset.attrs["regions"], 16)
    split, samples = dataset["train"], np.arange(2)
    stored = split.read(("depth", "intrinsics", "world_to_camera"), samples)
    tensors = {name: torch.from_numpy(value) for name, value in stored.items()}
    seen = FaceTruth(split, skin).seen(samples, tensors["intrinsics"], tensors["world_to_camera"])
    shown = visible_vertices(seen.pixels, seen.depth_m, tensors["depth"])
    assert 0.4 < float(shown.float().mean()) < 0.95
    assert split.index.time.tolist() == pytest.approx([0, 1 / 30])
    assert film(tmp_path / "take.zarr", Take(1, 2, 1, 30.0), seed=23, resolution=64).uuid == dataset.uuid


def test_a_turned_camera_sees_the_same_skin_elsewhere(person: Dataset) -> None:
    """The truth turns with the pictures: textures through it do not change."""
    still, weights = textures(person, Camera(matrix=False))
    turned, others = textures(person, Camera(matrix=False, shake_deg=4))
    both = (weights > 0.4) & (others > 0.4)
    assert both.float().mean() > 0.3
    assert float((still - turned).abs().mean(-1)[both].median()) < 0.01
    turns = Camera(shake_deg=4).turns(np.linspace(0, 2, 50))
    angles = np.rad2deg(np.arccos((np.trace(turns, axis1=1, axis2=2) - 1) / 2))
    assert 3 < angles.max() < 4 * np.sqrt(3)


def test_colours_exposure_and_flicker_are_what_they_are_said_to_be(person: Dataset) -> None:
    plain, weights = textures(person, Camera(matrix=False))
    own, _ = textures(person, Camera())
    believed = torch.where(weights > 0.4, weights, 0)
    assert colour_distance(fit_colour(plain, own, believed), torch.from_numpy(MATRIX).float()) < 0.02
    times = person["train"].index.time[:12].astype(np.float64)
    for camera in (Camera(matrix=False, flicker=0.2), Camera(matrix=False, auto_exposure=0.5)):
        found, _ = textures(person, camera)
        levels = [float((found[k] / plain[k])[weights[k] > 0.4].median()) for k in range(12)]
        np.testing.assert_allclose(levels, camera.gains(times), rtol=0.03)
    flicker = Camera(flicker=0.2).gains(np.arange(120) / 30)
    assert flicker.max() == pytest.approx(1.2, abs=0.01)
    assert flicker.min() == pytest.approx(0.8, abs=0.01)
    assert Camera(auto_exposure=0.5).gains(np.arange(120) / 30).max() == pytest.approx(2**0.5, abs=0.01)
    assert Camera().gains(times).tolist() == [1] * 12


def figures(scale: float, **more: Any) -> dict[str, Any]:
    names = ("vertices_mm", "laid_mm", "pixels", "jitter_mm", "laid_jitter_mm", "motion")
    return {name: scale * (k + 1) for k, name in enumerate(names)} | more


class Stub:
    """What was measured, made up."""

    cpu_seconds = 12.0

    def __init__(self, out: Path, sizes: run.Sizes, options: list[str], config: Any) -> None:
        assert (sizes.clip_frames, options, config.steps) == (30, ["fit.steps=5"], 7)
        self.out = out

    def before(self, name: str) -> dict[str, Any]:
        return figures(2.0 if name == run.STEADY else 4.0)

    def after(self, name: str) -> dict[str, Any]:
        colour = (2 * MATRIX + (0.1 * np.eye(3) if name != run.STEADY else 0)).tolist()
        stopped = 50 if name == "flicker 20 %" else None
        studio = {"studio_before_mm": 2.0, "studio_after_mm": 2.1}
        return figures(1.4 if name == run.STEADY else 5.0, colour=colour, stopped=stopped, **studio)

    def without(self, name: str) -> dict[str, Any]:
        assert name in run.WITHOUT
        return figures(1.8, stopped=None, studio_after_mm=2.0)

    def oracle(self) -> dict[str, Any]:
        return figures(0.5, true_colour=MATRIX.tolist(), moments=np.eye(3).tolist(), studio_after_mm=2.2)


def test_figures_compare_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "Comparison", Stub)
    asked: dict[str, Any] = {"options": ["fit.steps=5"], "adapting": ["steps=7"], "clip_frames": 30}
    command.adapt_command(tmp_path, **asked, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["adapt_vertex_ratio"] == pytest.approx(0.7)
    assert found["adapt_jitter_ratio"] == pytest.approx(0.7)
    assert found["colour_error"] == pytest.approx(0, abs=1e-6)
    assert found["seen_colour_error"] == pytest.approx(0, abs=1e-3)
    assert found["oracle_vertex_ratio"] == pytest.approx(0.25)
    assert found["studio_ratio"] == pytest.approx(1.05)
    assert found["vertex_ratio_flicker_20"] == found["jitter_ratio_shake"] == pytest.approx(1.25)
    command.adapt_command(tmp_path, **asked)
    shown = capsys.readouterr().out
    assert "| steady clip, before | 2.00 | 4.00 |" in shown
    assert "| adapted (ended at step 50) | 5.00 |" in shown
    assert "adapt_vertex_ratio                      0.700  ≤ 0.75   met" in shown
    assert "adapt_jitter_ratio                      0.700  ≤ 0.6    MISSED" in shown
    command.adapt_command(tmp_path, **asked, table=False, as_json=True)
    assert "vertex_ratio_flicker_20" not in json.loads(capsys.readouterr().out)
