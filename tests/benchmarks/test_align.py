"""The benchmark of alignment: as much processor time for both, and the figures that are asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import align


def test_regression_gets_the_time_that_alignment_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used, fitted = [0.0], {}

    def trainer(*words: str) -> str:
        if words[0] == "fit":
            name, steps = Path(words[3]).name, 400
            for word in words:
                steps = int(word.removeprefix("fit.steps=")) if word.startswith("fit.steps=") else steps
            fitted[name] = steps
            used[0] += 100.0 if name == "flow" else 5 + 0.1 * steps  # five seconds to begin
            return json.dumps({"finished": True, "steps": steps})
        names = [name for name, *_ in align.ROWS if name not in ("cpu_seconds", "steps")]
        nme = 2.0 if words[1].endswith("flow") else 2.5
        figures = dict.fromkeys(names, 0.5) | {"nme_percent": nme, "nme_percent_0": 3.0, "nme_percent_1": nme}
        return json.dumps({"figures": figures})

    monkeypatch.setattr(align, "_trainer", trainer)
    monkeypatch.setattr(align, "_children_s", lambda: used[0])
    align.align_command(tmp_path / "data", tmp_path / "out", options=["network.width=8"], as_json=True)
    figures = json.loads(capsys.readouterr().out)
    assert fitted["regression"] == pytest.approx((100 - 5) / 0.1, rel=0.03)
    assert figures["regression_cpu_seconds"] == pytest.approx(figures["align_cpu_seconds"], rel=0.03)
    assert figures["align_ratio_regression"] == pytest.approx(0.8)
    assert figures["align_sigma_ratio"] == 0.5
    # Finished runs are not counted again.
    monkeypatch.setattr(align, "_children_s", lambda: used[0] * 0 + 1e-3)
    align.align_command(tmp_path / "data", tmp_path / "out", options=["network.width=8"])
    shown = capsys.readouterr().out
    assert "| after each iteration, the start first | 3.00, 2.00 |" in shown
