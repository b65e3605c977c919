"""Published weights as a checkpoint: what is predicted is what they say, by confidence, up to scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datagen.common.errors import CheckpointError, InputError
from tests.support.predict_scene import write_photos
from tests.support.published_weights import published, to_depth_anything_3, write_config
from trainer.data import normalise
from trainer.predict import PredictOptions, predict
from trainer.weights.convert import HALF_EXTENT_M, convert_weights

QUICK = ("ply", "videos", "viewer", "tracks", "maps")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration as small as `tiny` and built as `giant`."""
    return write_config(tmp_path / "published.yaml")


def test_published_weights_predict_without_fitting(config: Path, tmp_path: Path) -> None:
    theirs = published(config)
    torch.save(to_depth_anything_3(theirs), tmp_path / "checkpoint.pt")
    report = convert_weights(str(tmp_path / "checkpoint.pt"), tmp_path / "ours.pt", str(config), size=28)
    assert report.layout == "depth_anything_3"
    write_photos(tmp_path / "photos")
    summary = predict(
        tmp_path / "ours.pt", tmp_path / "photos", tmp_path / "out", PredictOptions(without=QUICK), device_name="cpu"
    )
    assert summary["confidence_threshold"] is not None
    assert summary["drift"] == "chain"
    assert summary["pose_from"] == ["model"]
    with np.load(tmp_path / "out" / "raw_predictions.npz") as raw:
        images = normalise(torch.from_numpy(raw["image"]))[None]
        with torch.no_grad():
            wanted = theirs(images, torch.eye(3).expand(1, 3, 3, 3))
        np.testing.assert_allclose(raw["depth"], wanted.depth_m[0].numpy(), rtol=1e-5)
        metres = wanted.canonical[0].numpy()
        np.testing.assert_allclose(raw["canonical"] * HALF_EXTENT_M, metres, atol=1e-6 * np.abs(metres).max())
        np.testing.assert_allclose(raw["canonical_confidence"], wanted.canonical_confidence[0].numpy(), rtol=1e-5)


def test_weights_without_a_canonical_decoder_are_refused(config: Path, tmp_path: Path) -> None:
    weights = {
        name: value for name, value in to_depth_anything_3(published(config)).items() if "deformation" not in name
    }
    torch.save(weights, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"holds no weights for decoders\.canonical"):
        convert_weights(str(tmp_path / "checkpoint.pt"), tmp_path / "ours.pt", str(config), size=28)
    assert not (tmp_path / "ours.pt").exists()


def test_weights_of_any_file_name_are_taken(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = to_depth_anything_3(published(config))
    for name in ("w #1.pt", "[1].pt", "2024", "a: b", "null"):
        torch.save(weights, name)
        assert convert_weights(name, tmp_path / "ours.pt", str(config), size=28, overwrite=True).complete
    with pytest.raises(InputError, match="would overwrite what it is made from"):
        convert_weights("2024", tmp_path / "2024", str(config), size=28)
