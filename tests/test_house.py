"""The rules of the house: floors, no circles, file length, what light imports load, no registry named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
MAX_LINES = 600


def floor_table(page: str) -> dict[str, int]:
    """Read package and floor from the rows of a page's table, such as "| `shards` | 2 | …"."""
    return {name: int(floor) for name, floor in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, flags=re.MULTILINE)}


FLOORS = floor_table((ROOT / "docs" / "architecture.md").read_text())
TOP_FLOOR = max(FLOORS.values())
# What those may import of datagen that are to stay light, or apart from it.
MAY_IMPORT = {
    "trainer": ("datagen.shards", "datagen.common"),
    "datagen.shards": ("datagen.shards", "datagen.common"),
    "datagen.common": ("datagen.common",),
}
# A local dataset must be readable with numpy and zarr alone, and what zarr itself needs; obstore is for s3:// only.
SHARDS_MAY_IMPORT = {"numpy", "zarr", "numcodecs", "google_crc32c", "obstore"} | sys.stdlib_module_names
# Both programs read their settings with it, before anything heavy is loaded.
SETTINGS = "datagen.common.settings"
SETTINGS_MAY_IMPORT = {"yaml", "pydantic"} | sys.stdlib_module_names
# What a training machine must not need, and what makes importing slow.
HEAVY = ("open3d", "prefect", "dask", "smplx")
# Installed and pinned by a package that is declared: its other half, or its server.
COMPANIONS = {"distributed": "dask", "pydantic-core": "pydantic", "uvicorn": "prefect"}
# Never required: on no registry, or an extra.
OPTIONAL_PACKAGES = {"av", "cv2", "pi_heif", "onnx", "onnxruntime", "nvdiffrast", "pytorch3d", "obstore", "warp"}
OPTIONAL_PACKAGES |= {"rerun", "wandb", "litdata", "tensorstore", "webdataset", "zarrs"}  # compared with
CODE_FOLDERS = ("datagen", "trainer", "tests", "benchmarks", "scripts")
# Beside the packages in the checkout, in no wheel.
CHECKOUT_ONLY = ("benchmarks", "tests")
# Split, so that this file does not name them itself.
REGISTRY_HOSTS = (
    "pypi" + ".org",
    "python" + "hosted.org",
    "anaconda" + ".org",
    "download.py" + "torch.org",
    "registry." + "npmjs",
    "gh" + "cr.io",
)


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of every import in ``source``, nested ones included.

    ``from a import b`` yields both ``a`` and ``a.b``, because b may be a module.
    """
    for line, base, full in imported_names(source, module, is_package):
        yield from {(line, base): None, (line, full): None}


def imported_names(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and full name of everything imported: ``a`` and ``a.b`` for ``from a import b``."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                anchor = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{anchor}.{base}".rstrip(".")
            for alias in node.names:
                yield node.lineno, base, f"{base}.{alias.name}"


def floor_of(module: str) -> int | None:
    """Return the floor of a datagen module, 0 for the bare package, None for a part without a floor."""
    parts = module.split(".")
    return 0 if len(parts) == 1 else FLOORS.get(parts[1])


def lies_in(name: str, packages: tuple[str, ...]) -> bool:
    """Tell whether a dotted name is one of the packages or inside one."""
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return what ``source`` imports against the rules, one sentence each."""
    found = []
    imports = list(imported_modules(source, module, is_package))
    bases = {name for _, name in imports}
    for line, name in imports:
        top = name.partition(".")[0]
        where = f"{module}:{line} imports {name}"
        if lies_in(module, ("datagen", "trainer")) and top in CHECKOUT_ONLY:
            found.append(f"{where}, which is in no wheel")
        for package, allowed in MAY_IMPORT.items():
            if not lies_in(module, (package,)) or top != "datagen" or lies_in(name, allowed):
                continue
            # `from datagen import shards` also yields the bare package; what it takes from there is judged by itself.
            # Within datagen the bare package (datagen.__version__) is nobody's business.
            if name == "datagen" and (package != "trainer" or any(lies_in(base, allowed) for base in bases)):
                continue
            found.append(f"{where}; {package} may import {' and '.join(allowed)} only")
        if lies_in(module, ("datagen.shards",)) and top not in SHARDS_MAY_IMPORT | {"datagen"}:
            found.append(f"{where}; shards may import numpy and zarr only")
        if module == SETTINGS and top not in SETTINGS_MAY_IMPORT | {"datagen"}:
            found.append(f"{where}; settings may import yaml and pydantic only")
        if lies_in(module, ("datagen",)):
            own = floor_of(module)
            if own is None:
                found.append(f"{module} has no floor; give it one in docs/architecture.md")
                break
            if top == "trainer" and own < TOP_FLOOR:
                found.append(f"{where}; only the top floor may call the trainer")
            # A name of the bare package (datagen.__version__) has no floor and is nobody's business.
            if top == "datagen" and own and (floor_of(name) or 0) > own:
                found.append(f"{where}, which is above floor {own}")
    return found


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_table_of_floors_names_every_package():
    parts = {path.name.removesuffix(".py") for path in (ROOT / "datagen").iterdir()}
    assert set(FLOORS) == parts - {"__init__", "__pycache__", "py.typed", "manifests"}


