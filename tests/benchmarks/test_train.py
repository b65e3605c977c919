"""The command ``train``: figures that agree with each other, waiting, memory, its peer, and bad input."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.train.clock import Clock
from tests.support.trainer_scene import build_scene

SHARES = ("augment", "forward", "backward", "optimiser")
QUICK = ("--config", "tiny", "--device", "cpu", "--steps", "2", "--set", "fit.threads=1")
MIB = 2**20


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str


Call = Callable[..., Result]
Bench = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """The command sets the number of threads of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene") / "dataset.zarr"
    build_scene(root, subjects={"train": 2}, frames=4, cameras=2)
    return root


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line within this process: it spares seconds of imports."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["benchmarks", "train", *QUICK, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return Result(int(ended.value.code or 0), out.out, out.err)

    return run


@pytest.fixture
def bench(call: Call) -> Bench:
    def run(*arguments: object) -> dict[str, Any]:
        result = call(*arguments, "--json")
        assert result.code == 0, result.stderr
        content: dict[str, Any] = json.loads(result.stdout)
        return content

    return run


def test_figures_of_a_dataset(scene: Path, bench: Bench) -> None:
    content = bench(scene, "--frames", "2,1", "--set", "data.workers=1")
    figures = content["figures"]
    assert figures.pop("longest_frames") == 2
    for n in (1, 2):
        own = {name.removesuffix(f"_n{n}"): figures.pop(name) for name in list(figures) if name.endswith(f"_n{n}")}
        assert own.keys() == {
            *("step_frames_per_s", "step_ms", "step_memory_mib", "stall_share", *(f"{s}_share" for s in SHARES)),
            *("stream_frames_per_s", "ratio_stream", "predict_frames_per_s", "predict_memory_mib"),
        }
        assert all(math.isfinite(value) and value > 0 for value in own.values()), own
        assert sum(own[f"{s}_share"] for s in (*SHARES, "stall")) == pytest.approx(1, abs=1e-3)
        frames = own["step_frames_per_s"] * own["step_ms"] / 1000
        assert frames == pytest.approx(4, rel=1e-3) if n == 1 else 2 <= frames < 4.01  # the last batches may be small
        fed = own["step_frames_per_s"] / (1 - own["stall_share"])
        assert own["ratio_stream"] == pytest.approx(own["stream_frames_per_s"] / fed, rel=0.01)
        assert own["step_memory_mib"] > 50
    assert figures == {}
    expected = {"size": 28, "precision": "float32", "workers": 1, "frames_per_batch": 4}
    assert {name: content["setup"][name] for name in expected} == expected
    assert content["machine"]["torch"] == torch.__version__
    assert content["machine"]["threads"] == 1
    assert content["machine"]["device"]


def test_without_a_dataset_there_is_no_stall_and_more_pixels_take_longer(bench: Bench) -> None:
    small, large = (bench("--size", size, "--frames", 1)["figures"] for size in (28, 112))
    assert not {"stall_share_n1", "stream_frames_per_s_n1", "ratio_stream_n1"} & small.keys()
    assert sum(small[f"{s}_share_n1"] for s in SHARES) == pytest.approx(1, abs=1e-3)
    assert large["step_frames_per_s_n1"] < small["step_frames_per_s_n1"]


