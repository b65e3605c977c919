"""The site of `make docs`: every page has its place, and the tutorial runs; the extra `docs` builds the site itself."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.docs_site import OUTSIDE, moved, with_lists
from tests.support.places import ROOT

DOCS = ROOT / "docs"
EXTRA = ("mkdocs", "material", "mkdocstrings_handlers", "mkdocs_jupyter")


class Settings(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions."""


Settings.add_multi_constructor("!", lambda *_: None)
Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def listed(entry: Any) -> Iterator[str]:
    """All pages of a navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from listed(inner)


def test_every_page_has_one_place_in_the_navigation() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)
    pages = sorted(listed(settings["nav"]))
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.suffix in {".md", ".ipynb"}]
    assert pages == sorted([*there, *OUTSIDE])
    assert settings["strict"] is True


def test_pages_of_the_root_lead_to_pages_of_the_site() -> None:
    for page, source in OUTSIDE.items():
        text = moved((ROOT / source).read_text())
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link:
                assert (DOCS / link).is_file() or link in OUTSIDE, f"{page}: {link}"


def test_lists_are_read_as_github_reads_them() -> None:
    assert with_lists("a\n- b\n- c\n1. d\n") == "a\n\n- b\n- c\n1. d\n"
    assert with_lists("# a\n\n- b\n  c\n- d\n") == "# a\n\n- b\n  c\n- d\n"
    assert with_lists("```\na\n- b\n```\n") == "```\na\n- b\n```\n"


def test_every_module_of_the_reference_is_there() -> None:
    named = [
        name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]
    assert len(named) == len(set(named)) > 20
    for name in named:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


def cells() -> list[dict[str, Any]]:
    content = json.loads((DOCS / "tutorial.ipynb").read_text())
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def test_the_tutorial_lies_in_git_without_outputs() -> None:
    assert len(cells()) > 8
    assert [cell["id"] for cell in cells() if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.usefixtures("small_pictures")
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells are plain Python: no kernel is needed, nor another process that imports everything anew."""
    import matplotlib as mpl

    mpl.use("agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells():
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    said = capsys.readouterr().out
    assert "2 sequences, 4 frames, 0 problems" in said
    assert "verified: True" in said
    assert names["state"].finished
    assert names["figures"]["canonical_mean_mm"] > 0
    assert (names["work"] / "predicted" / "strip.png").is_file()
    assert names["work"].is_relative_to(tmp_path)


@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in EXTRA), reason="extra docs is not installed")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {"DOCS_EXECUTE": "false", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "datasets.html").is_file()
