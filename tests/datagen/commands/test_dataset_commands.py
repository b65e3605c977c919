"""What a user does with a finished build: verify, render again, push, combine, export, inspect, move, replace."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from datagen.common.errors import StorageError
from datagen.common.ownership import LISTING
from datagen.flows.build import build
from datagen.flows.rerender import render_again
from datagen.flows.runners.contract import RunnerConfig
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from datagen.shards import open_dataset
from datagen.sources.frame import SequenceKey
from tests.datagen.commands.test_cli import Run
from tests.support.build_trees import command, copy_build, tree
from tests.support.shard_samples import flip

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

SERIAL = RunnerConfig("serial")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line."""
    return Run(capsys, monkeypatch)


@pytest.fixture
def copy(tiny_build: BuildResult, tmp_path: Path) -> Path:
    """A build that may be changed."""
    return copy_build(tiny_build.root, tmp_path / "out")


def test_each_level_of_verify_says_what_it_looked_at(run: Run, copy: Path) -> None:
    lines = {level: run("verify", copy, *level)[1] for level in ((), ("--quick",), ("--deep",))}
    assert "the digest of every byte; no maps were decoded" in lines[()]
    assert "no maps were read" in lines["--quick",]
    assert "every value of every map" in lines["--deep",]
    assert run("verify", copy, "--quick", "--deep")[0] == 2
    chunk = copy / "dataset.zarr" / "val" / "normal" / "c.0.0.0.0"
    flip(chunk, 30)
    assert run("verify", copy, "--quick")[0] == 0
    code, text, _ = run("verify", copy)
    assert code == 1
    assert "val, shard 0, sample 0" in text


def test_samples_rendered_again_are_the_stored_ones(run: Run, tiny_build: BuildResult) -> None:
    content = run.json("verify", tiny_build.root, "--rerender", "3")
    assert len(content["rerendered"]) == 3
    assert all(sample["ok"] for sample in content["rerendered"])
    code, _, err = run("verify", tiny_build.dataset, "--rerender", "1")
    assert code == 2
    assert "is not a build folder" in err


def test_rendering_again_notices_a_changed_warp_and_changed_captures(copy: Path) -> None:
    image = next((copy / "captures" / "s001" / "performance" / "images").rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    found = render_again(copy, 100)
    assert len(found) == 8
    wrong = [sample for sample in found if not sample.ok]
    assert {(s.split, tuple(s.differing)) for s in wrong} == {("val", ("image",))}
    record = BuildLayout(copy).frame_warp(SequenceKey("s000", "performance"), 0) / "record.json"
    content = json.loads(record.read_text())
    content["files"]["warp.npz"]["sha256"] = "0" * 64
    record.write_text(json.dumps(content))
    assert {s.split for s in render_again(copy, 100) if "other warps" in s.reason} == {"train"}


def test_inspect_shows_edges_and_the_error_where_truth_is_known(
    run: Run, tiny_build: BuildResult, tmp_path: Path
) -> None:
    run.json("inspect", tiny_build.root, "--sample", "1", "--out", tmp_path / "with.png")
    run.json(
        "inspect", shutil.copytree(tiny_build.dataset, tmp_path / "d"), "--sample", "1", "--out", tmp_path / "no.png"
    )
    known, unknown = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("with.png", "no.png"))
    # The error stands beside what both have: the images above are the same.
    assert not np.array_equal(known, unknown)
    assert np.array_equal(known[:340], unknown[:340])


def test_pushed_merged_cut_and_exported_from_the_command_line(
    run: Run, tiny_build: BuildResult, tmp_path: Path, s3_url: str
) -> None:
    assert run.json("push", tiny_build.root, s3_url)["uuid"] == open_dataset(tiny_build.dataset).uuid
    code, text, _ = run("verify", s3_url, "--deep")
    assert code == 0
    assert "7 shards, 8 samples" in text
    assert run.json("stats", s3_url)["splits"]["all"]["samples"] == 8
    assert run.json("inspect", s3_url, "--out", tmp_path / "s.png")["subject"] == "s000"
    both = run.json("merge", s3_url, tiny_build.root, "--out", tmp_path / "both", "--labels", "a,b")
    assert both["samples"] == {"test": 0, "train": 8, "val": 8}
    half = run.json("subset", tmp_path / "both", "--where", "subject=a-*", "--out", tmp_path / "half")
    assert half["samples"] == {"test": 0, "train": 4, "val": 4}
    assert run("verify", tmp_path / "half", "--deep")[0] == 0
    assert len(run.json("export", "webdataset", tmp_path / "half", "--out", tmp_path / "tars")["tars"]) == 2


def test_status_says_per_stage_what_is_missing_and_why(run: Run, copy: Path) -> None:
    stages = {stage["stage"]: stage for stage in run.json("status", copy)["stages"]}
    assert [stages[name]["percent"] for name in ("simulate", "warp", "render", "verify", "report")] == [100] * 5
    (copy / "dataset.zarr" / "records" / "val-00001.json").unlink()
    (copy / "dataset.zarr" / "zarr.json").unlink()
    shutil.rmtree(BuildLayout(copy).frame_warp(SequenceKey("s001", "performance"), 0))
    stages = {stage["stage"]: stage for stage in run.json("status", copy)["stages"]}
    assert (stages["warp"]["percent"], stages["warp"]["missing"]) == (50, ["s001/performance/000000"])
    assert (stages["render"]["done"], stages["render"]["missing"]) == (3, ["val-00001"])
    assert "waiting for frames" in stages["render"]["why"]
    assert stages["verify"]["percent"] == 0
    assert "missing: val-00001" in run("status", copy)[1]


def test_a_moved_build_goes_on_as_if_it_had_always_been_there(copy: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    before = tree(copy)
    moved = copy.rename(tmp_path / "elsewhere")
    result = build(load_manifest(tiny_manifest), moved, SERIAL)
    assert (result.warped, result.rendered) == (0, 0)
    assert tree(moved) == before


def test_a_folder_of_somebody_else_is_left_alone(run: Run, tiny_manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    for name in ("build", "simulate"):
        code, _, err = run(name, tiny_manifest, "--out", tmp_path / "thesis")
        assert code == 2
        assert "holds chapter.tex" in err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_another_dataset_is_replaced_on_request_only(copy: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    before = tree(copy)
    other = load_manifest(tiny_manifest, ["name=other"])
    with pytest.raises(StorageError, match=r"another dataset \(name 'tiny', now 'other'\).*--replace"):
        build(other, copy, SERIAL)
    with pytest.raises(StorageError, match="seed 0, now 7"):
        build(load_manifest(tiny_manifest, ["seed=7"]), copy, SERIAL)
    assert tree(copy) == before
    build(other, copy, SERIAL, replace=True)
    assert json.loads(open_dataset(copy).plan.manifest)["name"] == "other"
    for text, message in (("[]", "is not the manifest of a build"), ('{"name": "an extension"}', "another dataset")):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(StorageError, match=message):
            build(other, copy, SERIAL)
        with pytest.raises(StorageError, match=r"manifest\.json: in the way"):
            build(other, copy, SERIAL, replace=True)
        assert (copy / "manifest.json").read_text() == text


def test_a_full_disk_is_named_before_a_server_is_started(tiny_manifest: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))"
    process = command("build", tiny_manifest, "--out", tmp_path / "out", before=limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "larger than allowed" in err
    assert "Prefect" not in err
    assert sorted(os.listdir(tmp_path / "out")) == [LISTING, ".lock", "manifest.json"]
