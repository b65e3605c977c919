"""Frames that fail wherever they are tried: the build goes on, says why, and has the bytes of one without them."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from datagen.cli import app
from datagen.common.errors import InputError, UnitError
from datagen.flows import quarantine as quarantining
from datagen.flows.build import build
from datagen.flows.quarantine import read_quarantine
from datagen.flows.runners import prefect as prefect_runner
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.runners.tracking import Tracker
from datagen.flows.stages import person as person_stage
from datagen.flows.stages import warp as warp_stage
from datagen.heads.base import HeadModel
from datagen.layout import BuildLayout
from datagen.manifest import WarpConfig, load_manifest
from datagen.shards import open_dataset
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Frame, SequenceKey
from datagen.warp import sequence
from tests.support.build_trees import command, copy_build, folder_build, tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

KEY = SequenceKey("s000", "performance")
BAD = 2
# What a worker process runs first: the warp of one frame kills it.
PRELOAD = """
import os
from datagen.flows.stages import warp
def spoilt(unit, state, own=warp._warp_and_store):
    if state.frame == {frame}:
        os._exit(9)
    own(unit, state)
if warp._warp_and_store.__name__ != "spoilt":
    warp._warp_and_store = spoilt
"""
# What the driver runs first: its server would take longer to start than there is to do, and test_runners.py has it.
WITHOUT_PREFECT = """
from contextlib import nullcontext
from datagen.flows.runners import drive, prefect, tracking
drive.FIRST_PAUSE_S = 0.05
prefect.told_prefect = lambda *_: nullcontext(tracking.Tracker())
"""


@pytest.fixture
def unwarped(talk_build: BuildResult, tmp_path: Path) -> Path:
    """The talk as it was before its frames were warped."""
    out = copy_build(talk_build.root, tmp_path / "out")
    for frame in range(5):
        shutil.rmtree(BuildLayout(out).frame_warp(KEY, frame))
    shutil.rmtree(out / "dataset.zarr")
    return out


def without_a_frame(talk_build: BuildResult, out: Path) -> None:
    """Hold a build that left one frame out against one that did not."""
    whole, left = tree(talk_build.root), tree(out)
    warps = {name: digest for name, digest in whole.items() if name.startswith("warps/") and f"/{BAD:06d}/" not in name}
    assert {name: digest for name, digest in left.items() if name.startswith("warps/")} == warps
    frames = open_dataset(out / "dataset.zarr")["train"].frames.frame.tolist()
    assert frames == [frame for frame in range(5) if frame != BAD]


def on_workers(manifest: Path, out: Path, preload: Path, first: str, *more: str) -> subprocess.Popen[str]:
    """Start a build on Dask workers of its own, which run some Python first."""
    preload.write_text(first)
    # On a busy machine a worker takes longer to start again than its cluster waits for it.
    dask = {"WORKER__PRELOAD": str(preload), "DEPLOY__LOST_WORKER_TIMEOUT": "1s"}
    settings = {f"DASK_DISTRIBUTED__{name}": value for name, value in dask.items()}
    hurry = f"import os; os.environ.update({settings!r})\n{WITHOUT_PREFECT}"
    return command("build", manifest, "--out", out, *more, before=hurry)


def test_a_frame_that_kills_its_worker_is_left_out_alone(
    talk_build: BuildResult, talk_manifest: Path, unwarped: Path, tmp_path: Path
) -> None:
    # One worker, and nothing to do for it but the frame and its neighbour: each time it dies, all is loaded anew.
    for frame in (0, 3, 4):
        done = BuildLayout(talk_build.root).frame_warp(KEY, frame)
        shutil.copytree(done, BuildLayout(unwarped).frame_warp(KEY, frame))
    arguments = ("--runner", "dask", "--workers", "1", "--set", "needs.warp.retries=0")
    process = on_workers(talk_manifest, unwarped, tmp_path / "preload.py", PRELOAD.format(frame=BAD), *arguments)
    output, errors = process.communicate()
    assert process.returncode == 1, errors
    assert f"left out warp of {KEY}/{BAD:06d}, tried once" in errors
    assert "died" in errors
    assert "verified  yes" in output
    without_a_frame(talk_build, unwarped)


def test_a_frame_that_hangs_is_left_out_alone(
    talk_build: BuildResult, talk_manifest: Path, unwarped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All is done but the frame: what works takes no time, and what hangs may be waited for briefly.
    for frame in (0, 1, 3, 4):
        done = BuildLayout(talk_build.root).frame_warp(KEY, frame)
        shutil.copytree(done, BuildLayout(unwarped).frame_warp(KEY, frame))
    own, enough = warp_stage._warp_and_store, threading.Event()

    def spoilt(unit: warp_stage.WarpUnit, state: warp_stage.FrameState) -> None:
        if state.frame != BAD:
            own(unit, state)
            return
        enough.wait(300)
        raise ZeroDivisionError("nobody waits for it any more")

    monkeypatch.setattr(warp_stage, "_warp_and_store", spoilt)
    # Prefect's server, which would be waited for at the end, has its tests elsewhere.
    monkeypatch.setattr(prefect_runner, "told_prefect", lambda *_: nullcontext(Tracker()))
    manifest = load_manifest(talk_manifest, ["needs.warp.retries=0", "needs.warp.timeout_s=2"])
    try:
        result = build(manifest, unwarped, RunnerConfig("threads", workers=2))
    finally:
        enough.set()
    assert [unit.unit for unit in result.quarantined] == [f"{KEY}/{BAD:06d}"]
    assert "did not end within 2 s" in result.quarantined[0].reason
    assert result.verification.ok
    without_a_frame(talk_build, unwarped)


def test_a_mistake_in_one_frame_leaves_it_out_until_it_is_asked_for(
    talk_build: BuildResult, talk_manifest: Path, unwarped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = warp_stage._warp_and_store
    bad = {BAD}

    def spoilt(unit: warp_stage.WarpUnit, state: warp_stage.FrameState) -> None:
        if state.frame in bad:
            raise ZeroDivisionError("a mistake of the program")
        own(unit, state)

    monkeypatch.setattr(warp_stage, "_warp_and_store", spoilt)
    manifest, serial = load_manifest(talk_manifest), RunnerConfig("serial")
    result = build(manifest, unwarped, serial)
    assert [unit.unit for unit in result.quarantined] == [f"{KEY}/{BAD:06d}"]
    assert "ZeroDivisionError: a mistake" in result.quarantined[0].reason
    assert "in spoilt" in result.quarantined[0].log
    without_a_frame(talk_build, unwarped)
    # It stays out; asked for again, it is made, without what spoilt it, and has the place that it had before.
    bad.clear()
    assert len(build(manifest, unwarped, serial).quarantined) == 1
    assert "in quarantine: warp of" in CliRunner().invoke(app, ["explain", str(unwarped)]).stdout
    assert f"warp of {KEY}/{BAD:06d}: ZeroDivisionError: a mistake" in result.report.read_text()
    assert CliRunner().invoke(app, ["requeue", str(unwarped), "--quarantined"]).exit_code == 0
    result = build(manifest, unwarped, serial)
    assert (result.quarantined, result.warped) == ((), 1)
    assert open_dataset(result.dataset)["train"].frames.frame.tolist() == list(range(5))
    assert tree(unwarped) == tree(talk_build.root)


def test_a_mistake_in_all_frames_ends_the_build(
    talk_manifest: Path, unwarped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(unit: warp_stage.WarpUnit, state: warp_stage.FrameState) -> None:
        raise ZeroDivisionError("a mistake of the program")

    monkeypatch.setattr(warp_stage, "_warp_and_store", spoilt)
    manifest, serial = load_manifest(talk_manifest), RunnerConfig("serial")
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        build(manifest, unwarped, serial)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        build(manifest, unwarped, RunnerConfig("serial", max_failed="1"))


def test_what_is_in_quarantine_is_tried_again_when_something_changed(
    talk_manifest: Path, unwarped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(unit: warp_stage.WarpUnit, state: warp_stage.FrameState) -> None:
        raise MemoryError

    layout, manifest = BuildLayout(unwarped), load_manifest(talk_manifest)
    with monkeypatch.context() as patch:
        patch.setattr(warp_stage, "_warp_and_store", spoilt)
        patch.setattr("datagen.flows.runners.drive.FIRST_PAUSE_S", 0.001)
        with pytest.raises((MemoryError, UnitError)):
            build(manifest, unwarped, RunnerConfig("serial"))
    assert len(read_quarantine(layout, manifest).units) == 1
    other = load_manifest(talk_manifest, ["warp.max_distance_mm=7"])
    assert not read_quarantine(layout, other).units
    monkeypatch.setattr(quarantining, "versions", lambda: {"canonface": "another"})
    assert not read_quarantine(layout, manifest).units
    # What a hand wrote there is nobody's quarantine, and stays.
    note = layout.quarantine / "notes.json"
    note.write_text("[]")
    assert not read_quarantine(layout, manifest).units
    assert note.exists()


def test_a_file_that_cannot_be_read_just_now_is_not_a_broken_one(
    talk_build: BuildResult, talk_manifest: Path, unwarped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, stale = FolderCaptures.frame, {1, 3}

    def frame(captures: FolderCaptures, key: SequenceKey, index: int) -> Frame:
        if index in stale:
            stale.remove(index)
            try:
                raise OSError(errno.ESTALE, "Stale file handle")
            except OSError as error:
                raise InputError(f"frame {index} cannot be read ({error})") from None
        return own(captures, key, index)

    monkeypatch.setattr(FolderCaptures, "frame", frame)
    monkeypatch.setattr("datagen.flows.runners.drive.FIRST_PAUSE_S", 0.001)
    result = build(load_manifest(talk_manifest), unwarped, RunnerConfig("serial"))
    assert not stale
    assert not result.quarantined
    assert tree(unwarped) == tree(talk_build.root)


def made(out: Path) -> dict[str, str]:
    """What warps and dataset of a build consist of, but for its records."""
    records = ("dataset.zarr/records/", "dataset.zarr/zarr.json")
    return {
        name: digest
        for name, digest in tree(out).items()
        if name.startswith(("warps/", "dataset.zarr/"))
        and not (name.startswith(records) or name.endswith("/record.json"))
    }


@pytest.fixture
def never_had_it(talk_build: BuildResult, tmp_path: Path) -> Path:
    """Manifest of the talk's captures as they would be if the bad frame had never been taken."""
    manifest = folder_build(talk_build.root, tmp_path / "whole", tmp_path / "captures")
    capture = tmp_path / "captures" / KEY.subject / KEY.sequence / "capture.json"
    content = json.loads(capture.read_text())
    content["frames"].remove(BAD)
    capture.write_text(json.dumps(content))
    return manifest


