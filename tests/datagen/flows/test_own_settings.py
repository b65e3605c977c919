"""Settings of their own that frames are warped with: kept, part of keys, said everywhere, and taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from datagen.cli import app
from datagen.common.errors import InputError, ManifestError
from datagen.flows.build import build
from datagen.flows.folder_plan import plan_in
from datagen.flows.own_settings import read_own
from datagen.flows.plan_store import freeze, read_plan
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.stages.person import learns_person
from datagen.flows.stages.warp import WarpStage
from datagen.flows.status import build_status
from datagen.layout import RECORD, BuildLayout
from datagen.manifest import load_manifest
from datagen.shards import open_dataset, sample_provenance
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import copy_build, tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

NAME = "s001/performance"
OWN = {"warp.max_distance_mm": 6.0}


def requeue(out: Path, *arguments: str) -> dict[str, object]:
    run = CliRunner().invoke(app, ["requeue", str(out), *arguments, "--json"])
    if run.exception is not None:
        raise run.exception
    told: dict[str, object] = json.loads(run.stdout)
    return told


def test_frames_are_made_with_settings_of_their_own_until_these_are_taken_back(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    layout, recipe, serial = BuildLayout(out.resolve()), load_manifest(tiny_manifest), RunnerConfig("serial")
    told = requeue(out, NAME, "--set", "warp.max_distance_mm=6")
    assert (told["requeued"], told["set"]) == ([f"{NAME}/000000"], OWN)
    assert build(recipe, out, serial).warped == 1
    record = json.loads((layout.frame_warp(SequenceKey("s001", "performance"), 0) / RECORD).read_text())
    assert record["own_settings"] == OWN
    assert build_status(layout)["own_settings"] == {f"{NAME}/000000": OWN}
    dataset = open_dataset(layout.dataset)
    assert json.loads(dataset.plan.manifest)["own_settings"] == {f"{NAME}/000000": OWN}
    assert sample_provenance(dataset, "val", 0)["own_settings"] == OWN
    assert sample_provenance(dataset, "train", 0)["own_settings"] == {}
    assert "warp.max_distance_mm 6.0" in layout.report_page.read_text()
    # Of the other frame nothing is made again, and a run with nothing to do finds nothing to do.
    other = f"warps/s000/performance/000000/{RECORD}"
    assert tree(out)[other] == tree(tiny_build.root)[other]
    assert build(recipe, out, serial).warped == 0
    requeue(out, NAME, "--unset", "warp.max_distance_mm")
    assert read_own(layout) == {}
    assert len(layout.own_settings.read_text().splitlines()) == 2
    assert build(recipe, out, serial).warped == 1
    assert tree(out) == tree(tiny_build.root)


@pytest.mark.parametrize(
    ("names", "override", "said"),
    [
        ("s000", "render.resolution=70", "render.resolution may not differ within one dataset: all samples"),
        ("s000", "warp.subdivisions=1", "one template"),
        ("s000", "splits.val=0", "one split"),
        ("s000", "needs.warp.retries=0", "no result depends on it"),
        ("s000", "warp.verdict=1", "verdict"),
        ("s000", "warp.max_distanc_mm=1", "max_distance_mm"),
        ("s000", "warp.max_distance_mm=-1", "greater than 0"),
        ("s000/performance/2", "warp.share_identity=false", "Name the sequence: s000/performance"),
    ],
)
def test_settings_that_may_not_differ_are_refused_with_the_reason(
    talk_build: BuildResult, tmp_path: Path, names: str, override: str, said: str
) -> None:
    out = copy_build(talk_build.root, tmp_path / "copy")
    with pytest.raises((InputError, ManifestError), match=said):
        requeue(out, names, "--set", override)
    assert not BuildLayout(out).own_settings.exists()
    assert tree(out) == tree(talk_build.root)


def test_units_hold_frames_of_the_same_settings_and_travel_with_the_plan(
    talk_build: BuildResult, tmp_path: Path
) -> None:
    layout = BuildLayout(copy_build(talk_build.root, tmp_path / "out").resolve())
    whole = plan_in(layout)
    requeue(layout.root, "s000/performance/1", "s000/performance/2", "--set", "warp.use_registration=false")
    plan = plan_in(layout)
    assert plan.digest != whole.digest
    units = [task.unit for task in WarpStage().plan(plan, layout)]
    assert [unit.sequence.frames for unit in units] == [(0,), (1, 2), (3, 4)]
    assert [unit.manifest.warp.use_registration for unit in units] == [True, False, True]
    # All of them are held to the person of the sequence, which is learnt by the recipe.
    assert len({unit.person for unit in units}) == 1
    freeze(plan, layout)
    frozen = read_plan(layout, plan.digest)
    assert (frozen.own, frozen.digest) == (plan.own, plan.digest)
    requeue(layout.root, "s000", "--set", "warp.share_identity=false")
    alone = plan_in(layout)
    # What all of them have counts, though they differ in another setting.
    assert not learns_person(alone, alone.sequences[0])
    assert {unit.person for unit in (task.unit for task in WarpStage().plan(alone, layout))} == {None}
    requeue(layout.root, "s000", "--unset", "all")
    assert plan_in(layout).digest == whole.digest


def test_a_list_of_settings_that_is_damaged_is_refused(talk_build: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(tmp_path)
    layout.own_settings.write_text('{"frames": {"s000/performance": [[0, 0]]}, "set": {}, "unset": []}\n{"frames"')
    with pytest.raises(InputError, match="line 2, cannot be used"):
        read_own(layout)
