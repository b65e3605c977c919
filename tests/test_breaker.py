"""The product, tried to break: kills, damage, hostile inputs and other people's files, the same each time."""

from __future__ import annotations

import os
import subprocess
import sys

from datagen.flows.build import BuildResult
from tests.support.places import ROOT

TRIES = 200


def test_nothing_breaks(tiny_build: BuildResult) -> None:
    command = [sys.executable, "-m", "tests.support.breaker", "--tries", str(TRIES), "--build", str(tiny_build.root)]
    path = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{TRIES} tries, 0 broke" in done.stdout
