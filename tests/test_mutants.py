"""The list of small changes in scripts/mutants.json fits the code: each can still be made, and its tests are there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "mutants.py"
MUTANTS = json.loads(SCRIPT.with_suffix(".json").read_text())


@pytest.mark.parametrize("mutant", MUTANTS, ids=[m["id"] for m in MUTANTS])
def test_a_change_can_be_made_and_leaves_code(mutant: dict) -> None:
    path = ROOT / mutant["file"]
    text = path.read_text()
    assert text.count(mutant["old"]) == 1
    assert mutant["new"] != mutant["old"]
    if path.suffix == ".py":
        changed = ast.dump(ast.parse(text.replace(mutant["old"], mutant["new"])))
        assert changed != ast.dump(ast.parse(text))
    assert mutant["tests"]
    assert all((ROOT / name.partition("::")[0]).is_file() for name in mutant["tests"])
    assert mutant["note"]


def test_changes_have_names_of_their_own() -> None:
    assert len({m["id"] for m in MUTANTS}) == len(MUTANTS)


def test_an_unknown_change_is_named() -> None:
    call = [sys.executable, str(SCRIPT), "--only", "no such change"]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "no such change" in result.stderr
