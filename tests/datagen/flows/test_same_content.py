"""The same captures give the same dataset, byte for byte, wherever they lay and whatever their numbers are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import Field

from datagen.common.settings import Section
from datagen.flows.build import build
from datagen.flows.runners.contract import RunnerConfig
from datagen.manifest import load_manifest, parse_manifest
from datagen.shards import open_dataset
from tests.conftest import TINY_MANIFEST

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

# The largest number that a frame may have, and the unix time that a clock showed at it.
NUMBER, CLOCK = 2**63 - 1, 1669283041.123456


@pytest.fixture(scope="module")
def captures(tiny_build: BuildResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated captures, their one frame numbered by a clock."""
    root = tmp_path_factory.mktemp("somewhere") / "captures"
    shutil.copytree(tiny_build.root / "captures", root)
    for path in sorted(root.rglob("000000.*")):
        path.rename(path.with_name(f"{NUMBER}{path.suffix}"))
    for path in root.rglob("capture.json"):
        content = json.loads(path.read_text())
        del content["fps"]
        path.write_text(json.dumps({**content, "frames": [NUMBER], "times_s": [CLOCK]}))
    return root


def built(captures: Path, out: Path) -> Path:
    recipe = {**TINY_MANIFEST, "source": {"kind": "folder", "root": str(captures)}}
    assert build(parse_manifest(recipe), out, RunnerConfig("serial")).verification.ok
    return out / "dataset.zarr"


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_captures_that_were_moved_give_the_same_bytes(
    captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built(captures, tmp_path / "one")
    shutil.copytree(captures, tmp_path / "elsewhere" / "shoot of may")
    monkeypatch.chdir(tmp_path)
    second = built(Path("elsewhere/shoot of may"), Path("two/deeper"))
    assert tree(first) == tree(tmp_path / second)
    names = (str(captures), captures.parent.name, tmp_path.name, "elsewhere", "shoot of may")
    assert not [key for key, data in tree(first).items() for name in names if name.encode() in data]
    dataset = open_dataset(first)
    assert dataset["train"].index.frame.tolist() == [NUMBER] * len(dataset["train"])
    assert set(dataset.plan.epochs.values()) == {CLOCK}
    assert len(dataset.plan.epochs) == 2
    assert not dataset["train"].index.time.any()
    assert np.dtype("float64") == dataset["train"].index.time.dtype
    said = json.loads(dataset.plan.manifest)["source"]
    assert said == {"kind": "folder", "name": "captures", "scale": "given", "select": None}


class Inner(Section):
    """A part with a place."""

    place: Path | None = None
    amount: int = 3


class Outer(Section):
    """Paths wherever a section may have them."""

    places: tuple[Path, ...] = ()
    by_name: dict[str, Path] = Field(default_factory=dict)
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)
    kept: str = "a/b"


def test_every_kind_of_path_is_left_out_and_nothing_else() -> None:
    bare: dict[str, Any] = {"inner": {"amount": 3}, "kept": "a/b"}
    assert Outer().without_paths() == {**bare, "named": {}, "several": []}
    inner = Inner(place=Path("x"), amount=4)
    full = Outer(places=(Path("p"),), by_name={"q": Path("q")}, inner=inner, several=(inner,), named={"n": inner})
    plain = {"amount": 4}
    assert full.without_paths() == {"inner": plain, "kept": "a/b", "several": [plain], "named": {"n": plain}}


def test_a_recipe_holds_all_but_the_paths() -> None:
    base = load_manifest(Path("folder"))
    moved = load_manifest(Path("folder"), ["source.root=/tmp/x", "source.head_root=/tmp/y", "canonical.head_root=/z"])
    assert base.recipe() == moved.recipe()
    assert "/tmp" not in moved.recipe()
    for change in ("seed=1", "name=other", "source.name=of-may", "render.resolution=56", "splits.val=0"):
        assert load_manifest(Path("folder"), [change]).recipe() != base.recipe(), change
