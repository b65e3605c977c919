"""The benchmark of reading: peers are given the same numbers, cases run, figures follow from what was measured."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.read import peers as read_peers
from benchmarks.read.case import MAPS, ReadCase, ReadResult
from benchmarks.read.command import as_json, as_text
from benchmarks.read.measure import drop_from_cache
from benchmarks.read.peers import SETTINGS, decode, encode
from benchmarks.read.readers import open_reader, stored_bytes
from benchmarks.read.run import Measured, ReadBench, ReadPlan, better
from datagen.common.errors import DependencyError
from datagen.shards import open_dataset
from tests.support.shard_samples import build, make_plan


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("read") / "dataset.zarr")


@pytest.mark.parametrize("setting", SETTINGS)
def test_peers_get_every_number_and_give_it_back(root: Path, setting: str) -> None:
    split = open_dataset(root)["train"]
    for i in (0, 40):
        maps = {name: value[0] for name, value in split.read(MAPS, [i], decode=False).items()}
        back = decode(encode(maps, setting), 28)
        assert back.keys() == maps.keys()
        for name, value in maps.items():
            assert back[name].dtype == value.dtype
            np.testing.assert_array_equal(back[name], value)


def row(reader: str, rate: float, setting: str = "", workers: int = 2, access: str = "clips") -> Measured:
    return Measured(
        ReadCase(reader, "", access, workers), setting, ReadResult(rate, 0.0, 1.0, 0.1, 10.0, 8, cpu_ms=1000 / rate)
    )


def test_figures_are_what_was_measured() -> None:
    bench = ReadBench(
        ReadPlan(against=("webdataset", "litdata")),
        96,
        504,
        {"canonface": 500.0, "webdataset small": 800.0, "webdataset fast": 1000.0, "litdata small": 790.0},
        12 * 504**2,
        source_bytes=1000.0,
        own_steps_bytes=625.0,
        source_stored_bytes=500.0,
        table={"table_ratio": 1.02, "table_bytes_ratio": 1.01},
    )
    bench.rows = [
        row("canonface", 1800.0),
        row("canonface", 1500.0, workers=4),
        row("webdataset", 300.0, "small"),
        row("webdataset", 500.0, "fast"),
        row("litdata", 100.0, "small"),
        row("litdata", 600.0, "fast"),
        row("litdata", 6000.0, "fast", access="shuffled"),
        Measured(
            ReadCase("decompression", "", "shuffled", 2),
            "",
            ReadResult(0, 0, 0, 0, 0, 0, rates={"decompression": 1000.0, "blosc": 1200.0, "decompression_cpu_ms": 0.5}),
        ),
        Measured(ReadCase("canonface", "", "clips", 2, resume=True), "", ReadResult(0, 0, 0, 0.25, 0, 8, exact=True)),
    ]
    figures = bench.figures()
    assert figures == {
        "samples_per_s": 1800.0,
        "ratio_fastest_peer": 3.0,
        "ratio_decompression": 1.8,
        "ratio_blosc": 1.5,
        "cpu_ms_per_sample": 1000 / 1800,
        "cpu_ratio_fastest_peer": pytest.approx(3.0),
        "cpu_ratio_decompression": pytest.approx(0.9),
        "bytes_per_sample": 500.0,
        "bytes_ratio_smallest_peer": 500 / 790,
        "bytes_ratio_own_steps": 0.8,
        "bytes_ratio_source": 0.5,
        "table_ratio": 1.02,
        "table_bytes_ratio": 1.01,
        "resume_s": 0.25,
        "resume_exact": 1.0,
    }
    content = as_json(bench)
    assert {name: goal["met"] for name, goal in content["goals"].items()} == dict.fromkeys(content["goals"], True)
    bench.rows = []
    bench.source_bytes = math.nan
    content = json.loads(json.dumps(as_json(bench), allow_nan=False))
    assert content["figures"]["samples_per_s"] is None
    assert content["goals"]["resume_s"]["met"] is None
    assert "samples_per_s" in as_text(bench)[0]


def test_the_better_of_two_rounds_counts() -> None:
    slow, fast = row("canonface", 10.0), row("canonface", 20.0)
    assert better(slow, fast) == fast
    resumed = [Measured(replace(fast.case, resume=True), "", replace(fast.result, first_batch_s=s)) for s in (0.5, 0.2)]
    assert better(*resumed).result.first_batch_s == 0.2


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("standard") / "dataset.zarr", make_plan(codecs="standard"))


@pytest.mark.parametrize("codecs", ["compact", "standard"])
@pytest.mark.parametrize("access", ["sequential", "shuffled", "clips"])
def test_every_reader_of_our_files_gives_the_same_batches(root: Path, standard: Path, access: str, codecs: str) -> None:
    """Zarr-python reads chunk by chunk through its own code: a second implementation of the whole path."""
    readers = ["canonface", "zarr"]
    if codecs == "standard":
        readers += [name for name in ("tensorstore", "zarrs") if find_spec(name) is not None]
        root = standard
    batches = {}
    for reader in readers:
        source = open_reader(ReadCase(reader, str(root), access, 2)).batches()
        batches[reader] = [next(source) for _ in range(3)]
        source.close()
    for reader in readers[1:]:
        for one, other in zip(batches["canonface"], batches[reader], strict=True):
            for name in MAPS:
                np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("peer", ["webdataset", "litdata"])
@pytest.mark.parametrize("access", ["sequential", "clips"])
def test_peers_hand_over_the_same_numbers(root: Path, tmp_path: Path, peer: str, access: str) -> None:
    pytest.importorskip(peer, reason="an extra (bench)")
    split = open_dataset(root)["train"]
    clips = [clip.tolist() for clip in split.clips(4, 4)]
    stored = split.read(MAPS, [i for clip in clips for i in clip], decode=False)
    frames = [encode({name: stored[name][k] for name in MAPS}, "fast") for k in range(len(stored["depth"]))]
    items = (
        frames
        if access == "sequential"
        else [read_peers.clip_item(frames[k : k + 4]) for k in range(0, len(frames), 4)]
    )
    folder = tmp_path / peer
    {"webdataset": read_peers.write_webdataset, "litdata": read_peers.write_litdata}[peer](folder, items, 28)
    batches = open_reader(ReadCase(peer, str(folder), access, 1)).batches()
    for number in range(3):
        batch = next(batches)
        for name in MAPS:
            got = np.asarray(batch[name]).reshape(8, *stored[name].shape[1:])
            if access == "sequential":
                np.testing.assert_array_equal(got, stored[name][number * 8 : number * 8 + 8])
            else:  # shuffled: each of them is one of ours
                known = {value.tobytes() for value in stored[name]}
                assert all(value.tobytes() in known for value in got)


def test_bytes_are_those_on_disk(root: Path) -> None:
    files = [p for name in MAPS for p in (root / "train" / name).glob("c.*")]
    on_disk = sum(p.stat().st_size for p in files)
    # Each file has a checksum of its index, and the last one room for samples there are not.
    assert 0 <= on_disk - stored_bytes(open_dataset(root)["train"], range(72)) * 72 <= len(files) * 4 + 4 * 8 * 16
    drop_from_cache(root)  # only advice: what it must not do is change anything
    assert open_dataset(root)["train"].sample(0).depth.any()


def test_the_command_measures_from_any_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its child processes find the checkout, and the dataset where the command was told it is."""
    arguments = ["read", "--dataset", root.name, "--work", str(tmp_path / "work"), "--json"]
    arguments += ["--workers", "2", "--access", "clips", "--cache", "warm", "--seconds", "0.2", "--against", ""]
    monkeypatch.chdir(root.parent)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr()
    assert caught.value.code == 0, told.err
    content = json.loads(told.out)
    figures = content["figures"]
    assert figures["samples_per_s"] > 0
    assert 0 < figures["ratio_decompression"] < 2
    assert figures["resume_exact"] == 1
    assert figures["ratio_fastest_peer"] is None  # no peer was asked for
    (case,) = [c for c in content["cases"] if c["reader"] == "canonface"]
    assert case["memory_mb"] > 10
    assert case["first_batch_s"] < 10


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(DependencyError, match=r"litdata is not installed.*canonface\[bench\]"):
        read_peers.check_installed("litdata")