def test_a_slow_disk_shows_as_waiting(scene: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("--frames", 1, "--steps", 1, "--set", "data.frames_per_batch=2")
    free = bench(scene, *few)["figures"]
    read = os.pread
    # Two samples of four maps each: a batch takes three steps or more, however slow this machine is.
    pause = max(0.02, 3 * free["step_ms_n1"] / 1000 / 8)

    def slow(descriptor: int, length: int, offset: int) -> bytes:
        time.sleep(pause)
        return read(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", slow)
    # A reader is two batches ahead: a single step must not live on what was read before.
    for workers in (0, 1):
        waiting = bench(scene, *few, "--set", f"data.workers={workers}")["figures"]
        assert waiting["stall_share_n1"] > max(0.3, free["stall_share_n1"])
        assert waiting["stream_frames_per_s_n1"] < free["stream_frames_per_s_n1"]
        assert waiting["ratio_stream_n1"] < 1


def test_lengths_that_memory_does_not_suffice_for_are_a_line_and_null(call: Call, bench: Bench) -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 600 * MIB, limits[1]))
    try:
        # 131072 frames of 112 pixels are 20 GB as images alone: more than earlier tests can have left free.
        result = call("--size", 112, "--frames", "1,131072", "--steps", 1)
        content = bench("--size", 112, "--frames", "131072,1", "--steps", 1)["figures"]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert result.code == 0, result.stderr
    assert "131072 frames: out of memory in a training step" in result.stdout
    assert re.search(r"^ *131072 +1( +–)+$", result.stdout, re.MULTILINE)
    assert content["longest_frames"] == 1
    assert content["step_frames_per_s_n131072"] is content["predict_frames_per_s_n131072"] is None
    assert content["step_frames_per_s_n1"] > 0


def test_without_lengths_those_of_the_configuration_that_the_set_has(scene: Path, call: Call) -> None:
    result = call(scene, "--set", "data.clip_lengths=[2,9]", "--seconds", 0)
    assert result.code == 0, result.stderr
    assert re.search(r"^ *2 +2 ", result.stdout, re.MULTILINE)
    assert "9 frames: the dataset has no such clips" in result.stdout


@pytest.mark.parametrize("config", ["tiny", "small"])
def test_a_peer_is_a_ratio_or_a_reason(bench: Bench, config: str) -> None:
    content = bench(
        *("--size", 28, "--frames", "1,2", "--steps", 1, "--config", config, "--set", "data.frames_per_batch=2"),
        *("--against", "depth-anything-3"),
    )
    ratio = content["figures"]["ratio_depth_anything_3"]
    if ratio is None:
        assert len(content["notes"]) == 1
        assert "depth-anything-3" in content["notes"][0].lower().replace(" ", "-")
    else:
        assert config == "small"
        each = [content["figures"][f"ratio_depth_anything_3_n{n}"] for n in (1, 2)]
        assert ratio == pytest.approx(math.sqrt(each[0] * each[1]), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", 50), "multiple of the patch, 14, such as 42 or 56"),
        (("--config", "nope"), "configuration nope does not exist"),
        (("--set", "fit.nope=1"), "unknown key fit.nope"),
        (("DATASET", "--frames", "1,50"), "--frames 50"),
        (("DATASET", "--frames", 50), "no clip of"),
        (("DATASET", "--size", 28), "--size and a dataset"),
        (("DATASET", "--set", "backbone.patch=16"), "multiple of the patch, 16"),
        (("EMPTY",), "empty"),
        (("MISSING",), "does not exist"),
    ],
)
def test_bad_input_ends_before_anything_is_measured(
    scene: Path, tmp_path: Path, call: Call, arguments: tuple[object, ...], message: str
) -> None:
    places = {"DATASET": scene, "MISSING": tmp_path / "none", "EMPTY": tmp_path / "dataset.zarr"}
    if "EMPTY" in arguments:
        build_scene(places["EMPTY"], subjects={"val": 1})
    result = call(*(places.get(str(a), a) for a in arguments))
    assert result.code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("--frames", "1,0"), ("--frames", "many"), ("--steps", 0), ("--device", "tpu")])
def test_bad_options_are_wrong_use(call: Call, arguments: tuple[object, ...]) -> None:
    assert call(*arguments).code == 2


def test_laps_are_all_of_the_time() -> None:
    clock = Clock(torch.device("cpu"))
    for _ in range(2):
        began = time.perf_counter()
        clock.start()
        for name, pause in (("a", 0.01), ("b", 0.02), ("a", 0.01)):
            time.sleep(pause)
            clock.mark(name)
        seconds = clock.seconds()
        assert sum(seconds.values()) <= time.perf_counter() - began
        assert seconds["a"] >= 0.02
        assert seconds["b"] >= 0.02
