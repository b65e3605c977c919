"""Listings: what they prove, what they cannot be talked into, and that nobody's file is lost beside ours."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import CanonfaceError, StorageError
from datagen.common.files import claim_folder, name_as_ours, staged_files, staged_folder, write_owned_bytes
from datagen.common.ownership import LISTING, check_output_file, listed, remove_ours, strangers

NAMES = ("a", "b", "deep/c", LISTING, ".a.tmp-former", "d.txt")
CONTENTS = (b"", b"one", b"two", b"three")


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, links by where they lead."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            key = path.relative_to(folder).as_posix()
            found[key] = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
    return found


step = st.tuples(
    st.sampled_from(("replace", "join", "write", "claim", "remove", "theirs", "theirs", "link", "gone")),
    st.sampled_from(NAMES),
    st.sampled_from(CONTENTS),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(step, min_size=2, max_size=9))
def test_nobodys_file_is_lost_whatever_comes_between(steps: list[tuple[str, str, bytes]]) -> None:
    """Whatever our writers do, in any order, with other people's files put and edited in between."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        out, aside = root / "out", root / "aside"
        aside.write_bytes(b"elsewhere")
        theirs: dict[Path, bytes] = {}
        for kind, name, data in steps:
            path = out / name
            if kind in {"theirs", "link", "gone"}:
                with suppress(OSError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.unlink(missing_ok=True)
                    theirs.pop(path, None)
                    if kind == "theirs":
                        theirs[path] = data.upper() or b"?"  # as long as ours
                        path.write_bytes(theirs[path])
                    elif kind == "link":
                        path.symlink_to(aside)
                        theirs[path] = str(aside).encode()
                continue
            with suppress(CanonfaceError):
                _ours(kind, out, path, name, data)
            found = content_of(root)
            for other, expected in theirs.items():
                assert found.get(other.relative_to(root).as_posix()) == expected, (kind, name)
            assert aside.read_bytes() == b"elsewhere"
        assert not [path for path in root.iterdir() if path.name.startswith(".out")]
    finally:
        shutil.rmtree(root)


def _ours(kind: str, out: Path, path: Path, name: str, data: bytes) -> None:
    if kind in {"replace", "join"}:
        with staged_folder(out, replace=kind == "replace") as staging:
            made = staging / (name if name != LISTING else "x")
            made.parent.mkdir(exist_ok=True)
            made.write_bytes(data)
    elif kind == "write" and name != LISTING:
        write_owned_bytes(path, data)
    elif kind == "claim":
        claim_folder(out)
    elif kind == "remove":
        remove_ours(out)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "null", "{}", '{"files": []}', '{"files": {"../x": []}}', "[" * 100_000,
        '{"files": {"a": [{"bytes": "x", "sha256": ""}]}}', '{"files": {"a": [{"bytes": 1e999, "sha256": ""}]}}',
    ],
)  # fmt: skip
def test_what_is_no_listing_proves_nothing_and_is_a_stranger(tmp_path: Path, text: str) -> None:
    (tmp_path / LISTING).write_text(text)
    assert listed(tmp_path) is None
    assert strangers(tmp_path) == [tmp_path / LISTING]
    with pytest.raises(StorageError, match=LISTING):
        write_owned_bytes(tmp_path / "a", b"x")
    with pytest.raises(StorageError, match=LISTING), staged_folder(tmp_path, replace=False):
        pytest.fail("it began")
    assert (tmp_path / LISTING).read_text() == text


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ".", "", "a//b"])
def test_a_listing_names_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    write_owned_bytes(out / "a", b"x")
    content = json.loads((out / LISTING).read_text())
    content["files"] = {name: content["files"]["a"]}
    (out / LISTING).write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    assert listed(out) is None


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    with staged_folder(out, replace=True) as staging:
        (staging / "deep").mkdir()
        (staging / "deep" / "a").write_text("ours")
    shutil.move(out / "deep" / "a", other / "a")
    (out / "deep").rmdir()
    (out / "deep").symlink_to(other)
    assert strangers(out) == [out / "deep"]
    remove_ours(out)
    assert (other / "a").read_text() == "ours"
    (tmp_path / "link").symlink_to(other)
    name_as_ours(other, [other / "a"])
    remove_ours(tmp_path / "link")
    assert (other / "a").read_text() == "ours"


def test_a_single_file_is_replaced_only_if_asked_and_never_within_what_is_ours(tmp_path: Path) -> None:
    mine, build = tmp_path / "mine.png", tmp_path / "build"
    mine.write_text("mine")
    write_owned_bytes(build / "manifest.json", b"{}")
    (build / "report").mkdir()
    (build / "report" / "note").write_text("mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "zarr.json").write_text("{}")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path in (mine, tmp_path / "nowhere"):
        with pytest.raises(StorageError, match="pass --overwrite"):
            check_output_file(path, overwrite=False)
        check_output_file(path, overwrite=True)
    for path in (build / "manifest.json", build / "report" / "note", tmp_path / "data" / "zarr.json"):
        with pytest.raises(StorageError, match="belongs to what this program keeps"):
            check_output_file(path, overwrite=True)
    with pytest.raises(StorageError, match="is a folder"):
        check_output_file(build, overwrite=True)
    with pytest.raises(StorageError, match="pass --overwrite"), staged_files(mine, overwrite=False):
        pytest.fail("it began")
    with staged_files(mine, overwrite=True) as staging:
        (staging / "mine.png").write_text("new")
        (staging / "mine.png.data").write_text("more")
    assert (mine.read_text(), (tmp_path / "mine.png.data").read_text()) == ("new", "more")
    assert not (tmp_path / LISTING).exists()
