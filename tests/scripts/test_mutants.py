"""The list of small changes in scripts/mutants.json fits the code: each can still be made, and its tests are there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "mutants.py"
MUTANTS = json.loads(SCRIPT.with_suffix(".json").read_text())


@cache
def as_it_is(file: str) -> tuple[str, str]:
    """Text of a file and, of a module, what Python makes of it; many changes are to the same file."""
    text = (ROOT / file).read_text()
    return text, ast.dump(ast.parse(text)) if file.endswith(".py") else ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=[m["id"] for m in MUTANTS])
def test_a_change_can_be_made_and_leaves_code(mutant: dict) -> None:
    text, parsed = as_it_is(mutant["file"])
    assert text.count(mutant["old"]) == 1
    assert mutant["new"] != mutant["old"]
    if parsed:
        assert ast.dump(ast.parse(text.replace(mutant["old"], mutant["new"]))) != parsed
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
