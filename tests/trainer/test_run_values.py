"""What a run is made of beside its loss: shares of a step, clocks, colours, codes of places; by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from datagen.common.ownership import LISTING
from tests.support.disk import Disk
from trainer.config import load_config
from trainer.data import Loaded
from trainer.evaluation.baselines import mean_of
from trainer.model.decoder import add_positions
from trainer.model.joint import DepthUnit, Prediction
from trainer.pictures import canonical_colours, masked
from trainer.run import throughput as throughput_module
from trainer.run.folder import RunState, read_state
from trainer.run.log import Journal, read_log
from trainer.run.throughput import Throughput
from trainer.step import Gradients


class Constant(nn.Module):
    """Says one number of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.9))

    def forward(self, images: torch.Tensor, _intrinsics: torch.Tensor) -> Prediction:
        maps = self.value * torch.ones_like(images[:, :, 0])
        ones = torch.ones_like(maps)
        return Prediction(maps, maps.unsqueeze(2).expand(-1, -1, 3, -1, -1), ones, ones, 0 * maps)


def loaded(seed: int) -> Loaded:
    draw = torch.Generator().manual_seed(seed)
    depth = 0.7 + 0.1 * torch.rand((1, 2, 8, 8), generator=draw)
    batch = {
        "image": torch.rand((1, 2, 3, 8, 8), generator=draw),
        "depth": depth,
        "canonical": torch.rand((1, 2, 3, 8, 8), generator=draw),
        "confidence": torch.ones_like(depth),
        "intrinsics": torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]).expand(1, 2, 3, 3),
        "index": torch.tensor([[0, 1]]),
    }
    return Loaded(batch, False, [seed], {})


def test_the_batches_of_a_step_share_its_gradient() -> None:
    found, laps = {}, []
    for accumulate in (1, 4):
        model = Constant()
        config = load_config("tiny", [f"fit.accumulate={accumulate}", "augment.photometric=0"])
        gradients = Gradients(model, DepthUnit("dataset", 0.8, 0.05, 1.0), config, laps.append)
        terms = gradients.add(loaded(1))
        assert model.value.grad is not None
        found[accumulate] = model.value.grad.item()
        first = model.value.grad.item()
        gradients.add(loaded(2))
        assert model.value.grad.item() != first  # the second batch adds to the first
        assert math.isfinite(terms["loss"].item())
        mean = gradients.batch["image"].mean((0, 1, 3, 4))
        raw = loaded(2).batch["image"].mean((0, 1, 3, 4))
        expected = (raw - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        torch.testing.assert_close(mean, expected, atol=1e-4, rtol=0)
    assert found[4] == pytest.approx(found[1] / 4)
    assert laps == ["augment", "forward", "backward"] * 4


def test_throughput_counts_frames_and_waiting_within_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(throughput_module.time, "monotonic", lambda: clock[0])
    throughput = Throughput(torch.device("cpu"), None, 0)

    def items():
        for _ in range(2):
            clock[0] += 3  # waited for
            yield 1

    for _ in throughput.waiting(items()):
        clock[0] += 1  # worked on
        throughput.frames += 6
    assert throughput.metrics() == {"frames_per_second": 12 / 8, "stall_share": 6 / 8}
    clock[0] += 4
    throughput.frames += 2
    assert throughput.metrics() == {"frames_per_second": 0.5, "stall_share": 0}
    clock[0] += 50
    throughput.pause()
    clock[0] += 2
    throughput.frames += 1
    assert throughput.metrics()["frames_per_second"] == 0.5


def test_colours_of_coordinates_run_from_minus_one_to_one() -> None:
    canonical = np.array([[-1.0, 0, 1], [1, -0.5, 3], [0, 0.5, -3]]).reshape(3, 1, 3)
    colours = canonical_colours(canonical, np.array([[True, True, True]]))
    assert colours[0].tolist() == [[0, 255, 127], [127, 63, 191], [255, 255, 0]]
    assert canonical_colours(canonical, np.zeros((1, 3), bool)).min() == 255
    shown = masked(np.array([[1.0, 2.0]]), np.array([[True, False]]))
    assert shown[0, 0] == 1
    assert np.isnan(shown[0, 1])


@pytest.mark.parametrize("aspect", [1.0, 0.5, 2.0])
def test_positions_are_coded_as_sines_of_half_diagonals(aspect: float) -> None:
    height, width, channels = 4, 6, 8
    code = add_positions(torch.zeros(1, channels, height, width), aspect)[0]
    diagonal = math.hypot(aspect, 1)
    for row in range(height):
        for column in range(width):
            x = aspect / diagonal * ((2 * column + 1) / width - 1)
            y = 1 / diagonal * ((2 * row + 1) / height - 1)
            expected = []
            for place in (x, y):
                angles = [place, place / 10]  # 100 to the power of 0 and of −1/2
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert code[:, row, column].tolist() == pytest.approx([0.1 * e for e in expected], abs=1e-6)
    given = torch.rand(2, channels, height, width)
    torch.testing.assert_close(add_positions(given, aspect) - given, code.expand_as(given), atol=1e-6, rtol=0)


def test_a_mean_map_weighs_frames_of_one_chunk_by_their_confidence() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 1, (5, 3, 4)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 0
    depth[0, 0, 0] = 0.7
    canonical = rng.uniform(-1, 1, (5, 3, 3, 4)).astype(np.float32)
    confidence = (rng.uniform(0.1, 1, depth.shape) * (depth > 0)).astype(np.float32)
    mean = mean_of([(depth[:2], canonical[:2], confidence[:2]), (depth[2:], canonical[2:], confidence[2:])])
    for y, x in np.ndindex(3, 4):
        w = confidence[:, y, x].astype(float)
        if not w.any():
            continue
        np.testing.assert_allclose(mean.depth_m[y, x], depth[:, y, x][w > 0].mean(), rtol=1e-5)
        np.testing.assert_allclose(mean.canonical[:, y, x], w @ canonical[:, :, y, x] / w.sum(), rtol=1e-4, atol=1e-6)


def test_the_state_and_the_log_of_a_run_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("tiny")
    with Journal(tmp_path, 0, config) as journal:
        journal.record("train", 1, {"loss": 2.0})
        journal.record("train", 2, {"loss": 1.0})
    disk = Disk(tmp_path, monkeypatch)
    RunState(3, 9, "digest", "uuid", None, {}).write(tmp_path)
    Journal(tmp_path, 1, config).__exit__(None, None, None)
    moved = [name for name in disk.moved() if name != LISTING]
    assert moved == ["state.json", "log.jsonl"]
    assert disk.written("state.json")
    assert disk.written("log.jsonl")
    assert disk.steps[-1] == ("sync/", ".")
    assert '"step": 1' in (tmp_path / "log.jsonl").read_text()
    assert '"step": 2' not in (tmp_path / "log.jsonl").read_text()


def test_the_state_of_a_run_reads_back_and_its_log_leaves_out_what_a_kill_left(tmp_path: Path) -> None:
    state = RunState(5, 9, "d", "u", 3, {"canonical_mean_mm": 2.5, "depth_mean_mm": None})
    state.write(tmp_path)
    assert read_state(tmp_path) == state
    assert not state.finished
    assert RunState(9, 9, "d", "u", None, {}).finished
    assert read_state(tmp_path / "nowhere") is None
    lines = ['{"kind": "train", "step": 1}', '{"kind": "train"}', "[1]", '{"kind": "val", "step": 2}', '{"kind": "tr']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2]