def test_every_import_stays_on_its_floor():
    files = python_files("datagen", "trainer")
    assert len(files) > 10
    found = [
        sentence
        for path in files
        for sentence in violations(path.read_text(), module_name(path), path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("datagen.geometry.mesh", "import datagen.heads.base"),
        ("datagen.heads.base", "from datagen.warp import engine"),
        ("datagen.heads.base", "from datagen import warp"),
        ("datagen.warp.engine", "def f():\n    from datagen.audit.report import write_report"),
        ("datagen.warp.engine", "from ..flows import build"),
        ("datagen.audit.report", "import trainer.fit"),
        ("datagen.shards.dataset", "from datagen.geometry.mesh import Mesh"),
        ("datagen.shards.dataset", "import torch"),
        ("trainer.data", "from datagen.manifest import Manifest"),
        ("trainer.data", "import datagen"),
        ("trainer.model.heads", "from datagen import layout"),
        ("datagen.common.files", "from datagen.shards.schema import ARRAYS"),
        ("datagen.attic.things", "import numpy"),
        ("trainer.config", "from datagen import common, manifest"),
        ("trainer.config", "import datagen.commonplace"),
        ("datagen.common.settings", "from datagen.manifest import Manifest"),
        ("datagen.common.settings", "from datagen.shards.plan import DatasetPlan"),
        ("datagen.common.settings", "from .. import geometry"),
        ("datagen.common.settings", "import numpy"),
        ("datagen.common", "import trainer"),
        ("datagen.commands.warp", "def f():\n    from benchmarks.warp.run import run_bench"),
        ("trainer.step", "from benchmarks import goal"),
        ("trainer.data", "import tests.support.trainer_scene"),
    ],
)
def test_the_checker_sees_a_bad_import(module: str, source: str):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("datagen.warp.engine", "from datagen.render.contract import Fragments"),
        ("datagen.audit.report", "from datagen.warp.result import Warp"),
        (
            "datagen.shards.dataset",
            "import json\nimport zarr\nfrom datagen.common.errors import DatasetError\nfrom . import schema",
        ),
        ("datagen.shards.writer", "import datagen\nfrom datagen.shards.schema import ARRAYS"),
        ("datagen.cli", "from trainer.fit import fit"),
        ("trainer.data", "from datagen.common.errors import InputError"),
        ("datagen.manifest", "from datagen.common.settings import Section"),
        ("datagen.shards.dataset", "from datagen.common import errors"),
        (
            "datagen.common.settings",
            "import yaml\nfrom pydantic.fields import FieldInfo\nfrom datagen.common.errors import ManifestError",
        ),
        ("trainer.config", "from datagen.common.settings import Section"),
        ("trainer.config", "from datagen import common, shards"),
        ("trainer.data", "from datagen.shards.schema import ARRAYS\nfrom datagen import shards\nimport torch"),
    ],
)
def test_the_checker_lets_a_good_import_pass(module: str, source: str):
    assert not violations(source, module)


