"""What holds of every importer: a recipe of its name, terms that reach datasets, settings that the command knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from datagen.manifest import load_manifest
from datagen.sources.imports.imported import ImportSettings
from datagen.sources.imports.registry import IMPORTERS
from tests.datagen.sources.imports.test_imports import run
from tests.support.places import ROOT


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_recipe_goes_with_it(name: str) -> None:
    manifest = load_manifest(Path(name))
    assert (manifest.name, manifest.source.kind) == (name, "folder")
    text = (ROOT / "manifests" / f"{name}.yaml").read_text()
    assert f"datagen import {name} " in text
    assert f"datagen build {name} " in text
    # Who owns the captures says their terms; of a public set they are known.
    owned = "--licence" in text
    assert owned == (IMPORTERS[name].licence is None)
    assert f"| `{name}` |" in (ROOT / "docs" / "import.md").read_text()


@pytest.mark.parametrize("name", IMPORTERS)
def test_its_terms_and_settings_are_known(name: str) -> None:
    importer = IMPORTERS[name]
    assert importer.takes <= set(vars(ImportSettings()))
    assert (importer.licence is None) == (importer.citation is None) == ({"licence", "citation"} <= importer.takes)


@pytest.mark.parametrize("name", IMPORTERS)
def test_an_empty_folder_and_a_missing_one_are_one_message(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "gone"):
        code, said = run("import", name, tmp_path / place, "--out", tmp_path / "captures")
        assert code == 2
        assert place in said
