"""Bridges between topologies: Anny's own head under another triangulation, whose truth is known, and ICT's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from benchmarks.warp.bridge import ForeignPeople
from datagen.common.errors import InputError, LandmarkError, MeshError, WarpError
from datagen.flows import one_scan
from datagen.flows.build import build, finished_units
from datagen.flows.one_scan import RegistrationFile, warp_scan
from datagen.flows.planning import plan_build
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.stages.bridge import store_bridge, stored_bridge, stored_bridges
from datagen.flows.stages.person import PersonStage, PersonUnit, learnt_person
from datagen.flows.stages.warp import register_and_warp
from datagen.geometry.camera import look_at
from datagen.geometry.landmarks import Landmarks, write_landmarks
from datagen.geometry.mesh import Mesh, compact
from datagen.geometry.mesh_io import ply_bytes
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, WarpConfig, parse_manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import Registration, SequenceKey
from datagen.sources.topology import Topology, read_topology, topology_of
from datagen.warp.bridge import Bridge, build_bridge
from datagen.warp.engine import warp_frame
from datagen.warp.extend import WAVELENGTH_M, SmoothExtension
from datagen.warp.storage import bridge_bytes, read_bridge, read_warp, verdict_bytes
from tests.support.places import SHARED_DATA
from tests.support.topologies import write_topology

pytestmark = pytest.mark.usefixtures("small_pictures")
DATA = SHARED_DATA
QUICK = WarpConfig(subdivisions=0)


def people(foreign: ForeignPeople, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Other people with strong expressions: true template vertices, and vertices in the foreign topology."""
    return foreign.people(count, np.random.default_rng(7))


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def foreign(head: HeadModel) -> ForeignPeople:
    return ForeignPeople.draw(head, 7000, np.random.default_rng(3))


@pytest.fixture(scope="module")
def bridge(head: HeadModel, foreign: ForeignPeople) -> Bridge:
    return build_bridge(foreign.topology, head)


def test_other_people_and_expressions_arrive_where_they_belong(head: HeadModel, foreign: ForeignPeople, bridge: Bridge):
    face = mask_of(head.template.regions, FACE_REGIONS) & bridge.valid
    errors = [
        np.linalg.norm(bridge.carry(vertices) - true, axis=1)[face] * 1000 for true, vertices in people(foreign, 4)
    ]
    assert face.sum() > 0.85 * mask_of(head.template.regions, FACE_REGIONS).sum()
    assert np.median(errors) < 1.0
    assert np.percentile(errors, 95) < 3.0
    # Tied to nothing but the head's pose, expressions and people would be this far off.
    unmoved = [np.linalg.norm(bridge.neutral - true, axis=1)[face] * 1000 for true, _ in people(foreign, 4)]
    assert np.median(unmoved) > 3 * np.median(errors)


def test_the_neutral_face_arrives_as_it_was_registered(foreign: ForeignPeople, bridge: Bridge):
    carried = bridge.carry(foreign.topology.vertices)
    np.testing.assert_allclose(carried[bridge.valid], bridge.neutral[bridge.valid], atol=1e-12)
    assert np.abs(carried - bridge.neutral).max() < 1e-9


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.7, 1.4))
def test_a_moved_face_gives_a_moved_template(bridge: Bridge, foreign: ForeignPeople, seed: int, scale: float):
    rng = np.random.default_rng(seed)
    rotation, shift = Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3)
    vertices = foreign.topology.vertices + rng.normal(0, 0.002, foreign.topology.vertices.shape)
    moved = bridge.carry(scale * vertices @ rotation.T + shift)
    np.testing.assert_allclose(moved, scale * bridge.carry(vertices) @ rotation.T + shift, atol=1e-7)


def test_eyeballs_stay_rigid(head: HeadModel, foreign: ForeignPeople, bridge: Bridge):
    _, vertices = people(foreign, 1)[0]
    carried = bridge.carry(vertices)
    for name in ("right_eyeball", "left_eyeball"):
        part = mask_of(head.template.regions, (name,))
        before, after = bridge.neutral[part], carried[part]
        size = np.linalg.norm(after - after.mean(axis=0), axis=1) / np.linalg.norm(before - before.mean(axis=0), axis=1)
        assert np.ptp(size) < 1e-9
        assert not bridge.valid[part].any()


