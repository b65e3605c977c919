"""A new head model, renderer, source or export is one file and one entry: everything else knows its name from there.

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
from datagen.manifest import CanonicalConfig, RenderConfig, parse_manifest
from datagen.render import registry as renderers
from datagen.sources.registry import SOURCES, SimulatedSource

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
NEW_SOURCE = """
from typing import ClassVar, Literal
from pydantic import Field
from datagen.sources.registry import SOURCES, RecordedSource
class BubbleSource(RecordedSource):
    '''Faces blown from soap.'''
    kind: Literal["bubbles"]
    reader: ClassVar[str] = "bubble_source:BubbleCaptures"
    licence: ClassVar[str] = "CC-BY-4.0 (Soap)"
    colours: int = Field(7, ge=1, description="of each film")
SOURCES["bubbles"] = BubbleSource
"""
BUBBLES = """
import numpy as np
from datagen.geometry.camera import look_at
from datagen.geometry.mesh import Mesh
from datagen.sources.frame import Captures, Frame, SequenceInfo, SequenceKey
class BubbleCaptures(Captures):
    def __init__(self, root):
        self.names = sorted((root / "bubbles.txt").read_text().split(), reverse=True)
    def sequences(self):
        return [SequenceInfo(SequenceKey(name, "float"), (0, 2), 1) for name in self.names]
    def frame(self, key, index):
        camera = look_at("front", [0, 0, 1], [0, 0, 0], 60.0, 32, 24)
        points = np.eye(3) * (1 + index) * len(key.subject)
        return Frame(key, index, index / 25, Mesh.of(points, [[0, 1, 2]]), (camera,))
    def input_digest(self, key, index):
        return f"{key}-{index}"
"""
WANTED = '{"name": "x", "source": {"kind": "simulated", "head": "%s"}, "canonical": {"head": "%s"}}'


def run(folder: Path, code: str, *, fails: bool = False) -> str:
    """Run Python with the new variant's file on its path; return what it printed, or its error."""
    (folder / "cube_head.py").write_text(CUBE_HEAD)
    (folder / "crayon_renderer.py").write_text(CRAYON)
    (folder / "bubble_source.py").write_text(BUBBLES)
    (folder / "bubbles.txt").write_text("zoe anna bob")
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n"
    done = subprocess.run([sys.executable, "-c", path + code], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def help_of(command: str, option: str = "--help") -> str:
    return f"""
import sys
from datagen.cli import app
sys.argv = "datagen {command} {option}".split()
app()
"""


def test_a_new_head_is_known_to_manifests_commands_and_the_loader(tmp_path: Path) -> None:
    new = NEW_HEAD.format(simulated=True)
    check = f"from datagen.manifest import parse_manifest\nm = parse_manifest({WANTED % ('cube', 'cube')})\n"
    assert run(tmp_path, f"{new}{check}print(m.source.head, m.canonical.head)") == "cube cube\n"
    assert "anny|ict|flame|cube" in run(tmp_path, new + help_of("warp"))
    assert "flame | cube" in run(tmp_path, new + help_of("schema", ""))
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


PARSED = """
from datagen.manifest import parse_manifest
wanted = {"name": "x", "source": {"kind": "bubbles", "root": ".", "head_root": "models"}}
manifest = parse_manifest(wanted)
"""
PLANNED = """
from pathlib import Path
from datagen.flows.planning import plan_build
from datagen.flows.stages import STAGES
from datagen.flows.stages.warp import WarpUnit
plan = plan_build(manifest)
print(plan.splits, plan.frames, plan.views())
print([stage.name for stage in STAGES if not stage.applies(plan)])
first = WarpUnit(Path("build"), manifest, plan.sequences[0])
print(first.captures().frame(first.sequence.key, 2).scan.vertices[0, 0], first.captures() is first.captures())
"""


def test_a_new_source_is_known_to_manifests_commands_and_the_build(tmp_path: Path) -> None:
    lines = run(tmp_path, NEW_SOURCE + help_of("schema", "")).splitlines()
    assert {"# Or instead: Faces blown from soap.", "#   kind: bubbles", "#   colours: 7"} < set(lines)
    assert "#   # of each film (integer, at least 1)" in lines
    shown = "print(manifest.source.colours, manifest.registration_root, manifest.head_root, manifest.source.origin)\n"
    text = "again = parse_manifest(__import__('json').loads(manifest.text()))\nprint(again == manifest)"
    found = run(tmp_path, NEW_SOURCE + PARSED + shown + text).splitlines()
    assert found == ["7 models None {'name': 'bubbles captures', 'licence': 'CC-BY-4.0 (Soap)'}", "True"]
    assert "source.colours" in run(tmp_path, NEW_SOURCE + PARSED.replace('"models"', '"m", "colours": 0'), fails=True)
    wrong = PARSED.replace('"kind": "bubbles"', '"kind": "soap"')
    assert "one of 'simulated', 'folder', 'bubbles'" in run(tmp_path, NEW_SOURCE + wrong, fails=True)


def test_a_new_source_is_planned_and_opened_by_the_build(tmp_path: Path) -> None:
    found = run(tmp_path, NEW_SOURCE + PARSED + PLANNED).splitlines()
    splits = {"train": ("anna",), "val": ("bob",), "test": ("zoe",)}
    views = {"train": 2, "val": 2, "test": 2}
    assert found == [f"{splits} 6 {views}", "['simulate', 'bridge', 'fit', 'person']", "12.0 True"]
    loaded = "import sys\nprint({'numpy', 'bubble_source'} & set(sys.modules))"
    assert run(tmp_path, NEW_SOURCE + PARSED + loaded) == "set()\n"
    lost = NEW_SOURCE + PARSED.replace('"root": "."', '"root": "nowhere"') + PLANNED
    assert "source.root nowhere is not a folder" in run(tmp_path, lost, fails=True)
    topology = "first.captures().topology('film')"
    assert "the captures bring no topology film" in run(tmp_path, NEW_SOURCE + PARSED + PLANNED + topology, fails=True)


def test_a_new_export_is_a_command(tmp_path: Path) -> None:
    new = "from datagen.commands.export import EXPORTS\nEXPORTS['slides'] = lambda: print('projected')\n"
    listed = run(tmp_path, new + help_of("export")).split()
    assert {"webdataset", "slides"} <= set(listed)
    assert run(tmp_path, new + help_of("export", "slides")) == "projected\n"


def test_names_of_manifests_are_those_of_the_registries() -> None:
    assert get_args(CanonicalConfig.model_fields["head"].annotation) == tuple(heads.HEADS)
    assert get_args(SimulatedSource.model_fields["head"].annotation) == ("anny", "ict")
    assert [get_args(source.model_fields["kind"].annotation) for source in SOURCES.values()] == [(k,) for k in SOURCES]
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
