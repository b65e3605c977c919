"""The Dockerfile says what the Makefile and the scripts say; whether it builds, only a Docker engine can tell."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from tests.support.places import ROOT

TOOLS = {"make"}  # beside the libraries


def instructions(text: str) -> list[tuple[str, str]]:
    """Return instruction and arguments of each line of a Dockerfile, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(words[0], words[1]) for line in joined.splitlines() if (words := line.split(maxsplit=1))]


LINES = instructions((ROOT / "Dockerfile").read_text())


def arguments(name: str) -> list[str]:
    return [words for instruction, words in LINES if instruction == name]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_system_libraries_are_those_of_the_script() -> None:
    (call,) = [words for words in arguments("RUN") if "apt-get install" in words]
    installed = set(re.search(r"apt-get install -y --no-install-recommends ([^&]+)", call)[1].split())  # type: ignore[index]
    script = (ROOT / "scripts/system_libraries.sh").read_text()
    packages = re.search(r"^PACKAGES = (\{.*\})$", script, re.MULTILINE)
    assert packages is not None
    assert installed - TOOLS == set(json.loads(packages[1]).values())


def test_it_runs_the_makefiles_targets() -> None:
    calls = [words.split() for words in arguments("RUN") if words.startswith("make ")]
    calls += [json.loads(words) for words in arguments("CMD")]
    assert [call[0] for call in calls] == ["make", "make"]
    assert {target for call in calls for target in call[1:]} <= targets()
    assert calls[-1] == ["make", "demo"]
    # Both commands of the README find everything installed.
    assert "dev" in calls[0]


def test_the_base_is_pinned_and_a_python_that_is_supported() -> None:
    (base,) = arguments("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", base)
    assert version is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version[1])
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]


def test_what_is_copied_is_all_that_git_keeps() -> None:
    assert arguments("COPY") == [". ."]
    ignored = set((ROOT / ".dockerignore").read_text().split("\n"))
    assert {".git/", ".venv/", "runs/"} <= ignored
    for line in (ROOT / ".gitignore").read_text().split():
        assert ignored & {line, line.lstrip("/"), f"**/{line}"}, line
    needed = (
        "Makefile",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
        "LICENSE",
        "scripts",
        "datagen",
        "trainer",
    )
    for name in (*needed, "tests", "manifests", "docs", "benchmarks"):
        assert (ROOT / name).exists()
        assert not ignored & {name, f"{name}/", f"/{name}"}


@pytest.mark.parametrize("part", ["demo", "test"])
def test_the_makefile_has_both_commands(part: str) -> None:
    assert part in targets()
