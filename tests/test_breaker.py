"""The product, tried to break: kills, damage, hostile inputs and other people's files, the same each time."""

from __future__ import annotations

import os
import subprocess
import sys

from datagen.flows.result import BuildResult
from tests.support.breaker.attacks import ATTACKS, IN_TURN
from tests.support.places import ROOT

# Every kind of attack as often as it weighs; ``python -m tests.support.breaker`` does as many as there is time for.
TRIES = len(IN_TURN)


def test_nothing_breaks(tiny_build: BuildResult) -> None:
    command = [sys.executable, "-m", "tests.support.breaker", "--build", str(tiny_build.root), "--tries", str(TRIES)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{TRIES} tries, 0 broke" in done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines() if " tries, " in line} >= set(ATTACKS)
