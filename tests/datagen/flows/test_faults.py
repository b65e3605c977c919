"""Kills at every durable step of the stages before the dataset; test_shards_durable.py has the dataset's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.places import ROOT

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult


@pytest.mark.parametrize("what", ["frame", "capture"])
def test_a_kill_at_any_durable_step_is_survived_to_the_same_bytes(
    tiny_build: BuildResult, tmp_path: Path, what: str
) -> None:
    command = [sys.executable, "-m", "tests.support.flow_kill", str(tiny_build.root), str(tmp_path), what]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10
