"""Open3D is loaded by one door, without its plots."""

from __future__ import annotations

import subprocess
import sys

import pytest

from datagen.common.errors import DependencyError
from datagen.common.open3d_library import load_open3d

PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from datagen.common.open3d_library import load_open3d

with ThreadPoolExecutor(4) as pool:
    loaded = list(pool.map(lambda _: load_open3d().t.geometry.RaycastingScene(), range(4)))
assert "dash" not in sys.modules and "plotly" not in sys.modules
import open3d
assert open3d is load_open3d()
from open3d.visualization.draw_plotly import draw_plotly
assert draw_plotly.__module__ == "open3d.visualization.draw_plotly" and "dash" in sys.modules
print(len(loaded))
"""


def test_it_is_loaded_without_its_plots_which_load_when_asked_for() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "4", ran.stderr


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(DependencyError, match="libgl1"):
        load_open3d()
