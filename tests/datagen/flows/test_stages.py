"""Stages as a list that everything walks, what is stored, and the backend that is settled once."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datagen.common.errors import InputError, ManifestError
from datagen.flows import build as build_module
from datagen.flows import plan_store, shard_store
from datagen.flows import status as status_module
from datagen.flows.build import build, finished_units
from datagen.flows.planning import BuildPlan, plan_build, settle
from datagen.flows.records import read_result_record, write_result_record
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.shard_plan import plan_shards
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.stages import STAGES
from datagen.flows.stages.render import RenderStage
from datagen.flows.stored_frames import NO_VIEW, stored_frames
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, load_manifest, parse_manifest
from datagen.render import registry
from datagen.shards import open_dataset
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import copy_build, tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

SERIAL = RunnerConfig("serial")
FIRST, SECOND = SequenceKey("s000", "performance"), SequenceKey("s001", "performance")


def a_device(patch: pytest.MonkeyPatch, *, nvdiffrast: bool = False, nvwarp: bool = False) -> None:
    """Let this machine have a CUDA device that these backends can use; none if neither."""
    patch.setattr(registry, "_has_cuda_driver", lambda: nvdiffrast or nvwarp)
    patch.setattr(registry, "_nvdiffrast_ready", lambda: nvdiffrast)
    patch.setattr(registry, "_warp_cuda_ready", lambda: nvwarp)


def a_manifest(**render: object) -> Manifest:
    return parse_manifest({"name": "x", "source": {"kind": "simulated"}, "render": render})


def test_auto_is_settled_once_and_kept_by_later_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    a_device(monkeypatch)
    on_a_cpu = settle(a_manifest())
    assert on_a_cpu.render.backend == "numba"
    a_device(monkeypatch, nvwarp=True)
    assert settle(a_manifest()).render.backend == "nvwarp"
    a_device(monkeypatch, nvwarp=True, nvdiffrast=True)
    assert settle(a_manifest()).render.backend == "nvdiffrast"
    # The next run finds what the first one wrote, unless its user names something else.
    written = json.loads(on_a_cpu.text())
    assert settle(a_manifest(), written) == on_a_cpu
    assert settle(a_manifest(resolution=56), written).render.resolution == 56
    assert settle(a_manifest(backend="open3d"), written).render.backend == "open3d"
    # A recipe from before names were written, or of a backend there is no more.
    for unnamed in ({"render": {"backend": "auto"}}, {"render": {"backend": "glut"}}, {"render": None}, {}):
        assert settle(a_manifest(), unnamed).render.backend == "nvdiffrast"


def test_a_build_goes_on_with_its_backend_on_another_machine(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_manifest(tiny_manifest)
    assert recipe.render.backend == "auto"
    out = copy_build(tiny_build.root, tmp_path / "out")
    before, layout = tree(out), BuildLayout(out)
    written = layout.read_manifest()
    assert written.render.backend == registry.resolve_backend("auto")
    keys = [unit.content_key for unit in plan_shards(plan_build(written), layout).shards]

    a_device(monkeypatch, nvwarp=written.render.backend == "numba")
    assert registry.resolve_backend("auto") != written.render.backend
    assert [unit.content_key for unit in plan_shards(plan_build(written), layout).shards] == keys
    again = build(recipe, out, SERIAL)
    assert (again.warped, again.rendered) == (0, 0)
    assert tree(out) == before

    named = build(load_manifest(tiny_manifest, ["render.backend=open3d"]), out, SERIAL)
    assert (named.warped, named.rendered) == (0, 8)
    assert layout.read_manifest().render.backend == "open3d"
    assert json.loads(open_dataset(out).plan.manifest)["render"]["backend"] == "open3d"


def test_status_and_build_agree_on_what_is_stored(tiny_build: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(copy_build(tiny_build.root, tmp_path / "out"))
    manifest, folder = layout.read_manifest(), layout.frame_warp(SECOND, 0)
    record = read_result_record(folder)
    assert record is not None

    def look(plan: BuildPlan) -> tuple[dict[str, int], list[str], StageStatus]:
        shards = plan_shards(plan, layout)
        return (
            dict(stored_frames(plan, layout).left_out),
            [unit.shard.name for unit in shards.shards],
            RenderStage().status(plan, layout),
        )

    left_out, names, status = look(plan_build(manifest))
    assert (left_out, status.done, status.planned) == ({}, 4, len(names))

    strict = plan_build(
        manifest.model_copy(update={"shards": manifest.shards.model_copy(update={"include_review": False})})
    )
    write_result_record(folder, dataclasses.replace(record, status="review"))
    assert look(plan_build(manifest))[0] == {}
    left_out, names, status = look(strict)
    assert left_out == {"verdict review": 1}
    assert (names, status.planned, status.why) == (
        ["train-00000", "train-00001"],
        2,
        "1 frames left out: verdict review",
    )

    write_result_record(folder, dataclasses.replace(record, cameras=()))
    left_out, names, status = look(plan_build(manifest))
    assert left_out == {NO_VIEW: 1}
    assert (len(names), status.planned) == (2, 2)

    (folder / "record.json").unlink()
    assert stored_frames(strict, layout).waiting == {SECOND: (0,)}
    assert RenderStage().status(strict, layout).planned == 4
    with pytest.raises(InputError, match="frame 0 of s001/performance has no warp"):
        plan_shards(strict, layout)


def test_what_is_sent_to_workers_is_small_and_means_the_same_there(
    tiny_build: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = BuildLayout(copy_build(tiny_build.root, tmp_path / "out"))
    shutil.rmtree(layout.plan)
    plan = plan_build(layout.read_manifest())
    carried = [stage for stage in STAGES if stage.carried and stage.applies(plan)]
    assert [stage.name for stage in carried] == ["simulate", "warp", "render", "faces"]
    for stage in carried:
        tasks = stage.plan(plan, layout)
        units = [task.unit for task in tasks]
        sent = [pickle.dumps((stage.run, task)) for task in tasks]
        assert max(map(len, sent)) < 600
        stage.begin(plan, layout)
        with monkeypatch.context() as patch:
            # As in another process, which knows of no plan.
            patch.setattr(plan_store, "_PLANS", plan_store.PlanCache())
            patch.setattr(shard_store, "_PLANS", plan_store.PlanCache())
            for data, task, unit in zip(sent, tasks, units, strict=True):
                run, received = pickle.loads(data)
                assert (received, received.name, received.weight) == (task, task.name, unit.weight)
                assert vars(received.unit) | {"dataset": None} == vars(unit) | {"dataset": None}
                if stage.name in {"render", "faces"}:
                    assert received.unit.dataset.encoding_digest == unit.dataset.encoding_digest
                    assert received.unit.dataset.to_json() == unit.dataset.to_json()
                assert run(received) == 0  # it finds its work done, wherever it arrives


@dataclass(frozen=True)
class CountUnit(Unit):
    key: SequenceKey

    @property
    def name(self) -> str:
        return str(self.key)

    @property
    def folder(self) -> Path:
        return self.root / "counts" / self.key.subject


class CountStage(Stage[CountUnit, int]):
    """Writes how many vertices the first scan of each sequence has."""

    name = "count"
    counts = "sequences"
    doing = "counting"

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[CountUnit]:
        return [CountUnit(layout.root, plan.manifest, sequence.key) for sequence in plan.sequences]

    def finished(self, unit: CountUnit) -> bool:
        return (unit.folder / "count.txt").is_file()

    def make(self, unit: CountUnit) -> int:
        unit.folder.mkdir(parents=True, exist_ok=True)
        (unit.folder / "count.txt").write_text(str(len(unit.captures().frame(unit.key, 0).scan.vertices)))
        return 1

    def stale(self, layout: BuildLayout, units: Sequence[CountUnit]) -> list[Path]:
        return sorted(set((layout.root / "counts").iterdir()) - {unit.folder for unit in units})

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        units = self.plan(plan, layout)
        return self._status(len(units), [unit.name for unit in units if not self.finished(unit)], "not counted yet")

    def forget(self, plan: BuildPlan, layout: BuildLayout, frames: set[tuple[SequenceKey, int]]) -> list[str]:
        forgotten = [unit for unit in self.plan(plan, layout) if (unit.key, 0) in frames]
        for unit in forgotten:
            (unit.folder / "count.txt").unlink()
        return [unit.name for unit in forgotten]


def test_a_stage_in_the_list_is_built_reported_and_requeued(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(tiny_build.seconds) == ["simulate", "warp", "render", "faces", "verify", "report"]
    layout = BuildLayout(copy_build(tiny_build.root, tmp_path / "out"))
    before, recipe = tree(layout.root), load_manifest(tiny_manifest)
    plan = plan_build(layout.read_manifest())
    assert finished_units(plan, layout) is not None
    for module in (build_module, status_module):
        monkeypatch.setattr(module, "STAGES", (*STAGES[:5], CountStage(), *STAGES[5:]))
    assert finished_units(plan, layout) is None
    (layout.root / "counts" / "somebody").mkdir(parents=True)
    result = build(recipe, layout.root, SERIAL)
    assert list(result.seconds) == ["simulate", "warp", "count", "render", "faces", "verify", "report"]
    assert int((layout.root / "counts/s001/count.txt").read_text()) > 500
    assert sorted(path.name for path in (layout.root / "counts").iterdir()) == ["s000", "s001"]
    assert (result.warped, result.rendered) == (0, 0)
    assert finished_units(plan, layout) is not None

    forgotten = status_module.requeue(plan, layout, [(FIRST, 0)])
    assert forgotten["warp"] == ["s000/performance/000000"]
    assert forgotten["count"] == ["s000/performance"]
    stages = {stage["stage"]: stage for stage in status_module.build_status(layout)["stages"]}
    assert (stages["count"]["missing"], stages["count"]["why"]) == (["s000/performance"], "not counted yet")
    assert stages["warp"]["missing"] == ["s000/performance/000000"]
    assert build(recipe, layout.root, SERIAL).warped == 1
    assert tree(layout.root) == before


def test_the_recipe_of_a_build_is_read_or_named(tmp_path: Path) -> None:
    layout = BuildLayout(tmp_path)
    for content, message in ((None, "No such file"), ("{", "Expecting"), ("[]", "holds a list")):
        if content is not None:
            layout.manifest.write_text(content)
        with pytest.raises(InputError, match=rf"is not a build folder \(manifest\.json: .*{message}"):
            layout.read_manifest()
    layout.manifest.write_text('{"name": "x", "source": {"kind": "simulated"}, "colour": 1}')
    with pytest.raises(ManifestError, match="unknown key colour"):
        layout.read_manifest()
    layout.manifest.write_text(a_manifest().text())
    assert layout.read_manifest() == a_manifest()


def test_a_shard_whose_record_came_but_not_all_of_its_files_is_not_counted(
    tiny_build: BuildResult, tmp_path: Path
) -> None:
    layout = BuildLayout(copy_build(tiny_build.root, tmp_path / "out"))
    whole = status_module.build_status(layout)
    (layout.dataset / "val" / "valid" / "c.0").unlink()
    found = status_module.build_status(layout)
    assert found["shards_written"] == whole["shards_written"] - 1
    assert found["samples_written"] < whole["samples_written"]
