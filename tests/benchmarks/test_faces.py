"""The benchmark of faces measures what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.faces import run
from datagen.manifest import WarpConfig


def test_it_compares_what_is_kept_with_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "EXACT_PEOPLE", 2)
    monkeypatch.setattr(run, "SCAN", 6_000)
    monkeypatch.setattr(run, "CONFIG", WarpConfig(subdivisions=0))
    picture = tmp_path / "texture.png"
    arguments = ["faces", "--subjects", "1", "--frames", "1", "--picture", str(picture), "--json"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr()
    assert caught.value.code == 0, told.err
    content = json.loads(told.out)
    figures = content["figures"]
    assert 0 <= figures["exact_rms_mm"] <= figures["exact_rms_mm_max"] < 0.05
    assert 0.2 < figures["registration_rms_mm"] < 1
    for name in ("registration", "landmarks"):
        assert 0.4 < figures[f"{name}_within_sigma"] < figures[f"{name}_within_two_sigma"] <= 1
    assert figures["flipped_triangles"] == 0
    assert figures["face_area_p5"] < 1 < figures["face_area_p95"]
    assert content["goals"]["flipped_triangles"] == {"goal": "≤ 0", "met": True}
    assert Image.open(picture).size == (1600, 400)
