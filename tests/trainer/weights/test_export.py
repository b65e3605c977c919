"""`trainer export`: programs that give the model's numbers without this package, and what is refused."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datagen.common.errors import CheckpointError, DependencyError, InputError, StorageError
from tests.support.trainer_scene import HALF_EXTENT_M, SPACE
from trainer.cli import main
from trainer.config import load_config
from trainer.model.joint import DepthUnit, JointModel
from trainer.run.checkpoint import model_content, save_checkpoint
from trainer.weights.export import FORMATS, TOLERANCE, export_model

SIDE = 28


def random_model(*overrides: str) -> JointModel:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return JointModel(load_config("tiny", overrides), SIDE, DepthUnit("focal", 0.8, 0.04, 2.6)).eval()


def save(path: Path, *overrides: str) -> JointModel:
    model = random_model(*overrides)
    dataset = {"resolution": SIDE, "half_extent_m": HALF_EXTENT_M, "space": SPACE}
    save_checkpoint(path, model_content(model, load_config("tiny", overrides), dataset))
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.pt"
    save(path)
    return path


def clip(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(1, frames, 3, SIDE, SIDE, generator=generator), torch.eye(3).repeat(1, frames, 1, 1) * 60


def test_a_program_for_any_number_of_frames(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    result = export_model(checkpoint, out)
    assert result.passed
    assert set(result.differences) == {3, 5, 8}
    about = {"canonface.json": ""}
    program = torch.export.load(out, extra_files=about).module()
    described = json.loads(about["canonface.json"])
    assert described["half_extent_m"] == HALF_EXTENT_M
    model = random_model()
    with torch.no_grad():
        for frames in (4, 9):
            found = dict(zip(described["outputs"], program(*clip(frames)), strict=True))
            wanted = model(*clip(frames))
            torch.testing.assert_close(found["depth_m"], wanted.depth_m, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found["canonical"], wanted.canonical, rtol=1e-4, atol=1e-5)
        with pytest.raises(AssertionError, match=">= 3"):
            program(*clip(2))
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_onnx_with_all_heads_and_the_other_decoder(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    overrides = ("heads.ray=true", "heads.camera=true", "decoder.kind=large_kernel", "backbone.precision=bfloat16")
    overrides += ("backbone.stages=8", "loss.depth_confidence=apart", "loss.depth_lambda=1")
    save(tmp_path / "best.pt", *overrides)
    out = tmp_path / "model.onnx"
    result = export_model(tmp_path / "best.pt", out, "onnx")
    assert result.passed
    assert {"ray", "camera", "canonical_confidence"} <= set(result.outputs)
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    images, K = clip(6)
    found = dict(
        zip(result.outputs, session.run(None, {"images": images.numpy(), "intrinsics": K.numpy()}), strict=True)
    )
    model = random_model(*overrides, "backbone.precision=float32")
    with torch.no_grad():
        wanted = model(images, K)
    for name in ("depth_m", "canonical", "camera", "ray"):
        expected = getattr(wanted, name).numpy()
        np.testing.assert_allclose(found[name], expected, atol=TOLERANCE * np.abs(expected).max())
    assert {p.name for p in tmp_path.iterdir()} == {"best.pt", "model.onnx"}


def test_a_program_that_disagrees_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = torch.export.save

    def damaged(program: torch.export.ExportedProgram, file: object, **rest: object) -> None:
        weight = program.state_dict["model.backbone.blocks.3.mlp.fc2.weight"]
        with torch.no_grad():
            weight.mul_(1.5)
            real(program, file, **rest)
            weight.div_(1.5)

    monkeypatch.setattr(torch.export, "save", damaged)
    words = ["trainer", "export", checkpoint, "--out", tmp_path / "model.pt2", "--frames", 1, "--json"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["differences"]["1"] > TOLERANCE
    assert not printed["passed"]
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="multiple of the model's patch"):
        export_model(checkpoint, tmp_path / "a.pt2", size=30)
    with pytest.raises(InputError, match="is a folder"):
        export_model(checkpoint, tmp_path)
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        export_model(tmp_path / "cut.pt", tmp_path / "a.pt2")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DependencyError, match="ONNX needs onnxscript, which is not installed"):
        export_model(checkpoint, tmp_path / "a.onnx", "onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["cut.pt"]


def test_a_full_disk_leaves_the_old_file(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file may grow beyond 20 kB
    try:
        with pytest.raises(StorageError, match=r"writing .* failed"):
            export_model(checkpoint, tmp_path / "model.pt2", frames=1, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "old"


def test_a_new_format_is_an_entry(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []

    def save(program: torch.export.ExportedProgram, path: Path, names: list[str], about: dict[str, Any]) -> None:
        FORMATS["torch"].save(program, path, names, about)
        saved.append(names[0])

    monkeypatch.setitem(FORMATS, "stencil", replace(FORMATS["torch"], save=save))
    out = tmp_path / "model.stencil"
    assert export_model(checkpoint, out, "stencil", frames=1).passed
    assert saved == ["depth_m"]
    assert out.is_file()
    # In a process of its own: the command takes the names when it is imported.
    code = (
        "from trainer.weights import export\nexport.FORMATS['stencil'] = export.FORMATS['torch']\n"
        "export.export_model = lambda _, out, kind, **__: sys.exit(f'{kind} to {out}')\n"
        "from trainer.cli import main\nmain()\n"
    )
    words = [sys.executable, "-c", f"import sys\n{code}", "export", str(checkpoint), "--out", str(out), "--format"]
    taken, refused = (
        subprocess.run([*words, name], capture_output=True, text=True, check=False) for name in ("stencil", "chisel")
    )
    assert taken.stderr == f"stencil to {out}\n"
    assert refused.returncode == 2
    assert "'chisel' is not one of 'torch', 'onnx', 'stencil'" in refused.stderr


@pytest.mark.parametrize("name", ["export", "convert", "predict"])
def test_help_has_an_example(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["trainer", name, "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert f"trainer {name}" in capsys.readouterr().out.split("Example:")[1]
