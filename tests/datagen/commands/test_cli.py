"""The command line as a user meets it: help, exit codes, messages, JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from datagen.cli import app, main
from datagen.common.files import write_owned_bytes
from datagen.common.ownership import LISTING
from datagen.geometry.mesh_io import read_mesh
from datagen.geometry.space import CanonicalSpace
from datagen.heads.regions import FACE_REGIONS, REGIONS
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from datagen.shards import open_dataset
from datagen.sources.frame import SequenceKey
from datagen.warp.result import Verdict, Warp
from tests.support.build_trees import copy_build, folder_build
from tests.support.places import ROOT

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

FIRST = SequenceKey("s000", "performance")
COMMANDS = sorted(str(command.name) for command in app.registered_commands)
MANIFESTS = ROOT / "manifests"


class Run:
    """Calls the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        self._monkeypatch.setattr(sys, "argv", ["datagen", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = self._capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    def json(self, *arguments: str | Path) -> Any:
        """Return the parsed output of a command that must end well."""
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line."""
    return Run(capsys, monkeypatch)


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nsys.argv = ['datagen', '--help']\n"
        "import datagen.cli\n"
        "heavy = {'torch', 'prefect', 'dask', 'open3d', 'anny', 'smplx', 'matplotlib', 'scipy', 'numba', 'zarr'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(run: Run, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Example: datagen {name}" in " ".join(out.split())


@pytest.mark.parametrize("program", ["datagen", "trainer"])
def test_each_program_says_its_version_and_completes_commands(program: str) -> None:
    def answer(**environment: str) -> str:
        call = [sys.executable, "-c", f"from datagen.common.start import {program}; {program}()"]
        call += [] if environment else ["--version"]
        # The program's name is that of the file a shell starts.
        call[2] = f"import sys; sys.argv[0] = {program!r}; {call[2]}"
        done = subprocess.run(
            call, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    versions = rf"{program} \d+\.\d+\.\d+(?: \(\w+(?:-dirty)?\))?, Python 3\.\d+\.\d+, torch \S+, zarr \S+\n"
    assert re.fullmatch(versions, answer())
    complete = {f"_{program.upper()}_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert answer(**complete, COMP_WORDS=f"{program} p").split() == (
        ["plan", "push"] if program == "datagen" else ["predict", "points"]
    )


def test_wrong_use_is_exit_code_2(run: Run) -> None:
    assert run("build")[0] == 2
    assert run("nonsense")[0] == 2
    assert run("explain", "nowhere")[0] == 2


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("name: x\nsource: {kind: simulated, subject: 3}", [], r"source.subject \(did you mean subjects\?\)"),
        ("name: x\nsource: {kind: simulated, subjects: many}", [], "source.subjects"),
        ("name: x\nsource: {kind: simulated}", ["source.frames=0"], "source.frames"),
        ("name: x\nsource: {kind: simulated}", ["render.resolution=100"], "render.resolution"),
        ("name: x\nsource: {kind: simulated, subjects: 2}", [], "no subject is left for training"),
        ("name: x\nsource: {kind: simulated}", ["splits.val=[zoe]"], "splits.val names zoe"),
        ("name: [", [], "cannot be read"),
    ],
)
def test_a_bad_manifest_is_one_message_and_leaves_nothing(
    run: Run, tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(text)
    sets = [part for override in overrides for part in ("--set", override)]
    code, out, err = run("build", manifest, "--out", tmp_path / "out", *sets)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert re.search(message, err)
    assert not (tmp_path / "out").exists()


def test_a_missing_manifest_is_named(run: Run, tmp_path: Path) -> None:
    code, _, err = run("plan", tmp_path / "gone.yaml")
    assert code == 2
    assert "gone.yaml does not exist" in err


def test_the_recipes_that_come_along_are_valid() -> None:
    names = {path.stem: load_manifest(path).name for path in MANIFESTS.glob("*.yaml")}
    assert {"demo", "ict-motion", "folder"} <= set(names)


def test_schema_lists_every_key(run: Run) -> None:
    _, out, _ = run("schema")
    for key in ("subjects", "root", "subdivisions", "resolution", "clip", "val", "seed"):
        assert re.search(rf"^[ #]*{key}: *", out, re.MULTILINE)
    assert run.json("schema")["title"] == "Manifest"


def test_the_schema_is_a_manifest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(run("schema")[1])
    plan = run.json("plan", tmp_path / "my.yaml")
    assert plan["name"] == "mine"
    assert len(plan["splits"]["train"]) == 6


def test_plan_agrees_with_the_build(run: Run, tiny_build: BuildResult, tiny_manifest: Path) -> None:
    plan = run.json("plan", tiny_manifest)
    assert plan["views"] == {"train": 4, "val": 4, "test": 0}
    assert plan["splits"]["train"] == ["s000"]
    status = run.json("status", tiny_build.root)
    assert status["frames_warped"] == status["frames"] == 2
    assert status["samples_written"] == status["samples_if_all_pass"] == 8
    assert status["dataset_finished"] is True


def test_status_of_no_build_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run("status", tmp_path)
    assert code == 2
    assert "is not a build folder" in err


def test_verify_names_shard_and_sample_of_a_corrupted_byte(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    assert run("verify", tiny_build.root)[0] == 0
    out = copy_build(tiny_build.root, tmp_path / "out")
    chunk = next((out / "dataset.zarr" / "train" / "canonical").rglob("c*1*"))
    content = bytearray(chunk.read_bytes())
    content[20] ^= 0xFF
    chunk.write_bytes(content)
    code, text, _ = run("verify", out)
    assert code == 1
    assert "train, shard 1, sample 2" in text
    code, text, _ = run("verify", out, "--json")
    assert code == 1
    assert json.loads(text)["ok"] is False


def test_inspect_draws_a_sample_and_says_where_it_is_from(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    picture = tmp_path / "sample.png"
    provenance = run.json("inspect", tiny_build.dataset, "--split", "val", "--sample", "3", "--out", picture)
    assert (provenance["subject"], provenance["camera"], provenance["shard"]) == ("s001", "cam03", 1)
    from PIL import Image

    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 100
    code, _, err = run("inspect", tiny_build.dataset, "--sample", "4", "--out", tmp_path / "none.png")
    assert code == 2
    assert "train has no sample 4" in err
    assert not (tmp_path / "none.png").exists()


def test_stats_are_data(run: Run, tiny_build: BuildResult) -> None:
    content = run.json("stats", tiny_build.root)
    assert "0.8" in json.dumps(content) or content
    code, out, _ = run("stats", tiny_build.root)
    assert code == 0
    assert "samples: 4" in out


def test_progress_ends_where_the_work_does(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    """Shards of frame tables, and the template's, are neither samples nor looked at by all."""
    root = tiny_build.root
    for command, expected in (
        (["verify", root], "7/7 shards"),
        (["stats", root], "4/4 shards"),
        (["push", root, tmp_path / "pushed"], "7/7 shards"),
        (["merge", root, root, "--labels", "a,b", "--out", tmp_path / "both"], "16/16 samples"),
        (["subset", root, "--where", "camera=cam0[01]", "--out", tmp_path / "part"], "4 samples"),
    ):
        code, _, err = run(*command)
        assert code == 0
        assert expected in err.splitlines()[-1]


def test_requeue_forgets_frames_and_explain_gives_reasons(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    explained = run.json("explain", out, "s000")
    assert explained[0]["figures"]["residual_median_mm"] >= 0
    assert run("explain", out, "s000/performance/0")[1].startswith("s000/performance/000000: ")
    assert run("explain", out, "s009")[0] == 2
    assert run.json("requeue", out, "s000/performance/0")["requeued"] == ["s000/performance/000000"]
    assert not BuildLayout(out).frame_warp(FIRST, 0).exists()
    assert run.json("status", out)["frames_warped"] == 1


def test_compare_with_itself_finds_no_change(run: Run, tiny_build: BuildResult) -> None:
    content = run.json("compare", tiny_build.root, tiny_build.root)
    assert (content["frames"], content["worse"], content["changes"]) == (2, 0, [])


def test_check_lists_every_problem(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    folder_build(tiny_build.root, tmp_path / "out", tmp_path / "captures")
    assert run.json("check", tmp_path / "captures")["frames"] == 2
    image = next((tmp_path / "captures" / "s000").rglob("cam01/*.png"))
    image.write_bytes(image.read_bytes()[:40])
    (tmp_path / "captures" / "s001" / "performance" / "capture.json").write_text("{}")
    code, text, _ = run("check", tmp_path / "captures", "--json")
    assert code == 1
    problems = json.loads(text)["problems"]
    assert len(problems) == 2
    assert problems[0]["where"].startswith("s000/performance/000000")
    assert problems[1]["where"] == "s001/performance"


def test_render_writes_maps_that_agree_with_the_camera(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(tiny_build.root)
    sequence = layout.captures / "s000" / "performance"
    arguments = ("render", layout.frame_warp(FIRST, 0), "--cameras", sequence, "--out", tmp_path / "maps")
    files = run.json(*arguments, "--camera", "cam01")["files"]
    assert [Path(path).name for path in files] == ["cam01.npz", "cam01.png"]
    with np.load(tmp_path / "maps" / "cam01.npz") as maps:
        assert maps["depth"].shape == (64, 64)
        assert maps["mask"].sum() > 200
        assert (maps["canonical"][:, ~maps["mask"]] == 0).all()
    code, _, err = run(*arguments, "--camera", "nikon")
    assert code == 2
    assert "has no camera nikon" in err


@pytest.fixture
def scan_files(tiny_build: BuildResult) -> tuple[Path, Path]:
    """A scan and its landmark file."""
    sequence = BuildLayout(tiny_build.root).captures / "s000" / "performance"
    return next((sequence / "scans").iterdir()), next((sequence / "landmarks").iterdir())


def test_warp_writes_what_it_promises(run: Run, scan_files: tuple[Path, Path], tmp_path: Path) -> None:
    scan, landmarks = scan_files
    code, text, err = run("warp", scan, "--landmarks", landmarks, "--out", tmp_path / "w", "--json")
    content = json.loads(text)
    assert code == (1 if content["verdict"] == "fail" else 0), err
    names = {path.name for path in (tmp_path / "w").iterdir()}
    assert {"warp.npz", "verdict.json", "residual.png", "canonical.png"} <= names
    assert set(content["files"]) == {name for name in names if not name.startswith(".")}
    assert set(content["regions"]) == set(FACE_REGIONS)
    registered, coloured = (read_mesh(tmp_path / "w" / f"{name}.ply") for name in ("registered", "scan_canonical"))
    steps = ["reading", "finding", "fitting", "carrying", "drawing"]
    assert [line.split()[2] for line in err.splitlines()[:-1]] in (steps, [steps[0], "placing", *steps[2:]])
    with np.load(tmp_path / "w" / "warp.npz") as warp:
        n = len(warp["scan_vertices"])
        assert warp["canonical"].shape == (n, 3)
        assert warp["confidence"].shape == (n,)
        known = warp["confidence"] > 0
        assert known.mean() > 0.5
        assert np.abs(warp["canonical"][known]).max() <= 1
        assert np.isfinite(warp["registered_vertices"]).all()
        assert warp["registered_faces"].max() < len(warp["registered_vertices"])
        assert warp["half_extent"] > 0.05
        assert np.allclose(registered.vertices, warp["registered_vertices"], atol=1e-6)
        assert np.allclose(coloured.vertices, warp["scan_vertices"], atol=1e-6)
        assert np.array_equal(coloured.faces, warp["scan_faces"])


def _doctored(confidence: dict[str, float]) -> Warp:
    """A warp that passed, whose regions carry what is said and 0.9 elsewhere."""
    region = np.repeat(np.array([REGIONS[name] for name in FACE_REGIONS], np.uint8), 10)
    sure = np.repeat(np.array([confidence.get(name, 0.9) for name in FACE_REGIONS], np.float32), 10)
    points, faces = np.zeros((len(region), 3)), np.zeros((0, 3), np.int32)
    space = CanonicalSpace("anny", (0.0, 0.0, 0.0), 0.15)
    coverage = {"coverage_chin": 0.5, "coverage_left_cheek": 0.97, "coverage_right_cheek": 0.05}
    verdict = Verdict("pass", (), {"face_confidence": 0.6, "scan_vertices": float(len(region)), **coverage})
    return Warp(points, faces, points.astype(np.float32), sure, region, points, faces, np.eye(4), space, verdict)


def test_a_pass_whose_cheeks_carry_little_is_seen(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datagen.flows.one_scan.warp_scan", lambda *_, **__: _doctored({"cheeks": 0.2, "chin": 0.3}))
    code, text, err = run("warp", "scan.ply", "--out", tmp_path)
    assert code == 0
    assert "verdict: pass" in text
    assert re.search(r"^  cheeks +0\.20  10 points, scanned: right 5%, left 97%$", text, re.MULTILINE)
    assert re.search(r"^  chin +0\.30  10 points, scanned: 50%\n  .* 0.90  10 points$", text, re.MULTILINE)
    assert text.index("cheeks") < text.index("chin")
    assert "warning: low confidence (below 0.42) at: cheeks (0.20), chin (0.30)" in text
    assert "warning" not in err
    content = run.json("warp", "scan.ply", "--out", tmp_path)
    assert content["low_confidence"] == ["cheeks", "chin"]
    sides = {"left": 0.97, "right": 0.05}
    assert content["regions"]["cheeks"] == {"confidence": pytest.approx(0.2), "points": 10, "scanned": sides}
    assert content["regions"]["chin"]["scanned"] == {"all": 0.5}
    monkeypatch.setattr("datagen.flows.one_scan.warp_scan", lambda *_, **__: _doctored({}))
    assert "warning" not in run("warp", "scan.ply", "--out", tmp_path)[1]


def test_warp_needs_no_more_than_a_scan(run: Run, scan_files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    write_owned_bytes(tmp_path / "w" / "registered.ply", b"of an earlier warp")
    (tmp_path / "w" / "registered.obj").write_bytes(b"of the user")
    code, text, err = run("warp", scan_files[0], "--out", tmp_path / "w", "--mesh-format", "glb")
    assert code == 0, err
    assert not (tmp_path / "w" / "registered.ply").exists()
    assert (tmp_path / "w" / "registered.obj").read_bytes() == b"of the user"
    (shape,) = trimesh.load(tmp_path / "w" / "scan_confidence.glb", process=False).geometry.values()
    assert len(np.unique(shape.visual.vertex_colors, axis=0)) > 20
    lines = [line.split() for line in text.splitlines()]
    assert max(map(len, text.replace(str(tmp_path), "").splitlines())) <= 80
    (vertices,) = [line[-1] for line in lines if line[:2] == ["scan", "vertices"]]
    with np.load(tmp_path / "w" / "warp.npz") as warp:
        assert int(vertices) == len(warp["scan_vertices"])


def test_warp_reads_landmarks_of_other_programs(run: Run, scan_files: tuple[Path, Path], tmp_path: Path) -> None:
    scan, landmarks = scan_files
    points = dict(list(json.loads(landmarks.read_text())["points"].items())[17:60])
    marks = tmp_path / "marks.txt"
    marks.write_text("".join(f"{x * 1000} {y * 1000} {z * 1000}\n" for x, y, z in points.values()))
    given = ("warp", scan, "--landmarks", marks, "--out", tmp_path / "w", "--json", "--unit", "m")
    code, _, err = run(*given)
    assert code == 2
    assert f"has {len(points)} points without a number" in err
    assert not (tmp_path / "w").exists()
    code, _, err = run(*given, "--landmark-order", "dlib")
    assert code == 2
    assert "landmark order 'dlib' is not known" in err
    # Read in that order and unit, they span what they would in centimetres.
    code, _, err = run(*given, "--landmark-unit", "cm", "--landmark-order", ",".join(points))
    assert code == 2
    assert re.search(r"the landmarks span a head (9|10)(\.\d+)? times the template", err)


def _empty(folder: Path, _scan: Path, landmarks: Path) -> list[str | Path]:
    mesh = folder / "empty.obj"
    mesh.write_text("")
    return [mesh, "--landmarks", landmarks]


def _nan(folder: Path, _scan: Path, landmarks: Path) -> list[str | Path]:
    mesh = folder / "nan.obj"
    mesh.write_text("v 0 0 nan\nv 0.1 0 0\nv 0 0.1 0\nf 1 2 3\n")
    return [mesh, "--landmarks", landmarks]


def _wrong_unit(_folder: Path, scan: Path, landmarks: Path) -> list[str | Path]:
    return [scan, "--landmarks", landmarks, "--unit", "mm"]


def _unknown_unit(_folder: Path, scan: Path, landmarks: Path) -> list[str | Path]:
    return [scan, "--landmarks", landmarks, "--unit", "furlong"]


def _truncated(folder: Path, scan: Path, landmarks: Path) -> list[str | Path]:
    mesh = folder / "half.ply"
    mesh.write_bytes(scan.read_bytes()[:2000])
    return [mesh, "--landmarks", landmarks]


def _other_scheme(folder: Path, scan: Path, _landmarks: Path) -> list[str | Path]:
    file = folder / "wflw.json"
    file.write_text(json.dumps({"scheme": "wflw98", "unit": "m", "points": {str(i): [i, 0, 0] for i in range(5)}}))
    return [scan, "--landmarks", file]


def _missing(folder: Path, _scan: Path, landmarks: Path) -> list[str | Path]:
    return [folder / "gone.ply", "--landmarks", landmarks]


def _no_head(folder: Path, _scan: Path, _landmarks: Path) -> list[str | Path]:
    trimesh.creation.icosphere(5, radius=0.1).export(folder / "ball.ply")
    return [folder / "ball.ply"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_empty, "empty"),
        (_nan, "NaN"),
        (_wrong_unit, "off by a factor"),
        (_unknown_unit, "'furlong'"),
        (_truncated, "half.ply"),
        (_other_scheme, "wflw98"),
        (_missing, "gone.ply"),
        (_no_head, "no face was found in the scan"),
    ],
)
def test_warp_of_bad_input_is_one_message_and_leaves_nothing(
    run: Run, scan_files: tuple[Path, Path], tmp_path: Path, make: Any, message: str
) -> None:
    code, out, err = run("warp", *make(tmp_path, *scan_files), "--out", tmp_path / "results" / "w")
    assert code == 2
    assert out == ""
    assert message in err
    assert not (tmp_path / "results").exists()


def test_simulate_writes_captures_and_truth_apart(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    copied = tmp_path / "captures"
    for name in ("captures", "truth"):
        shutil.copytree(tiny_build.root / name, copied / name)
    manifest = tiny_build.root / "manifest.json"
    # Without the build folder's listing, folders of these names are somebody's.
    code, _, err = run("simulate", manifest, "--out", copied, "--set", "source.subjects=2")
    assert code == 2
    assert "holds captures, truth" in err
    shutil.copy(tiny_build.root / LISTING, copied)
    code, text, _ = run("simulate", manifest, "--out", copied, "--set", "source.subjects=2")
    assert code == 0
    assert str(copied / "captures") in text
    folder = tmp_path / "folder.yaml"
    folder.write_text(f"name: x\nsource: {{kind: folder, root: {copied / 'captures'}}}\n")
    code, _, err = run("simulate", folder, "--out", tmp_path / "none")
    assert code == 2
    assert "is folder" in err


def test_an_output_folder_below_a_file_is_refused(run: Run, tiny_build: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(tiny_build.root)
    (tmp_path / "notes.txt").write_text("kept")
    sequence = layout.captures / FIRST.subject / FIRST.sequence
    out = tmp_path / "notes.txt" / "maps"
    code, _, err = run("render", layout.frame_warp(FIRST, 0), "--cameras", sequence, "--out", out)
    assert code == 2
    assert "notes.txt" in err
    assert "Choose another output path" in err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_build_names_frames_with_broken_input_and_ends_with_one(
    run: Run, tiny_build: BuildResult, tmp_path: Path
) -> None:
    manifest = folder_build(tiny_build.root, tmp_path / "out", tmp_path / "captures")
    image = next((tmp_path / "captures" / "s001").rglob("images/cam00/*.png"))
    Image.new("RGB", (7, 9)).save(image)
    code, _, errors = run("build", manifest, "--out", tmp_path / "out", "--runner", "serial", "--set", "splits.val=0")
    assert code == 1
    assert "left out s001/performance/000000: CameraError" in errors
    assert "7×9 pixels" in errors
    assert "Traceback" not in errors


def test_build_names_cameras_that_contradict_or_show_nothing_and_makes_no_samples_of_them(
    run: Run, tiny_build: BuildResult, tmp_path: Path
) -> None:
    manifest = folder_build(tiny_build.root, tmp_path / "out", tmp_path / "captures")
    folder = tmp_path / "captures" / "s001" / "performance"
    mask = folder / "masks" / "cam00" / "000000.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    for kind in ("images", "masks"):
        shutil.rmtree(folder / kind / "cam02")
    (problem,) = json.loads(run("check", tmp_path / "captures", "--json")[1])["problems"]
    assert problem["where"] == "s001/performance/000000 camera cam00"
    command = ("build", manifest, "--out", tmp_path / "out", "--runner", "serial", "--set", "splits.val=0")
    code, text, errors = run(*command, "--json")
    assert code == 1
    assert "left out s001/performance camera cam00 (1 frame): of the scan" in errors
    assert "left out s001/performance camera cam02 (1 frame): it has no image" in errors
    result = json.loads(text)
    assert {c["camera"]: c["wrong"] for c in result["left_out_cameras"]} == {"cam00": True, "cam02": False}
    # Whom the first run held out stays held out.
    samples = [split.sample(k) for split in open_dataset(tmp_path / "out").values() for k in range(len(split))]
    assert sorted((s.subject, s.camera) for s in samples) == sorted(
        [("s000", f"cam0{k}") for k in range(4)] + [("s001", "cam01"), ("s001", "cam03")]
    )
    assert {s.verdict for s in samples if s.subject == "s001"} == {"review"}
    assert all(s.image.std() > 5 for s in samples)
    (explained,) = run.json("explain", tmp_path / "out", "s001")
    assert any("camera cam00 gives no sample" in reason for reason in explained["reasons"])
