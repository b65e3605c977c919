"""Captures of an object store: brought once, in whole objects; a build of them is one of a local copy."""

from __future__ import annotations

import io
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import InputError, StorageError
from datagen.flows.build import build
from datagen.flows.choice import Choice
from datagen.flows.folder_plan import NO_CHOICE
from datagen.flows.inputs import INDEX, brought
from datagen.flows.parts import Part, finish_build, freeze_build, run_part
from datagen.flows.result import BuildResult
from datagen.flows.runners.contract import RunnerConfig
from datagen.layout import BuildLayout, load_recipe
from datagen.manifest import Manifest, parse_manifest
from datagen.shards.store import Found, ObjectStore
from tests.conftest import TINY_MANIFEST
from tests.support.build_trees import tree

SERIAL = RunnerConfig("serial")


def recipe(root: str | Path, **others: Any) -> Manifest:
    return parse_manifest({**TINY_MANIFEST, "source": {"kind": "folder", "root": str(root)}, **others})


def put(url: str, files: dict[str, bytes]) -> None:
    store = ObjectStore(url)
    for name, data in files.items():
        store.write(name, data)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def captures(tiny_build: BuildResult, tmp_path: Path) -> Path:
    """Captures of two subjects, whose files are the test's own."""
    root = tmp_path / "captures"
    shutil.copytree(tiny_build.root / "captures", root)
    return root


@pytest.fixture
def layout(tmp_path: Path) -> BuildLayout:
    return BuildLayout(tmp_path / "out")


def copies(layout: BuildLayout, url: str) -> dict[str, bytes]:
    return files_of(layout.inputs / url.removeprefix("s3://"))