def test_a_keyframe_that_nobody_can_learn_from_is_left_out_alone(
    talk_manifest: Path, unwarped: Path, tmp_path: Path, never_had_it: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(BuildLayout(unwarped).person(KEY))
    own = sequence._registered
    # Each good one is registered once: it is met again by itself, without the bad one, and by the fresh build.
    known: dict[bytes, Any] = {}

    def remembered(head: HeadModel, index: int, read: Callable[[int], Frame], config: WarpConfig) -> Any:
        scan = read(index).scan.vertices.tobytes()
        if scan not in known:
            known[scan] = own(head, index, read, config)
        return known[scan]

    def spoilt(head: HeadModel, index: int, *rest: Any) -> Any:
        if index == BAD:
            raise ZeroDivisionError("a mistake of the program")
        return remembered(head, index, *rest)

    monkeypatch.setattr(sequence, "_registered", remembered)
    with monkeypatch.context() as patch:
        patch.setattr(sequence, "_registered", spoilt)
        # Of what is done with one by itself, only that can go wrong here; test_person.py has the rest.
        patch.setattr(person_stage, "fit_keyframe", spoilt)
        result = build(load_manifest(talk_manifest), unwarped, RunnerConfig("serial"))
    assert [(unit.stage, unit.unit) for unit in result.quarantined] == [("person", f"{KEY}/{BAD:06d}")]
    assert result.verification.ok
    # The same bytes, person and all, as of captures that never had it; only keys tell, which hold `capture.json` too.
    build(load_manifest(never_had_it), tmp_path / "fresh", RunnerConfig("serial"))
    assert made(unwarped) == made(tmp_path / "fresh")
    assert f"warps/{KEY}/person/person.npz" in made(unwarped)
    assert open_dataset(unwarped / "dataset.zarr")["train"].frames.frame.tolist() == [0, 1, 3, 4]