def test_a_bridge_is_stored_and_read_back_byte_for_byte(
    head: HeadModel, foreign: ForeignPeople, bridge: Bridge, tmp_path: Path
):
    (tmp_path / "bridge.npz").write_bytes(bridge_bytes(bridge))
    (tmp_path / "verdict.json").write_bytes(verdict_bytes(bridge.verdict))
    again = read_bridge(tmp_path, head.template)
    assert bridge_bytes(again) == (tmp_path / "bridge.npz").read_bytes() == bridge_bytes(bridge)
    assert again.verdict.metrics["bridge_face_share"] == pytest.approx(bridge.verdict.metrics["bridge_face_share"])
    np.testing.assert_array_equal(again.carry(foreign.topology.vertices), bridge.carry(foreign.topology.vertices))
    other = dataclasses.replace(head.template, vertices=head.template.vertices * 1.01)
    with pytest.raises(InputError, match="leads to another template"):
        read_bridge(tmp_path, other)
    (tmp_path / "bridge.npz").write_bytes(bridge_bytes(bridge)[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        read_bridge(tmp_path, head.template)


def test_what_is_not_known_follows_smoothly_and_fades():
    # A strip of 60 × 10 cm, known on its first 10 cm, lifted there by 1 mm and more towards the edge of knowledge.
    columns, rows = np.meshgrid(np.arange(121), np.arange(21), indexing="ij")
    vertices = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).reshape(-1, 3) * 0.005
    corner = (columns[:-1, :-1] * 21 + rows[:-1, :-1]).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 21, corner + 22], 1), np.stack([corner, corner + 22, corner + 1], 1)]
    )
    known = vertices[:, 0] <= 0.1
    lift = np.zeros_like(vertices)
    lift[known, 2] = 0.001 + 0.01 * vertices[known, 0]
    extended = SmoothExtension(vertices, faces, known)(lift)
    np.testing.assert_array_equal(extended[known], lift[known])
    profile = extended.reshape(121, 21, 3)[:, 10, 2]
    # A thin plate on springs: s u'''' + u = 0, height and slope given where knowledge ends.
    rate = np.sqrt(0.5) * 2 * np.pi / WAVELENGTH_M
    x = rate * np.arange(101) * 0.005
    plate = np.exp(-x) * (0.002 * np.cos(x) + (0.002 + 0.01 / rate) * np.sin(x))
    np.testing.assert_allclose(profile[20:], plate, atol=4e-5)


def test_a_face_mask_leaves_the_rest_of_the_head_open_and_says_so(head: HeadModel):
    regions = head.template.regions
    mask = ForeignPeople.draw(head, 5000, np.random.default_rng(3), regions=FACE_REGIONS)
    bridge = build_bridge(mask.topology, head, QUICK)
    face, back = mask_of(regions, FACE_REGIONS), mask_of(regions, ("scalp", "neck", "right_ear", "left_ear"))
    assert bridge.valid[face].mean() > 0.8
    assert bridge.valid[back].mean() < 0.02
    (true, vertices), *_ = people(mask, 1)
    registration = bridge.register(Registration("foreign", vertices))
    assert registration.head == "anny"
    assert registration.trust is not None
    np.testing.assert_array_equal(registration.trust > 0, bridge.valid)
    error = np.linalg.norm(registration.vertices - true, axis=1) * 1000
    assert np.median(error[face & bridge.valid]) < 1.0
    # Guessed from the face alone, another person's ears and scalp are near where they should be, no more.
    assert np.percentile(error[back], 95) < 30
    # And there is no step where knowledge ends.
    edges = head.template.faces[:, [0, 1]]
    inside = mask_of(regions, INTERIOR_REGIONS)
    rim = edges[bridge.valid[edges[:, 0]] & ~bridge.valid[edges[:, 1]] & ~inside[edges[:, 1]]]
    assert len(rim) > 50
    length = np.linalg.norm(np.diff(registration.vertices[rim], axis=1)[:, 0], axis=1)
    before = np.linalg.norm(np.diff(true[rim], axis=1)[:, 0], axis=1)
    assert np.median(np.abs(length - before)) < 1.5e-3


