"""Every input of a content key changes it, one at a time; what must not matter does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datagen.common.digests import FileDigest
from datagen.common.errors import InputError
from datagen.flows import shard_plan
from datagen.flows.planning import BuildPlan, plan_build
from datagen.flows.records import ResultRecord, content_key, write_result_record
from datagen.flows.shard_plan import PlannedShard, plan_shards
from datagen.flows.stages import person as person_stage
from datagen.flows.stages import warp as warp_stage
from datagen.flows.stages.bridge import StoredBridge, stored_bridge
from datagen.flows.stages.person import PersonUnit, StoredPerson
from datagen.flows.stages.warp import WarpUnit
from datagen.flows.stored_frames import NO_VIEW
from datagen.geometry.landmarks import Landmarks
from datagen.heads.base import HeadTemplate
from datagen.layout import BuildLayout
from datagen.manifest import CropJitter, Manifest, RenderConfig, ShardConfig, VerdictLimits, WarpConfig, parse_manifest
from datagen.sources.frame import SequenceInfo, SequenceKey
from datagen.sources.topology import Topology
from datagen.warp import bridge as bridge_module
from datagen.warp.result import VERDICT_FILE as VERDICT
from datagen.warp.result import WARP_FILE as WARP
from tests.support.shard_faces import make_template

# Another value of every setting. A new setting must be entered here.
OTHER_WARP = {
    "subdivisions": 1,
    "use_registration": False,
    "share_identity": False,
    "evidence": ("captured", "texture"),
    "max_distance_mm": 8.5,
    "verdict": VerdictLimits(pass_coverage=0.6),
}
OTHER_RENDER: dict[str, Any] = {
    "backend": "numba",
    "surface": "registration",
    "resolution": 70,
    "crop_margin": 1.3,
    "crop_jitter": CropJitter(shift=0.04),
}
SOURCE = {"kind": "simulated", "subjects": 3, "frames": 5, "cameras": 2}
KEY = SequenceKey("s000", "performance")


@pytest.fixture
def manifest() -> Manifest:
    content = {
        "name": "x",
        "source": SOURCE,
        "render": {"resolution": 56},
        "shards": {"clip": 1, "samples_per_shard": 4},
    }
    return parse_manifest({**content, "splits": {"val": 1, "test": 1}})


def template_of(seed: int = 0) -> HeadTemplate:
    rng = np.random.default_rng(seed)
    faces = np.array([[0, 1, 2], [2, 3, 0]], np.int32)
    return HeadTemplate(
        "anny",
        rng.normal(0, 0.1, (5, 3)),
        faces,
        np.ones(5, np.uint8),
        np.zeros(68, np.int32),
        np.eye(3)[np.zeros(68, int)],
    )


def with_warp(manifest: Manifest, **values: Any) -> Manifest:
    return manifest.model_copy(update={"warp": manifest.warp.model_copy(update=values)})


def with_head(manifest: Manifest, head: str) -> Manifest:
    return manifest.model_copy(update={"canonical": manifest.canonical.model_copy(update={"head": head})})


def all_differ(first: str, others: dict[str, str]) -> None:
    """Assert that a key and its variants all differ from each other, naming those that do not."""
    seen = {first: "the key itself"}
    for name, key in others.items():
        assert key not in seen, f"{name} gives the key of {seen[key]}"
        seen[key] = name


def test_the_tables_name_every_setting() -> None:
    assert set(OTHER_WARP) == set(WarpConfig.model_fields)
    assert set(OTHER_RENDER) == set(RenderConfig.model_fields)
    for config, other in ((WarpConfig(), OTHER_WARP), (RenderConfig(resolution=56), OTHER_RENDER)):
        assert all(getattr(config, name) != value for name, value in other.items())


def test_the_key_of_a_frame_knows_all_that_enters(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("anywhere")
    frames = SequenceInfo(KEY, (0, 1), 2)
    unit = WarpUnit(folder, manifest, frames, StoredBridge(folder, "b1"), StoredPerson(folder, "p1"))
    template = template_of()
    first = unit.key("input", template)

    def changed(**values: Any) -> str:
        return dataclasses.replace(unit, **values).key("input", template)

    others = {
        name: changed(manifest=with_warp(manifest, **{name: value}))
        for name, value in OTHER_WARP.items()
        if name != "share_identity"
    }
    others |= {
        "head": changed(manifest=with_head(manifest, "ict")),
        "input": unit.key("another input", template),
        "person": changed(person=StoredPerson(folder, "p2")),
        "no person": changed(person=None),
        "template": unit.key("input", template_of(1)),
        "bridge": changed(bridge=StoredBridge(folder, "b2")),
        "no bridge": changed(bridge=None),
        "neither": changed(bridge=None, person=None),
    }
    with monkeypatch.context() as patch:
        patch.setattr(warp_stage, "ALGORITHM_VERSION", warp_stage.ALGORITHM_VERSION + 1)
        others["algorithm"] = unit.key("input", template)
    all_differ(first, others)
    # A person says by itself whether identity is shared; the rest of the recipe is no matter of a warp.
    assert changed(manifest=with_warp(manifest, share_identity=False)) == first
    assert changed(manifest=manifest.model_copy(update={"seed": 7, "name": "y"})) == first
    assert changed(manifest=manifest.model_copy(update={"render": RenderConfig(), "shards": ShardConfig()})) == first
    assert changed(person=StoredPerson(Path("elsewhere"), "p1"), bridge=StoredBridge(Path("elsewhere"), "b1")) == first


class Captures:
    """A source of which only digests are asked."""

    def __init__(self, **other: str) -> None:
        self.other = other

    def input_digest(self, _key: SequenceKey, index: int) -> str:
        if self.other.get(f"f{index}") == "broken":
            raise InputError("broken", "", "")
        return self.other.get(f"f{index}", f"digest of {index}")


def test_the_key_of_a_person_knows_all_that_enters(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    template, source, folder = template_of(), Captures(), Path("anywhere")
    task = PersonUnit(folder, manifest, SequenceInfo(KEY, tuple(range(0, 50, 5)), 2), StoredBridge(folder, "b1"))

    def key(source: Captures = source, template: HeadTemplate = template, **values: Any) -> str:
        return dataclasses.replace(task, **values).key(source, template)  # type: ignore[arg-type]

    first = key()
    others = {name: key(manifest=with_warp(manifest, **{name: value})) for name, value in OTHER_WARP.items()}
    others |= {
        "head": key(manifest=with_head(manifest, "ict")),
        "template": key(template=template_of(1)),
        "bridge": key(bridge=StoredBridge(folder, "b2")),
        "no bridge": key(bridge=None),
        "frames": key(sequence=SequenceInfo(KEY, tuple(range(0, 50, 7)), 2)),
        "content of the first frame": key(Captures(f0="other")),
        "content of the last frame": key(Captures(f45="other")),
        "a broken frame": key(Captures(f45="broken")),
        "digests the other way round": key(Captures(f0="digest of 45", f45="digest of 0")),
    }
    with monkeypatch.context() as patch:
        patch.setattr(person_stage, "ALGORITHM_VERSION", person_stage.ALGORITHM_VERSION + 1)
        others["algorithm"] = key()
    all_differ(first, others)
    assert key(manifest=manifest.model_copy(update={"seed": 7})) == first
    assert key(root=Path("elsewhere"), bridge=StoredBridge(Path("elsewhere"), "b1")) == first
    assert key(sequence=SequenceInfo(SequenceKey("other", "name"), tuple(range(0, 50, 5)), 2)) == first


def topology_of() -> Topology:
    rng = np.random.default_rng(5)
    marks = Landmarks(np.array([1, 5, 30]), rng.normal(0, 0.1, (3, 3)))
    faces = np.array([[0, 1, 2], [1, 2, 3]], np.int32)
    return Topology("own", rng.normal(0, 0.1, (4, 3)), faces, marks, np.array([1, 2, 3, 4], np.uint8))


def test_the_key_of_a_bridge_knows_all_that_enters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    topology, template = topology_of(), template_of()

    def key(topology: Topology = topology, template: HeadTemplate = template) -> str:
        return stored_bridge(tmp_path, topology, template).key

    marks = topology.landmarks
    others = {
        "name": key(dataclasses.replace(topology, name="other")),
        "vertices": key(dataclasses.replace(topology, vertices=topology.vertices + np.array([0, 0, 2e-7]))),
        "faces": key(dataclasses.replace(topology, faces=topology.faces[::-1])),
        "landmark points": key(dataclasses.replace(topology, landmarks=Landmarks(marks.indices, marks.points * 1.001))),
        "landmark indices": key(dataclasses.replace(topology, landmarks=Landmarks(np.array([1, 5, 31]), marks.points))),
        "regions": key(dataclasses.replace(topology, regions=np.array([1, 2, 3, 5], np.uint8))),
        "no regions": key(dataclasses.replace(topology, regions=None)),
        "template": key(template=template_of(1)),
        "template's faces": key(template=dataclasses.replace(template, faces=template.faces[::-1])),
        "template's name": key(template=dataclasses.replace(template, name="ict")),
    }
    for name in ("BRIDGE_VERSION", "ALGORITHM_VERSION"):
        with monkeypatch.context() as patch:
            patch.setattr(bridge_module, name, getattr(bridge_module, name) + 1)
            others[name] = key()
    for name, value in OTHER_WARP.items():
        with monkeypatch.context() as patch:
            stored = bridge_module.STORED_CONFIG
            other = not getattr(stored, name) if isinstance(value, bool) else value
            patch.setattr(bridge_module, "STORED_CONFIG", stored.model_copy(update={name: other}))
            others[name] = key()
    all_differ(key(), others)
    # Less than a tenth of a micrometre is no difference, and neither is the folder.
    assert key(dataclasses.replace(topology, vertices=np.round(topology.vertices, 7) + 1e-8)) == key(
        dataclasses.replace(topology, vertices=np.round(topology.vertices, 7))
    )
    stored = stored_bridge(tmp_path / "elsewhere", topology, template)
    assert stored.key == key()
    assert stored.folder.name == f"own-{stored.key[:12]}"


def record_of(frame: int, status: str = "pass", **changes: Any) -> ResultRecord:
    files = {WARP: FileDigest(f"warp {frame}", 9), VERDICT: FileDigest(f"verdict {frame}", 5)}
    record = ResultRecord(f"key {frame}", f"input {frame}", status, ("cam0", "cam1"), files)
    return dataclasses.replace(record, **changes)


def write_records(plan: BuildPlan, root: Path, **changes: Any) -> None:
    """Records of every frame; the changes are those of the first frame of the first subject."""
    for sequence in plan.sequences:
        for frame in sequence.frames:
            first = sequence.key == KEY and frame == 0
            folder = BuildLayout(root).frame_warp(sequence.key, frame)
            if first or not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                record = record_of(frame, **(changes if first else {}))
                write_result_record(folder, record)
                for name in record.files:
                    (folder / name).touch()


def test_the_key_of_a_shard_knows_all_that_enters(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = template_of()

    def tasks(
        manifest: Manifest = manifest, template: HeadTemplate = template, backend: str = "", **changes: Any
    ) -> dict[str, PlannedShard]:
        plan = plan_build(manifest)
        write_records(plan, tmp_path, **changes)
        with monkeypatch.context() as patch:
            patch.setattr(shard_plan, "shared_head", lambda *_: SimpleNamespace(template=template))
            patch.setattr(shard_plan, "shared_contents", lambda *_: make_template())
            if backend:
                patch.setattr(shard_plan, "resolve_backend", lambda _: backend)
            return {unit.shard.name: unit for unit in plan_shards(plan, BuildLayout(tmp_path)).shards}

    before = tasks()
    showing = {n for n, task in before.items() if any(v.key == KEY and v.frame == 0 for v in task.views)}
    held = min(showing)
    assert len({task.content_key for task in before.values()}) == len(before)

    def key(**values: Any) -> str:
        return tasks(**values)[held].content_key

    def changed(section: str, **values: Any) -> Manifest:
        return manifest.model_copy(update={section: getattr(manifest, section).model_copy(update=values)})

    others = {field: key(manifest=changed("render", **{field: value})) for field, value in OTHER_RENDER.items()}
    other_files = {WARP: FileDigest("another warp", 9), VERDICT: FileDigest("verdict 0", 5)}
    shifted = dataclasses.replace(template, vertices=template.vertices + 0.001)
    others |= {
        "seed": key(manifest=manifest.model_copy(update={"seed": 1})),
        "jitter of scale": key(manifest=changed("render", crop_jitter=CropJitter(scale=0.06))),
        "depth scale": key(manifest=changed("shards", depth_scale=3e-5)),
        "image error": key(manifest=changed("shards", image_error=0)),
        "samples per shard": key(manifest=changed("shards", samples_per_shard=5)),
        "backend": key(backend="nvdiffrast"),
        "template": key(template=shifted),
        "verdict": key(status="review"),
        "bytes of the warp": key(files=other_files),
        "input": key(input_digest="another input"),
        "another camera's view": key(cameras=("cam1",)),
    }
    with monkeypatch.context() as patch:
        patch.setattr(shard_plan, "RENDER_VERSION", shard_plan.RENDER_VERSION + 1)
        others["algorithm"] = key()
    all_differ(before[held].content_key, others)

    # The digest of the verdict's file, the key of the record and the settings of the warp are told by the warp's bytes.
    same = {WARP: FileDigest("warp 0", 9), VERDICT: FileDigest("another verdict", 5)}
    assert key(files=same, content_key="another") == before[held].content_key
    assert key(manifest=changed("warp", max_distance_mm=9.0)) == before[held].content_key
    assert key(manifest=manifest.model_copy(update={"name": "y"})) == before[held].content_key
    # Only the shards that show the frame are rendered again.
    after = tasks(files=other_files)
    assert {n for n in before if before[n].content_key != after[n].content_key} == showing
    assert held in showing
    assert len(showing) < len(before)


def test_frames_that_are_not_accepted_are_in_no_shard(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_build(manifest)
    write_records(plan, tmp_path, status="review")
    monkeypatch.setattr(shard_plan, "shared_head", lambda *_: SimpleNamespace(template=template_of()))
    monkeypatch.setattr(shard_plan, "shared_contents", lambda *_: make_template())

    def views(plan: BuildPlan) -> list[tuple[str, int, str]]:
        shards = plan_shards(plan, BuildLayout(tmp_path))
        return [(v.key.subject, v.frame, v.camera) for unit in shards.shards for v in unit.views]

    assert ("s000", 0, "cam0") in views(plan)
    strict = manifest.model_copy(update={"shards": manifest.shards.model_copy(update={"include_review": False})})
    assert set(views(plan)) - set(views(plan_build(strict))) == {("s000", 0, "cam0"), ("s000", 0, "cam1")}
    for status, left_out in (("fail", 0), ("pass", 1)):
        write_records(plan, tmp_path, status=status, cameras=())
        frames = plan_shards(plan, BuildLayout(tmp_path)).frames
        assert (frames.left_out.get(NO_VIEW, 0), frames.verdicts[status]) == (
            left_out,
            1 if status == "fail" else plan.frames,
        )


def test_a_digest_of_a_template_is_of_its_vertices_to_a_tenth_of_a_micrometre_and_of_its_faces() -> None:
    template = template_of()
    rounded = dataclasses.replace(template, vertices=np.round(template.vertices, 7))
    assert dataclasses.replace(rounded, vertices=rounded.vertices + 2e-8).digest == rounded.digest
    assert dataclasses.replace(rounded, vertices=rounded.vertices + 2e-7).digest != rounded.digest
    assert dataclasses.replace(rounded, faces=rounded.faces[:, [1, 2, 0]]).digest != rounded.digest
    assert rounded.space.template_digest == rounded.digest


def test_content_keys_are_those_of_values() -> None:
    assert content_key({"a": 1, "b": None}) != content_key({"a": 1})
    assert content_key({"a": 1}) != content_key({"a": "1"})
    assert content_key({"a": 1.0}) != content_key({"a": 1.0000000001})