def test_benchmarks_are_checked_like_the_packages_and_are_in_no_wheel():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert "benchmarks" in tools["mypy"]["packages"]
    assert not {"exclude", "extend-exclude", "include"} & tools["ruff"].keys()
    assert "benchmarks" in CODE_FOLDERS
    find = tools["setuptools"]["packages"]["find"]
    packed = {name.partition(".")[0] for name in find_packages(str(ROOT), include=find["include"])}
    assert packed == {"datagen", "trainer"}


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle, however long, nested and type-only ones too.

    Parameters
    ----------
    sources : dict of str to str
        Source by dotted module name. A name ending in ``.__init__`` is a package.
    """
    names = {name.removesuffix(".__init__"): name for name in sources}
    reached: dict[str, set[str]] = {}
    for module, name in names.items():
        targets = imported_names(sources[name], module, name != module)
        # `from a.b import c` means the file a.b.c if there is one, else a name of a.b.
        files = {full if full in names else base for _, base, full in targets}
        reached[module] = {target for target in files if target in names} - {module}
    changed = True
    while changed:
        changed = False
        for module, targets in reached.items():
            more = set().union(*(reached[target] for target in targets)) - targets
            changed |= bool(more)
            reached[module] = targets | more
    groups = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in reached
        if module in reached[module]
    }
    return [list(group) for group in sorted(groups)]


def test_no_files_import_each_other_in_a_circle():
    files = python_files("datagen", "trainer")
    sources = {
        module_name(path) + (".__init__" if path.name == "__init__.py" else ""): path.read_text() for path in files
    }
    assert len(sources) > 200
    found = circles(sources)
    assert not found, "\n".join(" ⇄ ".join(group) for group in found)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"p.a": "import p.b", "p.b": "from p import a"}, [["p.a", "p.b"]]),
        (
            {"p.a": "from p.b import x", "p.b": "def f():\n    from p.c import y", "p.c": "from .a import z"},
            [["p.a", "p.b", "p.c"]],
        ),
        (
            {"p.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B", "p.b": "import p.a"},
            [["p.a", "p.b"]],
        ),
        ({"p.__init__": "from p.a import x", "p.a": "from p import VERSION"}, [["p", "p.a"]]),
        ({"p.a": "from p.b import x\nimport p.c", "p.b": "import p.c", "p.c": "import json"}, []),
        # A file that its package offers may import its neighbours, but nothing that the package itself says.
        ({"p.__init__": "from p.a import x", "p.a": "from p import b", "p.b": ""}, []),
        ({"p.a": "import p.a_b", "p.a_b": ""}, []),
    ],
)
def test_the_checker_sees_circles_and_only_those(sources: dict[str, str], expected: list[list[str]]):
    assert circles(sources) == expected


def test_no_file_is_too_long():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files(*CODE_FOLDERS)
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long, f"at most {MAX_LINES} lines a file: {long}"


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("statement", ["import trainer", "import datagen.shards"])
def test_light_imports_load_nothing_heavy(statement: str):
    loaded = loaded_by(statement)
    assert "json" in loaded_by("import json")  # the listing works
    assert not loaded & set(HEAVY)


def test_the_listing_sees_a_heavy_import():
    assert "dask" in loaded_by("import dask")


def committed_files() -> list[Path]:
    try:
        run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in run.stdout.split("\0") if name]


def hosts_named(text: str) -> list[str]:
    return [host for host in REGISTRY_HOSTS if host in text.lower()]


def test_no_committed_file_names_a_package_registry():
    assert hosts_named("see https://" + REGISTRY_HOSTS[0] + "/simple")
    found = {
        str(path.relative_to(ROOT)): hosts
        for path in committed_files()
        if path.is_file() and (hosts := hosts_named(path.read_text(errors="ignore")))
    }
    assert not found


def declared(*groups: list[str]) -> set[str]:
    """Return the distribution names of requirement lines, without versions, extras and markers."""
    return {re.split(r"[\[;<>=]", line)[0].strip() for group in groups for line in group}


def test_every_direct_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = declared(project["dependencies"], *project["optional-dependencies"].values())
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    assert {name for name in names if name not in explained} == set()


def test_every_imported_package_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {name.lower() for name in declared(project["dependencies"])}
    named |= {name for name, owner in COMPANIONS.items() if owner in named}
    providers = packages_distributions()
    undeclared = set()
    for path in python_files("datagen", "trainer"):
        for _, name in imported_modules(path.read_text(), module_name(path), path.name == "__init__.py"):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or top in {"datagen", "trainer"} | OPTIONAL_PACKAGES:
                continue
            if not named & {provider.lower().replace("_", "-") for provider in providers.get(top, ())}:
                undeclared.add(top)
    assert not undeclared
