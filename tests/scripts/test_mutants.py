"""The list of small changes in scripts/mutants.json fits the code: nearly all can be made, their tests are there."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "mutants.py"
MUTANTS = json.loads(SCRIPT.with_suffix(".json").read_text())


@cache
def as_it_is(file: str) -> tuple[str, str]:
    """Text of a file and, of a module, what Python makes of it; many changes are to the same file."""
    text = (ROOT / file).read_text()
    return text, ast.dump(ast.parse(text)) if file.endswith(".py") else ""


def what_is_wrong(mutant: dict) -> str:
    """Say why a change cannot be made any more; empty if it can."""
    if not (ROOT / mutant["file"]).is_file():
        return "its file is gone"
    text, parsed = as_it_is(mutant["file"])
    if text.count(mutant["old"]) != 1:
        return f"its text is there {text.count(mutant['old'])} times"
    if parsed and ast.dump(ast.parse(text.replace(mutant["old"], mutant["new"]))) == parsed:
        return "it changes nothing"
    gone = [name for name in mutant["tests"] if not (ROOT / name.partition("::")[0]).is_file()]
    return f"its tests are gone: {', '.join(gone)}" if gone or not mutant["tests"] else ""


def test_nearly_all_changes_can_still_be_made() -> None:
    """Code may move on without its list: the script names what no longer fits. But a list of few says nothing."""
    wrong = {mutant["id"]: reason for mutant in MUTANTS if (reason := what_is_wrong(mutant))}
    assert len(MUTANTS) >= 60
    assert len(wrong) <= len(MUTANTS) // 10, wrong
    assert all(mutant["note"] for mutant in MUTANTS)


def test_changes_have_names_of_their_own() -> None:
    assert len({m["id"] for m in MUTANTS}) == len(MUTANTS)


def test_an_unknown_change_is_named() -> None:
    call = [sys.executable, str(SCRIPT), "--only", "no such change"]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "no such change" in result.stderr
