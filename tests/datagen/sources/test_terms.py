"""Terms that captures state: told without checking each file again, and never taken from one that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import InputError
from datagen.sources.terms import stated_terms


def capture(root: Path, name: str, **terms: Any) -> None:
    folder = root / name / "take"
    folder.mkdir(parents=True)
    (folder / "capture.json").write_text(json.dumps({"frames": [0], "unit": "m", **terms}))


def test_terms_of_all_captures_are_told_once(tmp_path: Path) -> None:
    capture(tmp_path, "anna", licence="CC-BY-4.0", citation="Anna 2020")
    capture(tmp_path, "ben", licence="CC-BY-4.0", shaded=True)
    capture(tmp_path, "cleo")
    capture(tmp_path, ".hidden", licence="secret")
    assert stated_terms(tmp_path, "own") == {
        "licence": "CC-BY-4.0; own",
        "citation": "Anna 2020",
        "pictures": "of 1 of 3 captures: simulated shading of meshes that came without pictures",
    }


@pytest.mark.parametrize("text", ['{"frames": [0], "licence": 7}', "[]", "{half", '{"licence": "a", "shaded": "yes"}'])
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    capture(tmp_path, "anna")
    (tmp_path / "anna/take/capture.json").write_text(text)
    with pytest.raises(InputError, match=r"capture\.json"):
        stated_terms(tmp_path, "own")