def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of objects that are fetched from now on."""
    names: list[str] = []
    copy = ObjectStore.copy

    def noted(self: ObjectStore, key: str, file: io.BufferedWriter) -> Found:
        names.append(key)
        return copy(self, key, file)

    monkeypatch.setattr(ObjectStore, "copy", noted)
    return names


def test_a_build_of_objects_is_one_of_a_local_copy(
    captures: Path, s3_url: str, layout: BuildLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3_url, files_of(captures))
    assert freeze_build(recipe(s3_url), layout.root).waiting == 2
    assert copies(layout, s3_url) == files_of(captures)
    # Whoever works at the frozen build needs no store.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    own = load_recipe(layout.manifest, (), layout.root)
    assert f'"{s3_url}"' in layout.manifest.read_text()
    for stage, weight in (("warp", 2), ("render", None)):
        assert run_part(recipe(s3_url), layout.root, stage, Part(1, 1), SERIAL) == (weight or 8)
        freeze_build(own, layout.root)
    result = finish_build(layout.root, SERIAL)
    assert result.verification.ok
    dataset = tree(layout.dataset)
    # The same captures from a folder: nothing of what was made is made again, and every byte stays.
    again = build(recipe(captures), layout.root, SERIAL, replace=True)
    assert (again.warped, again.rendered) == (0, 0)
    assert tree(layout.dataset) == dataset


def test_only_what_changed_is_fetched_again(
    s3_endpoint: str, s3_url: str, layout: BuildLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"s/a/1": b"one", "s/a/2": b"two", "s/b/3": b"three"}
    put(s3_url, files)
    # What stands for a folder, to some tools.
    marker = f"{s3_endpoint}/{s3_url.removeprefix('s3://')}/s/a/"
    with urllib.request.urlopen(urllib.request.Request(marker, method="PUT")):
        pass
    names = fetched(monkeypatch)
    assert brought(layout, recipe(s3_url)).source == layout.local(recipe(s3_url)).source
    assert (sorted(names), copies(layout, s3_url)) == (sorted(files), files)
    names.clear()
    brought(layout, recipe(s3_url))
    assert names == []
    put(s3_url, {"s/a/1": b"ONE", "s/d/4": b"four"})
    ObjectStore(s3_url).delete("s/b/3")
    (layout.inputs / s3_url.removeprefix("s3://") / "s/a/2").unlink()
    brought(layout, recipe(s3_url))
    assert sorted(names) == ["s/a/1", "s/a/2", "s/d/4"]
    assert copies(layout, s3_url) == {"s/a/1": b"ONE", "s/a/2": b"two", "s/d/4": b"four"}
    assert not (layout.inputs / s3_url.removeprefix("s3://") / "s/b").exists()


def test_what_a_kill_left_is_not_used_and_what_is_not_a_copy_is_not_replaced(
    s3_url: str, layout: BuildLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3_url, {"s/a/1": b"one", "s/a/2": b"two"})
    copy, folder = ObjectStore.copy, layout.inputs / s3_url.removeprefix("s3://") / "s/a"

    def broken(self: ObjectStore, key: str, file: io.BufferedWriter) -> Found:
        file.write(b"o")
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectStore, "copy", broken)
    with pytest.raises(KeyboardInterrupt):
        brought(layout, recipe(s3_url))
    assert copies(layout, s3_url) == {}
    # As after `kill -9`: half an object under its temporary name, and half a line of the index.
    (folder / ".1.tmp-999999999-0123abcd").write_bytes(b"o")
    (layout.inputs / INDEX).write_bytes(b'{"format": "canonface-inputs", "version": 1}\n["bucket/s/a/1", 3, "x')
    monkeypatch.setattr(ObjectStore, "copy", copy)
    brought(layout, recipe(s3_url))
    brought(layout, recipe(s3_url))
    assert copies(layout, s3_url) == {"s/a/1": b"one", "s/a/2": b"two"}
    (folder / "2").write_bytes(b"edited")
    with pytest.raises(StorageError, match=r"s/a/2"):
        brought(layout, recipe(s3_url))
    assert (folder / "2").read_bytes() == b"edited"


def test_of_some_frames_only_their_sequences_are_fetched(
    captures: Path, s3_url: str, layout: BuildLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(captures)
    put(s3_url, files)
    first = {name for name in files if name.startswith("s000/")}
    described = {name for name in files if name.endswith("capture.json")}
    for choice, expected in ((Choice(("s000/*",)), first), (Choice(limit=1), first), (NO_CHOICE, set(files))):
        brought(layout, recipe(s3_url), choice)
        assert set(copies(layout, s3_url)) == expected | described
    with pytest.raises(InputError, match="covers no frame"):
        brought(layout, recipe(s3_url), Choice(("nobody",)))


def test_another_bucket_is_another_dataset_and_its_copies_go(
    captures: Path, s3_url: str, layout: BuildLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3_url + "/one", {"s/a/1": b"one"})
    put(s3_url + "/two", files_of(captures))
    brought(layout, recipe(s3_url + "/one"))
    brought(layout, recipe(s3_url + "/two"))
    assert files_of(layout.inputs).keys() == {
        INDEX,
        *(f"{s3_url.removeprefix('s3://')}/two/{name}" for name in files_of(captures)),
    }
    freeze_build(recipe(s3_url + "/two"), layout.root)
    with pytest.raises(StorageError, match=f"holds the build of another dataset .*{s3_url}/two.*{s3_url}/one"):
        build(recipe(s3_url + "/one"), layout.root, SERIAL)
    # A folder that was moved, with its copies, is still the build of these captures.
    moved = BuildLayout(layout.root.rename(layout.root.with_name("moved")))
    names = fetched(monkeypatch)
    assert freeze_build(recipe(s3_url + "/two"), moved.root).waiting == 2
    assert names == []


def test_each_failure_is_one_plain_message(s3_url: str, layout: BuildLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"captures {s3_url} hold no objects"):
        brought(layout, recipe(s3_url))
    with pytest.raises(StorageError, match="there is no such bucket"):
        brought(layout, recipe("s3://there-is-none/x"))
    with pytest.raises(InputError, match="unknown kind"):
        brought(layout, recipe("gs://bucket/x"))
    put(s3_url, {"s/a": b"x", "s/a/1": b"one"})
    with pytest.raises(InputError, match=r"s/a is an object, and there are others below it"):
        brought(layout, recipe(s3_url))
    ObjectStore(s3_url).delete("s/a")
    usage = shutil.disk_usage(layout.root.parent)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**19))
        with pytest.raises(StorageError, match=r"need 1 MiB in .*inputs, whose disk has 0 MiB left"):
            brought(layout, recipe(s3_url))
    found = ObjectStore.found

    def before_it_is_lost(self: ObjectStore, prefix: str = "") -> dict[str, Found]:
        listed = found(self, prefix)
        self.delete("s/a/1")
        return listed

    monkeypatch.setattr(ObjectStore, "found", before_it_is_lost)
    with pytest.raises(StorageError, match=r"s/a/1 is gone since the captures were listed"):
        brought(layout, recipe(s3_url))
    assert copies(layout, s3_url) == {}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"listing .* failed: there are no credentials"):
        brought(layout, recipe(s3_url))
