"""Fixtures that several files of tests share."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main
import typer.testing
import yaml

from tests.support.once import made_once
from tests.support.order import longest_first

# As the command line does, and before NumPy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult
    from datagen.flows.runners.contract import RunnerName

# As small as a build can be and still have everything: two subjects, a split with each, shards of two samples.
TINY_MANIFEST = {
    "name": "tiny",
    "source": {
        "kind": "simulated",
        "subjects": 2,
        "frames": 1,
        "cameras": 4,
        "image_size": 64,
        "scan_vertices": 3000,
    },
    "warp": {"subdivisions": 0},
    "render": {"resolution": 56},
    "shards": {"clip": 2, "samples_per_shard": 2},
    "splits": {"val": 1, "test": 0},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    longest_first(items)


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest file of :func:`tiny_build`."""
    path = tmp_path_factory.mktemp("manifests") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_MANIFEST))
    return path


@pytest.fixture(scope="session")
def tiny_build(tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """A finished build on threads through Prefect. Tests must not change it: they copy it."""
    return _build_once(tiny_manifest, tmp_path_factory, "threads")


# One person's performance: long enough for two tasks of the warp stage, and for a person to be learnt.
TALK_MANIFEST = {
    "name": "talk",
    "source": {
        "kind": "simulated",
        "subjects": 1,
        "frames": 5,
        "cameras": 1,
        "image_size": 64,
        "scan_vertices": 2000,
    },
    "warp": {"subdivisions": 0},
    "render": {"resolution": 56},
    "shards": {"clip": 1, "samples_per_shard": 8},
    "splits": {"val": 0, "test": 0},
}


@pytest.fixture(scope="session")
def talk_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest file of :func:`talk_build`."""
    path = tmp_path_factory.mktemp("manifests") / "talk.yaml"
    path.write_text(yaml.safe_dump(TALK_MANIFEST))
    return path


@pytest.fixture(scope="session")
def talk_build(talk_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """A finished build, without Prefect, whose frames share a person. Tests must not change it: they copy it."""
    return _build_once(talk_manifest, tmp_path_factory, "serial")


def _build_once(manifest: Path, factory: pytest.TempPathFactory, runner: RunnerName) -> BuildResult:
    def make(folder: Path) -> BuildResult:
        from datagen.flows.build import build
        from datagen.flows.runners.contract import RunnerConfig
        from datagen.manifest import load_manifest

        return build(load_manifest(manifest), folder / manifest.stem, RunnerConfig(runner, workers=2))

    os.environ.pop("PREFECT_API_URL", None)
    return made_once(factory, manifest.stem, make)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server process that speaks S3; its address is in the environment for as long as the session lasts."""
    from tests.support import s3_server

    missing = s3_server.missing_packages()
    if missing:
        pytest.skip(f"object stores are tested with {', '.join(missing)}, which are not installed (extra dev)")
    with s3_server.s3_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.client_environment(endpoint).items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture
def s3_url(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    """URL of an empty folder in a bucket of its own."""
    import hashlib

    from tests.support import s3_server

    bucket = "t" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    s3_server.make_bucket(s3_endpoint, bucket)
    return f"s3://{bucket}/some/prefix"


@pytest.fixture(scope="session")
def learnt_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a small model that has learnt the ellipsoids of trainer_scene."""
    from tests.support import predict_scene

    def make(folder: Path) -> Path:
        predict_scene.write_learnt_checkpoint(folder / "best.pt")
        return folder / "best.pt"

    return made_once(tmp_path_factory, "learnt_model", make)


@pytest.fixture(scope="module")
def small_pictures() -> Iterator[None]:
    """Draw the pictures of reports small: they take much of a small build, and tests of the audit look at them."""
    from datagen.audit import samples, warp_pictures

    with pytest.MonkeyPatch.context() as patch:
        for module in (samples, warp_pictures):
            patch.setattr(module, "TILE_PX", 96)
        yield


@pytest.fixture(autouse=True)
def logging_goes_on() -> Iterator[None]:
    """Take back what a command does that is interrupted within this process: it would be silent for good."""
    hooks = sys.unraisablehook, threading.excepthook
    yield
    logging.disable(logging.NOTSET)
    sys.unraisablehook, threading.excepthook = hooks


@pytest.fixture(scope="session", autouse=True)
def without_fsync() -> Iterator[None]:
    """Skip fsync: it guards against power cuts, which no test can make, and is waited for. Other processes do it.

    Tests of what is synced, and when, put their own in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def claim_with_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], None]]:
    """Have Prefect's servers begin with a database that one of them made: making it is half of their start.

    Returns what they claim their folder with, for those that start in another process.
    """
    from datagen.common.files import claim_folder
    from datagen.flows.runners import local_api

    def make(folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_HOME", str(folder))
            patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
            patch.setattr(local_api, "claim_folder", lambda _: None)
            server = local_api.LocalApi(folder)
            server.wait()
            server.stop()
        # What the server wrote last may lie beside the file still.
        new = folder / "new.db"
        with closing(sqlite3.connect(folder / "prefect.db")) as made, closing(sqlite3.connect(new)) as whole:
            made.backup(whole)
        return new

    def claim(home: Path) -> None:
        claim_folder(home)
        if not (home / "prefect.db").exists():
            shutil.copyfile(made_once(tmp_path_factory, "prefect", make), home / "prefect.db")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_api, "claim_folder", claim)
        yield claim


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Build a program's tree of commands once, not for each call: 20 ms, and the tests call in thousands."""
    once = functools.lru_cache(maxsize=8)(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", once)
        patch.setattr(typer.testing, "_get_command", once)
        yield


@pytest.fixture(scope="module")
def pristine(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that nobody changes."""
    from tests.support.shard_samples import build

    return build(tmp_path_factory.mktemp("pristine") / "dataset.zarr")


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Path:
    """The same for a test of its own."""
    return Path(shutil.copytree(pristine, tmp_path / "dataset.zarr"))
