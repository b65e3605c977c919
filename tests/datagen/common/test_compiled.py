"""Compiled kernels on disk: used again as long as no source changes, and never after one has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from datagen.common import compiled

ROOT = Path(__file__).parents[3]
CALLER = """
from datagen.common.compiled import compiled
from datagen.geometry.tiny_callee import twice
from datagen.geometry.tiny_constant import OFFSET


@compiled
def answer(x):
    return twice(x) + OFFSET
"""
CALLEE = """
from datagen.common.compiled import inlined


@inlined
def twice(x):
    return 2 * x
"""
ASK = """
from datagen.common.compiled import kernel_folder
from datagen.geometry.tiny_caller import answer
print(answer(10), sum(answer.stats.cache_hits.values()), sum(answer.stats.cache_misses.values()), kernel_folder())
"""
# A triangle with a corner behind the camera is judged by a function of another file.
ASK_ARRANGE = """
import numpy as np
from datagen.render.numba.mesh_order import arrange
from datagen.render.numba.raster_kernel import OUTSIDE
front = np.zeros(1, np.uint8)
homogeneous = np.array([[0.0, 0.0, 1.0], [5.0, 0.0, 1.0], [0.0, 5.0, 1.0]])
faces = np.array([[0, 1, 2]], np.int32)
screen = np.full((3, 2), OUTSIDE, np.int32)
arrange(faces, homogeneous, screen, 1e-3, 8, 8, 8, front)
print(front[0])
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with a copy of datagen's sources, and three small files of which one calls the others."""
    shutil.copytree(ROOT / "datagen", tmp_path / "datagen", ignore=shutil.ignore_patterns("__pycache__", "data"))
    write(tmp_path, "tiny_caller", CALLER)
    write(tmp_path, "tiny_callee", CALLEE)
    write(tmp_path, "tiny_constant", "OFFSET = 5\n")
    return tmp_path


def write(root: Path, module: str, source: str) -> None:
    (root / "datagen" / "geometry" / f"{module}.py").write_text(source)


def run(root: Path, code: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    clean |= {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(root / "home"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def folders(parent: Path) -> list[Path]:
    return sorted(parent.glob("kernels-*"))


def cached(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.nb*")}


def test_what_was_compiled_is_used_again(copy: Path) -> None:
    first = run(copy, ASK)
    assert first[:3] == ["25", "0", "1"]
    folder = Path(first[3])
    assert folders(copy / "datagen" / "__pycache__") == [folder]
    before = cached(folder)
    assert any("answer" in name for name in before)
    again = run(copy, ASK)
    assert again == ["25", "1", "0", str(folder)]
    assert cached(folder) == before


def test_a_change_in_another_file_leads_to_another_folder_and_the_old_one_goes(copy: Path) -> None:
    old = Path(run(copy, ASK)[3])
    write(copy, "tiny_callee", CALLEE.replace("2 * x", "3 * x - 9 + 4"))
    new = run(copy, ASK)
    assert new[:3] == ["30", "0", "1"]
    assert folders(copy / "datagen" / "__pycache__") == [Path(new[3])] != [old]


@pytest.mark.parametrize(
    ("file", "change", "matters"),
    [
        ("geometry/tiny_caller.py", "# another", True),
        ("geometry/tiny_callee.py", "# another", True),
        ("geometry/tiny_constant.py", "MORE = 1", True),
        ("render/numba/raster_kernel.py", "# another", True),
        ("audit/charts.py", "# Nothing that a kernel is made of.", False),
    ],
)
def test_the_folder_is_named_after_all_that_kernels_are_made_of(
    copy: Path, file: str, change: str, matters: bool
) -> None:
    before = compiled.source_digest(copy / "datagen")
    with (copy / "datagen" / file).open("a") as source:
        source.write(f"\n{change}\n")
    assert (compiled.source_digest(copy / "datagen") != before) == matters


def test_an_edited_function_of_the_rasteriser_is_seen_by_those_who_call_it(copy: Path) -> None:
    assert run(copy, ASK_ARRANGE) == ["0"]
    kernel = copy / "datagen" / "render" / "numba" / "raster_kernel.py"
    source = kernel.read_text()
    edited = source.replace("    return (\n        h[a, 0] * (", "    return -(\n        h[a, 0] * (")
    assert edited != source
    kernel.write_text(edited)
    assert run(copy, ASK_ARRANGE) == ["1"]


def test_a_folder_that_the_user_names_is_kept_to_and_shared_with_other_copies(copy: Path) -> None:
    chosen = copy / "chosen"
    stranger = chosen / "kernels-01234567-0123456789abcdef"
    stranger.mkdir(parents=True)
    found = run(copy, ASK, NUMBA_CACHE_DIR=str(chosen))
    assert Path(found[3]).parent == chosen
    assert cached(Path(found[3]))
    assert not folders(copy / "datagen" / "__pycache__")
    write(copy, "tiny_constant", "OFFSET = 6\n")
    new = run(copy, ASK, NUMBA_CACHE_DIR=str(chosen))
    assert new[0] == "26"
    assert folders(chosen) == sorted([stranger, Path(new[3])])


def test_where_the_sources_cannot_be_written_to_the_users_cache_takes_over(copy: Path) -> None:
    # A file in the folder's place refuses root as well.
    (copy / "datagen" / "__pycache__").write_text("")
    found = run(copy, ASK)
    assert found[0] == "25"
    assert Path(found[3]).parent == copy / "home" / "canonface"
    assert run(copy, ASK)[1:3] == ["1", "0"]


def test_without_any_place_to_write_kernels_are_compiled_all_the_same(copy: Path) -> None:
    (copy / "datagen" / "__pycache__").write_text("")
    (copy / "home").write_text("")
    assert run(copy, ASK) == ["25", "0", "1", "None"]


def test_other_users_of_numba_keep_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = compiled.kernel_folder()
    monkeypatch.setattr(numba.config, "CACHE_DIR", "theirs")

    @compiled.compiled
    def plus_one(x):  # type: ignore[no-untyped-def]
        return x + 1

    assert numba.config.CACHE_DIR == "theirs"
    assert plus_one(1) == 2
    assert plus_one.stats.cache_path.startswith(str(folder))


def test_another_numba_or_python_means_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled.source_digest(compiled.PACKAGE)
    assert compiled.source_digest(compiled.PACKAGE) == before
    with monkeypatch.context() as patch:
        patch.setattr(numba, "__version__", "0.0.1")
        assert compiled.source_digest(compiled.PACKAGE) != before
    monkeypatch.setattr(sys, "version", "3.0")
    assert compiled.source_digest(compiled.PACKAGE) != before


def test_no_file_compiles_past_this_one() -> None:
    pattern = re.compile(r"^\s*(?:import numba|from numba)\b", re.MULTILINE)
    files = [path for folder in ("datagen", "trainer") for path in (ROOT / folder).rglob("*.py")]
    named = {path.relative_to(ROOT).as_posix() for path in files if pattern.search(path.read_text())}
    assert named == {"datagen/common/compiled.py"}
