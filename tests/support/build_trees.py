"""Helpers for tests that look at whole build folders."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from datagen.common.files import write_owned_bytes
from datagen.manifest import load_manifest

# What a finished build consists of; the rest is logs, locks and the report with its pictures.
CONTENT = ("captures", "truth", "warps", "dataset.zarr", "manifest.json")


def tree(root: Path) -> dict[str, str]:
    """Relative path to SHA-256 of every file of a build's content, hidden files included."""
    files = [p for name in CONTENT for p in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.is_file()
    }


def times(root: Path) -> dict[str, int]:
    """Relative path to modification time of every file of a build's content and report."""
    files = [p for name in (*CONTENT, "report") for p in (root / name).rglob("*")]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files if path.is_file()}


def copy_build(build: Path, out: Path) -> Path:
    """Copy a build without Prefect's files."""
    return Path(shutil.copytree(build, out, ignore=shutil.ignore_patterns(".prefect")))


def folder_build(build: Path, out: Path, captures: Path) -> Path:
    """Copy a simulated build as one of a folder source; return its manifest. Warps and shards stay valid."""
    captures.mkdir(parents=True)
    copy_build(build, out)
    shutil.rmtree(out / "truth")
    for subject in (out / "captures").iterdir():
        subject.rename(captures / subject.name)
    (out / "captures").rmdir()
    content = yaml.safe_load((out / "manifest.json").read_text())
    content["source"] = {"kind": "folder", "root": str(captures)}
    manifest = out.with_name(f"{out.name}.yaml")
    manifest.write_text(yaml.safe_dump(content))
    # A build of other captures would be refused in this folder.
    write_owned_bytes(out / "manifest.json", load_manifest(manifest).text().encode() + b"\n")
    return manifest


def command(*arguments: str | Path, before: str = "") -> subprocess.Popen[str]:
    """Start ``datagen`` in a process of its own; ``before`` is Python to run first."""
    program = f"import sys\n{before}\nfrom datagen.cli import main\nmain()\n"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
