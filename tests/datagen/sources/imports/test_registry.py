"""What holds of every importer: a recipe of its name, terms that reach datasets, settings that the command knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datagen.manifest import load_manifest
from datagen.sources.imports.imported import ImportSettings
from datagen.sources.imports.registry import IMPORTERS
from tests.datagen.sources.imports.test_imports import run
from tests.layouts import (
    ava,
    colmap,
    facescape,
    famos,
    meshes,
    metashape,
    multiface,
    nersemble,
    realitycapture,
    transforms,
    vhap,
)
from tests.layouts.studio import make_black_beside
from tests.support.places import ROOT

UNIT, SMALL = ("--unit", "mm"), ("--cameras", "1", "--image-size", "64")
WRITERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "colmap": (colmap.write_colmap, UNIT),
    "nerfstudio": (transforms.write_transforms, UNIT),
    "metashape": (metashape.write_metashape, UNIT),
    "realitycapture": (realitycapture.write_realitycapture, UNIT),
    "vhap": (vhap.write_vhap, ()),
    "nersemble": (nersemble.write_v2, ()),
    "nersemble-v1": (nersemble.write_v1, ()),
    "multiface": (multiface.write_multiface, ()),
    "ava256": (ava.write_ava, ()),
    "facescape": (facescape.write_facescape, ("--metres-per-unit", str(facescape.SCALE / 1000))),
    "facescape-tu": (meshes.write_facescape_tu, SMALL),
    "famos": (famos.write_famos, ()),
    "vocaset": (meshes.write_vocaset, SMALL),
    "coma": (meshes.write_coma, SMALL),
}


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


@pytest.mark.parametrize("name", IMPORTERS)
def test_what_it_wrote_is_checked_without_a_problem(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_black_beside(monkeypatch)
    write, options = WRITERS[name]
    write(tmp_path / "set")
    code, said = run("import", name, tmp_path / "set", "--out", tmp_path / "captures", *options)
    assert code == 0, said
    assert "doubtful" not in said
    code, said = run("check", tmp_path / "captures")
    assert (code, " 0 problems" in said) == (0, True), said
