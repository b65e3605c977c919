"""A wheel, installed into a fresh environment away from the checkout: everything a command reads came along."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.places import ROOT

Call = Callable[..., str]


def _run(*call: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, call)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs a program of the installed wheel in an empty folder."""
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
    return lambda program, *arguments: _run(environment / "bin" / program, *arguments, cwd=empty)


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
