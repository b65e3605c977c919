"""Builds in parts: the same bytes, in any number of processes; leases keep them and whole builds apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from datagen.common.errors import InputError, StorageError
from datagen.flows import part_lease
from datagen.flows.build_folder import build_lock
from datagen.flows.part_lease import BUILD, held_lease
from datagen.flows.parts import Part, finish_build, freeze_build, run_part
from datagen.flows.runners.contract import RunnerConfig
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from tests.support.build_trees import copy_build, tree
from tests.support.command_line import call

if TYPE_CHECKING:
    from datagen.flows.build import BuildResult

SERIAL = RunnerConfig("serial")


@pytest.fixture
def half_done(tiny_build: BuildResult, tmp_path: Path) -> Path:
    """A build with captures and one of its warps; the other and all shards are missing."""
    out = copy_build(tiny_build.root, tmp_path / "out")
    shutil.rmtree(out / "warps" / "s001")
    for name in ("dataset.zarr", "report", "plan"):
        shutil.rmtree(out / name)
    (out / "history.json").unlink()
    return out


def test_a_part_is_read_and_holds_its_share() -> None:
    units = list(range(10))
    parts = [list(Part(number, 4).among(units)) for number in range(1, 5)]
    assert [unit for part in parts for unit in part] == units
    assert {len(part) for part in parts} == {2, 3}
    assert list(Part(3, 40).among(units)) == []
    assert Part.parse(" 3/10 ") == Part(3, 10)
    for text in ("0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/99999999999"):
        with pytest.raises(InputError, match="is no part"):
            Part.parse(text)


def test_parts_end_in_the_bytes_of_a_whole_build(
    half_done: Path, tiny_build: BuildResult, tiny_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_manifest(tiny_manifest)
    with pytest.raises(InputError, match="has no frozen plan"):
        run_part(recipe, half_done, "warp", Part(1, 1), SERIAL)
    frozen = freeze_build(recipe, half_done)
    assert (frozen.shards, frozen.waiting, frozen.units) == ("", 1, {"simulate": 2, "warp": 2})
    with pytest.raises(InputError, match=r"shards of .* are not planned yet"):
        run_part(recipe, half_done, "render", Part(1, 1), SERIAL)
    with pytest.raises(InputError, match="of the stage warp, s001/performance/000000 is missing"):
        finish_build(half_done, SERIAL)
    for number in (2, 1):
        arguments = ("build", tiny_manifest, "--out", half_done, "--stage", "warp", "--part", f"{number}/2")
        assert call(*arguments, "--workers", "1", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"of": 2, "part": number, "stage": "warp", "units": 1}
    assert call("plan", tiny_manifest, "--freeze", half_done) == 0
    assert "render (4 units)" in capsys.readouterr().out
    with pytest.raises(InputError, match="of the stage render, train-00000"):
        finish_build(half_done, SERIAL)
    assert [run_part(recipe, half_done, "render", Part(number, 3), SERIAL) for number in (3, 1, 2)] == [4, 2, 2]
    assert run_part(recipe, half_done, "faces", Part(1, 1), SERIAL) == 2
    assert call("finish", half_done, "--json") == 0
    assert json.loads(capsys.readouterr().out)["verified"]
    assert tree(half_done) == tree(tiny_build.root)
    assert not (half_done / ".leases").exists()


def test_parts_run_as_prefect_flows_of_their_stage(
    half_done: Path, tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datagen.flows import stage_flows
    from datagen.flows.runners.prefect import prefect_session

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    manifest, out = str(tiny_manifest), str(half_done)
    with prefect_session(tmp_path / "home"):
        from prefect.client.orchestration import get_client

        with pytest.raises(InputError, match="has no frozen plan"):
            stage_flows.warp(manifest, out)
        stage_flows.freeze(manifest, out)
        stage_flows.warp(manifest, out, "2/2", workers=1)
        with get_client(sync_client=True) as client:
            runs = {run.name: run.state.type.value for run in client.read_flow_runs()}
            tasks = {run.name for run in client.read_task_runs()}
    assert runs == {
        f"warp 1/1 in {out}": "FAILED",
        f"freeze {out}": "COMPLETED",
        f"warp 2/2 in {out}": "COMPLETED",
    }
    assert tasks == {"warp s001/performance"}
    warped = {name: digest for name, digest in tree(tiny_build.root).items() if name.startswith("warps/")}
    assert {name: digest for name, digest in tree(half_done).items() if name.startswith("warps/")} == warped


def test_what_is_no_part_of_this_build_is_refused(half_done: Path, tiny_manifest: Path) -> None:
    recipe = load_manifest(tiny_manifest)
    freeze_build(recipe, half_done)
    other = load_manifest(tiny_manifest, ["render.resolution=42"])
    with pytest.raises(InputError, match="is of another recipe"):
        run_part(other, half_done, "warp", Part(1, 1), SERIAL)
    for name in ("person", "verify", "paint"):
        with pytest.raises(InputError, match=f"no stage '{name}' .* simulate, warp, render, faces|no stage"):
            run_part(recipe, half_done, name, Part(1, 1), SERIAL)
    assert call("build", tiny_manifest, "--out", half_done, "--part", "1/2") == 2
    assert call("build", tiny_manifest, "--out", half_done, "--stage", "warp", "--runner", "dask") == 2


def test_parts_and_a_build_exclude_each_other(tmp_path: Path) -> None:
    layout = BuildLayout(tmp_path)
    with held_lease(layout, "warp-1-of-2"), held_lease(layout, "warp-2-of-2"):
        with pytest.raises(StorageError, match=rf"part warp 1 of 2 is working .*process {os.getpid()} of"):
            held_lease(layout, "warp-1-of-2").__enter__()
        with pytest.raises(StorageError, match="part warp 1 of 2 is working"), build_lock(layout):
            pass
    with build_lock(layout):
        with pytest.raises(StorageError, match="another build is working"), held_lease(layout, "warp-1-of-2"):
            pass
        assert [path.name for path in layout.leases.iterdir()] == [BUILD]
    assert not layout.leases.exists()


def lease_of(layout: BuildLayout, name: str, age_s: float = 0.0, **owner: Any) -> Path:
    """Write the lease of somebody else."""
    layout.leases.mkdir(exist_ok=True)
    path = layout.leases / name
    content = {"format": "canonface-part-lease", "id": "x", "host": "elsewhere", "process": 7, "kernel": "k", **owner}
    path.write_text(json.dumps(content))
    os.utime(path, (time.time(), time.time() - age_s))
    return path


def test_a_lease_whose_owner_is_gone_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, name = BuildLayout(tmp_path), "render-1-of-1"
    monkeypatch.setattr(part_lease, "BEAT_S", 0.05)
    lease_of(layout, name)
    with pytest.raises(StorageError, match="process 7 of elsewhere, last sign of life 0 s ago"):
        held_lease(layout, name).__enter__()
    lease_of(layout, name, part_lease.STALE_S + 1)
    with held_lease(layout, name) as lease:
        time.sleep(0.2)
        lease.check()
        assert json.loads((layout.leases / name).read_text())["process"] == os.getpid()
    assert not layout.leases.exists()
    # On this machine a process that has ended is known to be dead at once.
    ended = subprocess.run(
        [sys.executable, "-c", "import json; from datagen.shards.lease import who_am_i; print(json.dumps(who_am_i()))"],
        capture_output=True,
        text=True,
        check=True,
    )
    lease_of(layout, name, **json.loads(ended.stdout))
    with held_lease(layout, name):
        pass
    # One on another machine may have been killed a moment ago: who is patient sees it grow old.
    lease_of(layout, name, part_lease.STALE_S - 0.5)
    with held_lease(layout, name, patient=True):
        pass
    # One that still moves is alive, whatever the clocks say.
    path = lease_of(layout, name, part_lease.STALE_S + 1)
    monkeypatch.setattr(part_lease.time, "sleep", lambda _: os.utime(path))
    for patient in (False, True):
        os.utime(path, (time.time(), time.time() - (60 if patient else part_lease.STALE_S + 1)))
        with pytest.raises(StorageError, match="is working"):
            held_lease(layout, name, patient=patient).__enter__()


def test_a_lease_that_is_lost_stops_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, name = BuildLayout(tmp_path), "warp-1-of-1"
    monkeypatch.setattr(part_lease, "BEAT_S", 0.02)
    with held_lease(layout, name) as lease:
        lease.check()
        path = lease_of(layout, name)
        time.sleep(0.3)
        with pytest.raises(StorageError, match="is lost"):
            lease.check()
    assert json.loads(path.read_text())["host"] == "elsewhere"  # another's is not removed


def test_somebody_elses_file_among_the_leases_is_named(tmp_path: Path) -> None:
    layout = BuildLayout(tmp_path)
    layout.leases.mkdir()
    for name in (BUILD, "warp-1-of-1", "notes.txt"):
        (layout.leases / name).write_text("mine")
        with pytest.raises(StorageError, match="is no lease of ours"), build_lock(layout):
            pass
        assert (layout.leases / name).read_text() == "mine"
        (layout.leases / name).unlink()


def test_where_nothing_can_be_locked_the_lease_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    layout = BuildLayout(tmp_path)
    message = f"another build is working .*process {os.getpid()}"
    with build_lock(layout), pytest.raises(StorageError, match=message), build_lock(layout):
        pass
    with build_lock(layout):
        pass
