"""A new head model, or a new renderer, is one file and one entry: everything else knows its name from there.

Manifests and commands take the names when they are imported, so each test adds its entry in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from datagen.common.errors import ManifestError
from datagen.heads import registry as heads
from datagen.manifest import CanonicalConfig, RenderConfig, SimulatedSource, parse_manifest
from datagen.render import registry as renderers

ROOT = Path(__file__).parents[2]

NEW_HEAD = """
from datagen.heads.registry import HEADS, HeadEntry
entry = HeadEntry("cube_head:load_cube", 8, "CC0", root="the folder of cube.txt", simulated={simulated})
HEADS["cube"] = entry
"""
CUBE_HEAD = """
def load_cube(root):
    return root / "cube.txt"
"""
NEW_RENDERER = """
from datagen.render.registry import RENDERERS, Package, RendererEntry
RENDERERS["crayon"] = RendererEntry("crayon_renderer:Crayon", packages=({package}), shared=True)
"""
CRAYON = """
class Crayon:
    name = "crayon"
    device = "paper"
"""
WANTED = '{"name": "x", "source": {"kind": "simulated", "head": "%s"}, "canonical": {"head": "%s"}}'


def run(folder: Path, code: str, *, fails: bool = False) -> str:
    """Run Python with the new variant's file on its path; return what it printed, or its error."""
    (folder / "cube_head.py").write_text(CUBE_HEAD)
    (folder / "crayon_renderer.py").write_text(CRAYON)
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n"
    done = subprocess.run([sys.executable, "-c", path + code], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def help_of(command: str) -> str:
    return f"""
import sys
from datagen.cli import app
sys.argv = ["datagen", {command!r}, "--help"]
app()
"""


def test_a_new_head_is_known_to_manifests_commands_and_the_loader(tmp_path: Path) -> None:
    new = NEW_HEAD.format(simulated=True)
    check = f"from datagen.manifest import parse_manifest\nm = parse_manifest({WANTED % ('cube', 'cube')})\n"
    assert run(tmp_path, f"{new}{check}print(m.source.head, m.canonical.head)") == "cube cube\n"
    assert "anny|ict|flame|cube" in run(tmp_path, new + help_of("warp"))
    schema = "from datagen.commands.recipe import manifest_lines\nprint(manifest_lines())"
    assert "flame | cube" in run(tmp_path, new + schema)
    load = "from pathlib import Path\nfrom datagen.heads.registry import load_head\nprint(load_head('cube'{}))"
    assert run(tmp_path, new + load.format(", Path('a')")) == str(Path("a") / "cube.txt") + "\n"
    assert "the folder of cube.txt" in run(tmp_path, new + load.format(""), fails=True)


def test_a_head_that_cannot_be_simulated_is_refused_as_a_source_only(tmp_path: Path) -> None:
    new = NEW_HEAD.format(simulated=False)
    check = "from datagen.manifest import parse_manifest\nm = parse_manifest({})\nprint(m.canonical.head)"
    assert run(tmp_path, new + check.format(WANTED % ("anny", "cube"))) == "cube\n"
    assert "source.head" in run(tmp_path, new + check.format(WANTED % ("cube", "cube")), fails=True)


def test_a_new_renderer_is_known_to_manifests_commands_and_the_maker(tmp_path: Path) -> None:
    new = NEW_RENDERER.format(package="")
    manifest = '{"name": "x", "source": {"kind": "simulated"}, "render": {"backend": "crayon"}}'
    check = f"from datagen.manifest import parse_manifest\nprint(parse_manifest({manifest}).render.backend)"
    assert run(tmp_path, new + check) == "crayon\n"
    assert "nvwarp|crayon" in run(tmp_path, new + help_of("render"))
    make = "from datagen.render.registry import make_renderer, backend_notes\n"
    assert run(tmp_path, f"{new}{make}a = make_renderer('crayon')\nprint(a.name, a is make_renderer('crayon'))") == (
        "crayon True\n"
    )
    assert run(tmp_path, f"{new}{make}print(backend_notes()['crayon'])") == "ready, on paper\n"


def test_what_a_new_renderer_lacks_is_said(tmp_path: Path) -> None:
    new = NEW_RENDERER.format(package="Package('no_such_wax', 'there is no wax', 'wax', 'Buy some'),")
    make = "from datagen.render.registry import backend_notes\nprint(backend_notes()['crayon'])"
    found = run(tmp_path, new + make)
    assert "the crayon backend was asked for, but there is no wax" in found
    assert "Buy some" in found


def test_names_of_manifests_are_those_of_the_registries() -> None:
    assert get_args(CanonicalConfig.model_fields["head"].annotation) == tuple(heads.HEADS)
    assert get_args(SimulatedSource.model_fields["head"].annotation) == ("anny", "ict")
    assert get_args(RenderConfig.model_fields["backend"].annotation) == ("auto", *renderers.RENDERERS)


@pytest.mark.parametrize("section", [{"canonical": {"head": "smiley"}}, {"render": {"backend": "vulkan"}}])
def test_an_unknown_name_is_refused_with_the_known_ones(section: dict[str, object]) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest({"name": "x", "source": {"kind": "simulated"}, **section})
    assert ("'anny', 'ict' or 'flame'" if "canonical" in section else "'open3d', 'nvdiffrast'") in str(caught.value)


def test_names_alone_load_nothing_heavy() -> None:
    heavy = {"numpy", "numba", "torch", "warp", "open3d"}
    code = f"import datagen.manifest, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