def test_registrations_that_do_not_fit_are_refused(foreign: ForeignPeople, bridge: Bridge):
    with pytest.raises(MeshError, match=r"4 vertices.*the topology 'foreign' has"):
        bridge.carry(np.zeros((4, 3)))
    broken = foreign.topology.vertices.copy()
    broken[5] = np.nan
    with pytest.raises(MeshError, match="NaN"):
        bridge.carry(broken)


def test_a_neutral_mesh_that_is_no_face_gives_no_bridge(head: HeadModel, foreign: ForeignPeople):
    rng = np.random.default_rng(0)
    scrambled = dataclasses.replace(
        foreign.topology.landmarks, points=rng.permutation(foreign.topology.landmarks.points)
    )
    topology = dataclasses.replace(foreign.topology, landmarks=scrambled)
    with pytest.raises(WarpError, match=r"topology 'foreign' cannot be carried"):
        build_bridge(topology, head, QUICK)


def test_topology_files_are_read_and_their_faults_named(foreign: ForeignPeople, tmp_path: Path):
    write_topology(tmp_path, foreign.topology)
    mesh, marks = tmp_path / "topologies/foreign.ply", tmp_path / "topologies/foreign.json"
    assert read_topology("foreign", mesh, marks).digest == foreign.topology.digest
    away = foreign.topology.landmarks.points + np.array([0, 0, 0.05])
    write_landmarks(dataclasses.replace(foreign.topology.landmarks, points=away), marks)
    with pytest.raises(LandmarkError, match=r"mm from .*foreign\.ply"):
        read_topology("foreign", mesh, marks)
    marks.write_text(marks.read_text().replace('"m"', '"mm"'))
    with pytest.raises(MeshError, match="off by a factor"):
        read_topology("foreign", mesh, marks)


def family(head: HeadModel, foreign: ForeignPeople, root: Path) -> Manifest:
    """Three people whose scans come in the foreign topology, laid out as captures; return a manifest for them."""
    cameras = (look_at("front", [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], 90.0, 64, 64),)
    for k, (_, vertices) in enumerate(people(foreign, 3)):
        key = SequenceKey(f"p{k}", "smile")
        scan = Mesh.of(vertices.astype(np.float32), foreign.topology.faces)
        with SequenceWriter(root, key, cameras, 25.0, registration_topology="foreign") as writer:
            image = np.random.default_rng(k).integers(80, 100, (64, 64, 3), np.uint8)
            writer.add(0, scan, registration=vertices, images={"front": image})
    write_topology(root, foreign.topology)
    return parse_manifest(
        {
            "name": "family",
            "source": {"kind": "folder", "root": str(root)},
            "warp": {"subdivisions": 0},
            "render": {"resolution": 56},
            "shards": {"clip": 1, "samples_per_shard": 4},
            "splits": {"val": 0, "test": 1},
        }
    )


def test_a_family_in_one_topology_has_one_coordinate_per_vertex(
    head: HeadModel, foreign: ForeignPeople, tmp_path: Path
):
    manifest, out, serial = family(head, foreign, tmp_path / "captures"), tmp_path / "out", RunnerConfig("serial")
    result = build(manifest, out, serial)
    assert result.verdicts.get("fail", 0) == 0
    assert result.warped == 3
    warps = [read_warp(out / f"warps/p{k}/smile/000000") for k in range(3)]
    known = mask_of(warps[0].region, FACE_REGIONS)
    assert known.sum() > 1500
    for warp in warps[1:]:
        np.testing.assert_array_equal(warp.canonical[known], warps[0].canonical[known])
        assert np.abs(warp.scan_vertices - warps[0].scan_vertices).max() > 0.005

    (folder,) = (out / "bridges").iterdir()
    assert {path.name for path in folder.iterdir()} == {"bridge.npz", "bridge.png", "record.json", "verdict.json"}
    assert "bridge_foreign" in (out / "report/index.html").read_text()

    # What is whole on disk is trusted, what is not is made again with the same bytes, and the frames are kept.
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert build(manifest, out, serial).warped == 0
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    (folder / "bridge.npz").unlink()
    assert build(manifest, out, serial).warped == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    # Other landmarks are another bridge, and every frame has to pass it anew.
    layout = BuildLayout(out)
    plan = plan_build(layout.read_manifest())
    assert finished_units(plan, layout) is not None
    fewer = Landmarks(np.arange(48), foreign.topology.landmarks.points[:48])
    write_topology(tmp_path / "captures", dataclasses.replace(foreign.topology, landmarks=fewer))
    assert finished_units(plan, layout) is None
    assert stored_bridges(plan, layout)["foreign"].folder != folder


