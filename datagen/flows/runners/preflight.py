"""Whether a worker in another process, or on another machine, is one of this build: looked at before its first unit.

One that does not see the build folder would make a folder of its own; one with another version of the program, of the
head model, or of a library that computes would make other bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import datagen
from datagen.common.digests import canonical_json
from datagen.common.errors import CanonfaceError
from datagen.common.files import atomic_write_bytes, storage_errors
from datagen.flows.worker import shared_head
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.render.registry import check_backend

# What computes the bytes of results, besides this program.
LIBRARIES = ("numpy", "scipy", "numba", "Pillow")
RENDERS = "render"


@dataclass(frozen=True)
class Expected:
    """What the workers of a build must be like.

    Attributes
    ----------
    root : Path
        The build folder.
    run : str
        What the folder's mark says as long as this run goes on.
    captures : Path or None
        Folder of the captures, where they lie outside the build folder.
    head : str
    head_root : Path or None
    template : str
        Digest of the head model's template.
    code : str
        :func:`own_code`.
    backend : str
        What renders.
    stage : str
        What is to be worked at.
    """

    root: Path
    run: str
    captures: Path | None
    head: str
    head_root: Path | None
    template: str
    code: str
    backend: str
    stage: str = ""

    @classmethod
    def of(cls, layout: BuildLayout, manifest: Manifest, run: str) -> Expected:
        """Return what a build expects of its workers: to be as this process, and to see its mark."""
        head = shared_head(manifest.canonical.head, manifest.head_root)
        root = getattr(manifest.source, "root", None)
        return cls(
            layout.root,
            run,
            None if root is None else Path(root).resolve(),
            manifest.canonical.head,
            manifest.head_root,
            head.template.digest,
            own_code(),
            manifest.render.backend,
        )


def mark_run(layout: BuildLayout, run: str) -> None:
    """Have a build folder say which run works there: from then on no worker of an earlier one begins anything.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    with storage_errors(f"marking {layout.root}"):
        atomic_write_bytes(layout.run, f"{run}\n".encode())


@cache
def versions() -> dict[str, str]:
    """Return what decides the bytes of results in this process: versions, and a digest of the program's own files."""
    package = Path(datagen.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    found = {"canonface": f"of files {digest.hexdigest()[:12]}", "Python": platform.python_version()}
    return {**found, **{name: metadata.version(name) for name in LIBRARIES}}


def own_code() -> str:
    """Return the versions of this process as text, which every worker's must equal."""
    return canonical_json(versions())


def misfit(expected: Expected) -> str:
    """Return why this process is not one of a build; empty if it is."""
    return _folder_misfit(expected) or _misfit(expected)


def _folder_misfit(expected: Expected) -> str:
    # Looked at before every unit: a run whose driver was killed must not go on in the next one's folder.
    try:
        run = BuildLayout(expected.root).run.read_text().strip()
    except OSError as error:
        return f"it does not see the build folder {expected.root} ({error.strerror or error})"
    if run != expected.run:
        return f"another run has taken over {expected.root}, or it sees another folder there"
    return ""


@cache
def _misfit(expected: Expected) -> str:
    if own_code() != expected.code:
        theirs, ours = json.loads(expected.code), versions()
        other = [f"{name} {ours.get(name)}, not {theirs[name]}" for name in theirs if ours.get(name) != theirs[name]]
        return f"it runs {'; '.join(other)}"
    if expected.captures is not None and not expected.captures.exists():
        return f"it does not see the captures {expected.captures}"
    try:
        template = shared_head(expected.head, expected.head_root).template.digest
        if template != expected.template:
            return f"its template of {expected.head} is another ({template[:12]}, not {expected.template[:12]})"
        if expected.stage == RENDERS:
            check_backend(expected.backend)
    except CanonfaceError as error:
        return str(error)
    return ""
