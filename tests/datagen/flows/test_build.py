"""Whole builds: what they leave, what a second run does, and what broken input does to them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from datagen.common.errors import InputError, StorageError
from datagen.common.files import claim_folder
from datagen.flows.build import build
from datagen.flows.records import read_result_record
from datagen.flows.runners.contract import RunnerConfig
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from datagen.shards import open_dataset, verify_dataset
from datagen.sources.frame import SequenceKey
from datagen.warp.storage import read_verdict
from tests.support.build_trees import command, copy_build, folder_build, times, tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

SERIAL = RunnerConfig("serial")
FIRST, SECOND = SequenceKey("s000", "performance"), SequenceKey("s001", "performance")


def test_a_build_ends_in_a_verified_dataset_with_a_report(tiny_build: BuildResult) -> None:
    assert tiny_build.verification.ok
    assert dict(tiny_build.samples) == {"train": 4, "val": 4, "test": 0}
    assert tiny_build.warped == 2
    assert tiny_build.rendered == 8
    assert tiny_build.report.read_text().lstrip().startswith("<!")
    assert (tiny_build.root / ".prefect").is_dir()
    dataset = open_dataset(tiny_build.dataset)
    assert dataset.splits["train"] == ("s000",)
    sample = dataset["val"].sample(2)
    assert (sample.subject, sample.camera, sample.frame) == ("s001", "cam02", 0)
    # The head is in the picture, and it is the head of the maps: the image is brighter or darker there.
    assert (sample.depth > 0).mean() > 0.25
    assert (sample.confidence > 0).mean() > 0.2
    known = sample.confidence > 0
    assert np.abs(sample.canonical[:, known]).max() <= 1


def test_depth_and_canonical_of_a_sample_belong_to_the_camera_stored_with_it(tiny_build: BuildResult) -> None:
    """Unprojected depth, brought to head axes, must be near the canonical coordinate: expression moves skin by mm."""
    dataset = open_dataset(tiny_build.dataset)
    sample = dataset["train"].sample(1)
    y, x = np.nonzero(sample.confidence > 0.5)
    rays = np.stack([x + 0.5, y + 0.5, np.ones(len(x))], axis=1) @ np.linalg.inv(sample.intrinsics.astype(float)).T
    camera = rays * sample.depth[y, x, None]
    head_to_camera = sample.world_to_camera.astype(float) @ sample.head_to_world.astype(float)
    head = (camera - head_to_camera[:3, 3]) @ head_to_camera[:3, :3]
    centre = np.array(dataset.plan.space["centre"])
    canonical_m = sample.canonical[:, y, x].T * dataset.half_extent_m + centre
    assert np.median(np.linalg.norm(head - canonical_m, axis=1)) < 0.02


def test_a_second_run_does_nothing(tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    before = times(out)
    again = build(load_manifest(tiny_manifest), out)
    assert (again.warped, again.rendered) == (0, 0)
    assert again.verification.ok
    assert times(out) == before


def test_killed_builds_end_in_the_bytes_of_an_undisturbed_one(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    out = tmp_path / "killed"
    # What a kill leaves of a capture is tried at every step of one in test_faults.py.
    claim_folder(out)
    for name in ("captures", "truth"):
        shutil.copytree(tiny_build.root / name, out / name)
    for stage, at_most_s in (("2/6 warp", 1.5), ("3/6 render", 0.3)):
        process = command("build", tiny_manifest, "--out", out, "--runner", "serial")
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"[{stage}] started"):
                break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(float(rng.uniform(0.0, at_most_s)))
        process.kill()
        process.communicate()
    assert build(load_manifest(tiny_manifest), out, SERIAL).verification.ok
    assert tree(out) == tree(tiny_build.root)


def test_a_broken_frame_becomes_a_verdict_and_the_rest_is_built(tiny_build: BuildResult, tmp_path: Path) -> None:
    manifest = folder_build(tiny_build.root, tmp_path / "out", tmp_path / "captures")
    content = yaml.safe_load(manifest.read_text())
    content["splits"] = {"val": 0, "test": 0}
    manifest.write_text(yaml.safe_dump(content))
    scan = next((tmp_path / "captures" / "s001" / "performance" / "scans").iterdir())
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])
    result = build(load_manifest(manifest), tmp_path / "out", SERIAL)
    layout = BuildLayout(tmp_path / "out")
    folder = layout.frame_warp(SECOND, 0)
    verdict = read_verdict(folder)
    assert verdict.status == "fail"
    assert "MeshError" in verdict.reasons[0]
    assert scan.name in verdict.reasons[0]
    assert not (folder / "warp.npz").exists()
    assert result.verification.ok
    assert result.samples["train"] == 4
    assert open_dataset(result.dataset).splits["train"] == ("s000",)

    again = build(load_manifest(manifest), tmp_path / "out", SERIAL)
    assert (again.warped, again.rendered) == (0, 0)


def test_no_usable_frame_ends_with_the_reason(tiny_build: BuildResult, tmp_path: Path) -> None:
    manifest = folder_build(tiny_build.root, tmp_path / "out", tmp_path / "captures")
    for scan in (tmp_path / "captures").glob("*/*/scans/*"):
        scan.write_bytes(b"ply\n")
    with pytest.raises(InputError, match=r"none of 2 frames can be stored \(2 fail\)"):
        build(load_manifest(manifest), tmp_path / "out", SERIAL)


def test_a_lost_warp_and_a_damaged_shard_are_made_anew_and_an_edited_warp_is_refused(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    before = tree(out)
    warp = BuildLayout(out).frame_warp(FIRST, 0) / "warp.npz"
    edited = warp.read_bytes()[:-100] + bytes(100)
    warp.write_bytes(edited)
    with pytest.raises(StorageError, match=r"performance/000000/warp\.npz: in the way.*remove it if it is ours"):
        build(load_manifest(tiny_manifest), out, SERIAL)
    assert warp.read_bytes() == edited
    warp.unlink()
    shard = next(path for path in sorted((out / "dataset.zarr" / "val" / "depth").rglob("c*")) if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-4] + bytes(4))
    result = build(load_manifest(tiny_manifest), out, SERIAL)
    assert (result.warped, result.rendered) == (1, 2)
    assert tree(out) == before


def test_a_changed_render_setting_keeps_the_warps(tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    manifest = load_manifest(tiny_manifest, ["render.resolution=42", "shards.include_review=true"])
    result = build(manifest, out, SERIAL)
    assert (result.warped, result.rendered) == (0, 8)
    assert verify_dataset(result.dataset).ok
    assert open_dataset(result.dataset).resolution == 42


def test_fewer_subjects_leave_no_stale_warps(tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    manifest = load_manifest(tiny_manifest, ["source.subjects=1", "splits.val=0"])
    result = build(manifest, out, SERIAL)
    assert result.warped == 0
    assert read_result_record(BuildLayout(out).frame_warp(SECOND, 0)) is None
    assert dict(result.samples) == {"train": 4, "val": 0, "test": 0}


def test_a_disk_that_refuses_ends_in_one_message_and_no_half_files(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    (out / "dataset.zarr" / "records" / "val-00001.json").unlink()
    before = tree(out)
    # The kernel refuses files above 2 kB: the maps of a shard do not fit.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    process = command("build", tiny_manifest, "--out", out, "--runner", "serial", before=limit)
    _, errors = process.communicate()
    assert process.returncode == 2
    message = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(message) == 1
    assert "would be larger than allowed" in message[0]
    assert "Traceback" not in errors
    assert tree(out) == before


def test_records_name_the_bytes_they_stand_for(tiny_build: BuildResult) -> None:
    folder = BuildLayout(tiny_build.root).frame_warp(FIRST, 0)
    record = json.loads((folder / "record.json").read_text())
    assert set(record["files"]) == {"warp.npz", "verdict.json"}
    assert record["files"]["warp.npz"]["bytes"] == (folder / "warp.npz").stat().st_size
    assert record["cameras"] == ["cam00", "cam01", "cam02", "cam03"]