def test_a_person_is_learnt_through_the_bridge(head: HeadModel, foreign: ForeignPeople, bridge: Bridge, tmp_path: Path):
    captures, key = tmp_path / "captures", SequenceKey("p0", "turning")
    cameras = (look_at("front", [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], 90.0, 64, 64),)
    with SequenceWriter(captures, key, cameras, 25.0, registration_topology="foreign") as writer:
        for k, (_, vertices) in enumerate(people(foreign, 1) * 3):
            turned = vertices @ Rotation.from_euler("y", 10 * k, degrees=True).as_matrix().T
            image = np.random.default_rng(k).integers(80, 100, (64, 64, 3), np.uint8)
            scan = Mesh.of(turned.astype(np.float32), foreign.topology.faces)
            writer.add(k, scan, registration=turned, images={"front": image})
    write_topology(captures, foreign.topology)
    source = {"kind": "folder", "root": str(captures)}
    content = {"name": "p", "source": source, "warp": {"subdivisions": 0}, "splits": {"val": 0, "test": 0}}
    manifest, layout = parse_manifest(content), BuildLayout(tmp_path / "out")
    stored = stored_bridge(layout.bridges, foreign.topology, head.template)
    store_bridge(stored, foreign.topology, bridge)
    unit = PersonUnit(layout.root, manifest, plan_build(manifest).sequences[0], stored)
    assert PersonStage().run(unit) == 1
    person = learnt_person(layout, key)
    assert person is not None
    assert person.open(head.template).frames == (0, 1, 2)
    # Not carried over, the registrations are in no topology the warp knows.
    PersonStage().run(dataclasses.replace(unit, bridge=None))
    assert learnt_person(layout, key) is None


def test_what_a_capture_says_of_its_topology_is_checked(head: HeadModel, foreign: ForeignPeople, tmp_path: Path):
    family(head, foreign, tmp_path)
    key, path = SequenceKey("p0", "smile"), tmp_path / "p0/smile/capture.json"
    frame = FolderCaptures(tmp_path).frame(key, 0)
    assert frame.registration is not None
    assert frame.registration.head == "foreign"
    content = json.loads(path.read_text())

    def with_registration(**entry: str) -> FolderCaptures:
        path.write_text(json.dumps({**content, "registration": {"pattern": "registrations/{frame:06d}.npz", **entry}}))
        return FolderCaptures(tmp_path)

    for entry, message in (
        ({}, "one of the two"),
        ({"head": "anny", "topology": "foreign"}, "one of the two"),
        ({"topology": "../foreign"}, "cannot be a name"),
        ({"topology": "flame"}, "name it with `head`"),
        ({"topology": "froeign"}, "no neutral mesh of the topology 'froeign', only of foreign"),
    ):
        with pytest.raises(InputError, match=message):
            with_registration(**entry).sequences()
    needs_files = with_registration(head="ict")
    manifest = parse_manifest(
        {"name": "n", "source": {"kind": "folder", "root": str(tmp_path)}, "splits": {"val": 0, "test": 0}}
    )
    with pytest.raises(InputError, match=r"topology of ict, which is not shipped.*source\.head_root"):
        stored_bridges(plan_build(manifest), BuildLayout(tmp_path / "out"))
    with pytest.raises(MeshError, match="as the head model ict has"):
        needs_files.frame(key, 0)
    source = with_registration(topology="foreign")
    np.savez(tmp_path / "p0/smile/registrations/000000.npz", vertices=foreign.topology.vertices[:-1])
    with pytest.raises(MeshError, match="as the topology foreign has"):
        source.frame(key, 0)
    (tmp_path / "topologies/foreign.json").unlink()
    with pytest.raises(InputError, match="has no landmarks"):
        source.sequences()


