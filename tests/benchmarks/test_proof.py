"""The benchmark of the joint model: what its figures are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import align, proof
from trainer.run.folder import RunState


def said(canonical: float, frames: float) -> dict[str, float]:
    names = ("canonical_confidence_rank_correlation", "depth_aligned_mean_mm", "normal_mean_deg")
    figures = dict.fromkeys(names, 1.0) | {"depth_confidence_rank_correlation": 0.25}
    figures |= {"flow_correspondence_median_px": 0.8}
    return figures | {"canonical_mean_mm": canonical, "correspondence_median_px": frames}


def test_figures_compare_four_frames_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def trainer(*words: str) -> str:
        called.append(list(words))
        if words[0] == "fit":
            return json.dumps({"finished": True, "steps": 9})
        frames = words[words.index("--frames") + 1]
        return json.dumps({"figures": {"4": said(4.0, 0.6), "1": said(5.0, 0.9)}[frames]})

    monkeypatch.setattr(proof, "trainer", trainer)
    monkeypatch.setattr(align, "_children_s", lambda: 0.0)
    proof.proof_command(tmp_path / "data", tmp_path / "run", options=["fit.steps=9"], split="val", as_json=True)
    figures = json.loads(capsys.readouterr().out)
    assert figures["canonical_mean_mm"] == 4.0
    assert (figures["frames_median_px"], figures["flow_median_px"]) == (0.6, 0.8)
    assert figures["clip_gain"] == pytest.approx(0.2)
    assert figures["clip_gain_matching"] == pytest.approx(1 / 3)
    assert figures["depth_confidence_rank"] == 0.25
    assert "fit.steps=9" in called[0]
    assert all(words[words.index("--split") + 1] == "val" for words in called[1:])
    proof.proof_command(tmp_path / "data", tmp_path / "run")
    shown = capsys.readouterr().out.splitlines()
    verdicts = {line.split()[0]: line.split()[-1] for line in shown}
    met = {name: verdicts[name] for name in ("canonical_mean_mm", "clip_gain", "depth_confidence_rank")}
    assert met == {"canonical_mean_mm": "met", "clip_gain": "met", "depth_confidence_rank": "MISSED"}
    assert "cpu_seconds" in figures


def test_the_time_of_a_run_that_was_fitted_elsewhere_is_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trainer(*words: str) -> str:
        if words[0] == "fit":
            return json.dumps({"finished": True, "steps": 9})
        return json.dumps({"figures": said(4.0, 0.6)})

    monkeypatch.setattr(proof, "trainer", trainer)
    run = tmp_path / "run"
    run.mkdir()
    RunState(9, 9, "digest", "uuid", 9, {}).write(run)
    proof.proof_command(tmp_path / "data", run, as_json=True)
    figures = json.loads(capsys.readouterr().out)
    assert figures["steps"] == 9
    assert "cpu_seconds" not in figures
