"""The benchmark of the parameter head: what is compared with what, and the figures that are asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import align, attributes


def test_figures_compare_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []
    # By run and dataset: vertices and landmarks of those never seen, landmarks of those tuned on.
    said = {
        ("large-kernel", "data"): (2.0, 3.0),
        ("plain", "data"): (2.5, 4.0),
        ("large-kernel", "others"): (2.2, 5.0),
        ("tuned", "others"): (2.255, 3.5),
    }

    def trainer(*words: str) -> str:
        called.append(list(words))
        assert words[0] == "attributes"
        if words[1] == "fit":
            return json.dumps({"finished": True, "steps": 7})
        run, dataset, split = Path(words[2]).name, Path(words[3]).name, words[5]
        vertices, nme = said[run, dataset]
        nme = nme if split == "test" else nme / 2 if run == "tuned" else nme
        figures = dict.fromkeys((name for name, *_ in attributes.ROWS), 1.0)
        figures |= {"vertices_mm": vertices, "nme_percent": nme}
        figures |= {"vertices_ratio_mean": vertices / 4, "nme_ratio_mean": nme / 16}
        return json.dumps({"figures": figures})

    monkeypatch.setattr(attributes, "trainer", trainer)
    monkeypatch.setattr(align, "_children_s", lambda: 0.0)
    data, others, out = tmp_path / "data", tmp_path / "others", tmp_path / "out"
    attributes.attributes_command(
        data, others, out, options=["fit.steps=7"], tuning_options=["fit.steps=3"], as_json=True
    )
    figures = json.loads(capsys.readouterr().out)
    assert figures["vertices_ratio_mean"] == pytest.approx(0.5)
    assert figures["nme_ratio_mean"] == pytest.approx(3 / 16)
    assert figures["projection_gain"] == pytest.approx(0.3)
    assert figures["projection_harm"] == pytest.approx(0.025)
    assert figures["projection_gain_tuned_people"] == pytest.approx(0.65)
    assert figures["nme_ratio_large_kernel_plain"] == pytest.approx(0.75)
    fits = [words for words in called if words[1] == "fit"]
    assert [Path(words[4]).name for words in fits] == ["large-kernel", "plain", "tuned"]
    # The fusions differ in the fusion alone; what is tuned begins with the first and sees the others.
    assert [w for w in fits[1] if w not in fits[0]] == [str(out / "plain"), "network.fusion=dpt"]
    assert fits[2][2] == str(others)
    assert f"start={out / 'large-kernel'}" in fits[2]
    attributes.attributes_command(data, others, out)
    shown = capsys.readouterr().out
    assert "| face's vertices after a rigid motion, mm | 2.00 | 2.50 |" in shown
    assert "projection_gain                         0.300  ≥ 0.2    met" in shown
    assert shown.count("MISSED") == 0