def test_one_scan_passes_a_bridge_that_is_kept(
    foreign: ForeignPeople, bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    def built_already(topology: Topology, _head: HeadModel) -> Bridge:
        asked.append(topology.digest)
        return bridge

    monkeypatch.setattr(one_scan, "build_bridge", built_already)
    true, vertices = people(foreign, 1)[0]
    (tmp_path / "scan.ply").write_bytes(ply_bytes(Mesh.of(vertices, foreign.topology.faces)))
    write_topology(tmp_path, foreign.topology)
    mesh, marks = tmp_path / "topologies/foreign.ply", tmp_path / "topologies/foreign.json"
    named = RegistrationFile(tmp_path / "scan.ply", neutral=mesh, neutral_landmarks=marks)

    def warp(registration: RegistrationFile) -> np.ndarray:
        return warp_scan(
            tmp_path / "scan.ply",
            tmp_path / "out",
            head="anny",
            head_root=None,
            unit=None,
            landmarks=None,
            registration=registration,
            config=QUICK,
        ).canonical

    first = warp(named)
    (folder,) = (tmp_path / "out/bridges").iterdir()
    stamp = (folder / "bridge.npz").stat().st_mtime_ns
    np.testing.assert_array_equal(warp(named), first)
    assert (folder / "bridge.npz").stat().st_mtime_ns == stamp
    assert asked == [foreign.topology.digest]
    with pytest.raises(InputError, match="not named clearly"):
        warp(RegistrationFile(tmp_path / "scan.ply", neutral=mesh))
    assert np.isfinite(true).all()


@pytest.mark.realdata
@pytest.mark.skipif(not (DATA / "ict_facekit").is_dir(), reason="ICT-FaceKit is not at hand")
def test_a_family_of_ict_heads_agrees_in_annys_space(head: HeadModel):
    ict = load_head("ict", DATA)
    template = ict.template
    bridge = build_bridge(topology_of(template), head)
    assert bridge.verdict.metrics["bridge_face_share"] > 0.95
    assert bridge.verdict.metrics["bridge_landmark_median_mm"] < 2.5

    skin = ~np.any(mask_of(template.regions, INTERIOR_REGIONS)[template.faces], axis=1)
    bridged, marked, exact = [], [], []
    for k in range(3):
        rng = np.random.default_rng(100 + k)
        expression = np.zeros(len(ict.expression_names))
        expression[rng.choice(len(expression), 5, replace=False)] = rng.uniform(0.2, 0.8, 5)
        vertices = ict.vertices(np.clip(rng.normal(size=ict.identity_size), -2, 2), expression)
        scan, kept = compact(vertices, template.faces[skin])
        registration = Registration("ict", vertices)
        landmarks = Landmarks(np.arange(68), template.landmarks(vertices))
        space = head.template.space
        from_bridge = register_and_warp(scan, head, QUICK, bridge=bridge, registration=registration)
        from_landmarks = warp_frame(scan, head, QUICK, landmarks=landmarks)
        whole = register_and_warp(
            Mesh.of(vertices, template.faces), head, QUICK, bridge=bridge, registration=registration
        )
        bridged.append(space.metres(from_bridge.canonical))
        marked.append(space.metres(from_landmarks.canonical))
        exact.append(space.metres(whole.canonical[kept]))
    face = mask_of(template.regions[kept], FACE_REGIONS)

    def spread_mm(coordinates: list[np.ndarray]) -> np.ndarray:
        points = np.stack(coordinates)[:, face]
        points = points[:, np.isfinite(points).all(axis=(0, 2))]
        return np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)) * 1000

    assert np.median(spread_mm(bridged)) < 0.4
    assert np.median(spread_mm(bridged)) < np.median(spread_mm(marked)) / 2
    assert np.percentile(spread_mm(exact), 95) < 1e-3
