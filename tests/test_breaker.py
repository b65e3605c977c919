"""The product, tried to break: kills, damage, hostile inputs and other people's files, the same each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from datagen.flows.build import BuildResult
from tests.support.places import ROOT

# A sample with every kind of attack in it; ``python -m tests.support.breaker`` does as many as there is time for.
TRIES, AT_ONCE = 80, 2


def _start(scene: Path, build: Path, first: int, tries: int) -> subprocess.Popen[str]:
    arguments = ["--scene", scene, "--build", build, "--first", first, "--tries", tries]
    command = [sys.executable, "-m", "tests.support.breaker", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_nothing_breaks(tiny_build: BuildResult, tmp_path: Path) -> None:
    made = _start(tmp_path / "scene", tiny_build.root, 0, 0)
    text, _ = made.communicate()
    assert made.returncode == 0, text
    some = TRIES // AT_ONCE
    parts = [_start(tmp_path / "scene", tiny_build.root, k * some, some) for k in range(AT_ONCE)]
    for part in parts:
        text, _ = part.communicate()
        assert part.returncode == 0, text
        assert f"{some} tries, 0 broke" in text
