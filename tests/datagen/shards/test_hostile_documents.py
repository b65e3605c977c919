"""Names, sizes and values of a dataset's own documents are looked at before anything is opened or made by them."""

from __future__ import annotations

import copy as copies
import json
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import CanonfaceError, CorruptDatasetError, DatasetError, InputError
from datagen.shards import ARRAYS, open_dataset, stats, unit_is_complete, verify_dataset
from datagen.shards.keys import Key
from datagen.shards.ledger import list_records, record_digest
from datagen.shards.metadata import attributes_digest, metadata_bytes, uuid_of
from datagen.shards.tools.publish import publish
from tests.support.shard_samples import build, make_plan, tree

pytestmark = pytest.mark.usefixtures("without_fsync")

PLAN = make_plan(counts={"train": 6, "val": 2}, samples_per_shard=4)
BAD_KEYS = [
    "", "/", "/etc/passwd", "..", "../x", "../../deep/.bashrc", "train/../../x", "train/./x", "train//x", "train/x/",
    "./x", "C:/x", "train\\x", "a\x00b", "a\nb", "a\x1b[2J", "\x85", "/dev/zero", "a/" * 600 + "b", "x" * 256,
    "é" * 128, "\ud800",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("hostile") / "dataset.zarr", PLAN)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "deep" / "er" / "dataset.zarr"))


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Let nothing hang, nor take two gigabytes more."""

    def stop(*_: object) -> None:
        raise AssertionError(f"still at work after {seconds} s")

    former, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), limits[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def write_signed(root: Path, name: str, content: Any) -> None:
    """Write a record, or the root's attributes, with every digest that would tell."""
    path = root / "zarr.json"
    document = json.loads(path.read_text())
    if name == "zarr.json":
        document["attributes"] = content
    else:
        if isinstance(content, dict):
            content["digest"] = sha256_text(canonical_json({k: v for k, v in content.items() if k != "digest"}))
        (root / name).write_bytes(json.dumps(content).encode())
        digests = [record_digest((root / f"records/{unit.name}.json").read_bytes()) for unit in PLAN.units]
        document["attributes"]["records"] = "".join(digests)
    attributes = document["attributes"]
    if isinstance(attributes, dict):
        if isinstance(attributes.get("content_digest"), str) and len(attributes["content_digest"]) == 64:
            attributes["uuid"] = uuid_of(attributes["content_digest"])
        attributes["attributes_digest"] = attributes_digest(attributes)
    path.write_bytes(json.dumps(document).encode())


def read_all(root: Path) -> dict[str, Any]:
    dataset = open_dataset(root)
    return {f"{s}/{n}": part.raw(n, 0, len(part)) for s, part in dataset.items() for n in ARRAYS}


def complete(root: Path) -> list[bool]:
    return [unit_is_complete(root, unit, f"key-{unit.name}") for unit in PLAN.units]


def push(root: Path) -> str:
    return publish(root, root.parent / "pushed").uuid


USES: list[Callable[[Path], Any]] = [read_all, verify_dataset, stats, complete, list_records, push]


def check_uses(root: Path) -> list[str]:
    """Use a dataset in every way; return what was said. Any other error, a hang or a file elsewhere fails."""
    said = []
    top = root.parents[2]
    before = {path for path in top.rglob("*") if "pushed" not in path.parts}
    for use in USES:
        try:
            with within(20):
                use(root)
        except CanonfaceError as error:
            said.append(str(error))
    shutil.rmtree(root.parent / "pushed", ignore_errors=True)
    assert {path for path in top.rglob("*") if "pushed" not in path.parts} == before
    return said


@pytest.mark.parametrize("key", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_a_key_that_could_leave_its_folder_is_none(key: str) -> None:
    with pytest.raises(ValueError, match="is no relative path"):
        Key(key)


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("ab./\\:\0\n é"), max_size=12)
    | st.text(max_size=8)
    | st.sampled_from(["train/depth/c.0.0.0"])
)
def test_every_key_stays_below_whatever_it_is_joined_to(text: str) -> None:
    try:
        key = Key(text)
    except ValueError:
        return
    joined = os.path.normpath(f"/some/root/{key}")
    assert joined == f"/some/root/{key}"
    assert key.isprintable() or not any(ord(c) < 32 for c in key)


@pytest.mark.parametrize(
    "key", [*BAD_KEYS, "train/depth/zarr.json", "train/depth/c.9.0.0"], ids=range(len(BAD_KEYS) + 2)
)
@pytest.mark.parametrize("instead", [True, False])
def test_a_record_names_the_files_of_its_shard_and_no_other(copy: Path, key: str, instead: bool) -> None:
    name = f"records/{PLAN.units[1].name}.json"
    content = json.loads((copy / name).read_text())
    content["files"][key] = content["files"]["train/depth/c.1.0.0"]
    if instead:
        del content["files"]["train/depth/c.1.0.0"]
    write_signed(copy, name, content)
    said = check_uses(copy)
    assert len(said) >= 4
    assert all(f"{PLAN.units[1].name}" in text for text in said)
    assert complete(copy) == [True, False, True]
    assert not verify_dataset(copy, "quick").ok


def pipe(path: Path) -> None:
    os.mkfifo(path)


def plug(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            opened.bind(path.name)
        finally:
            os.chdir(here)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


THINGS: dict[str, Callable[[Path], None]] = {
    "pipe": pipe,
    "socket": plug,
    "folder": lambda path: path.mkdir(),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to("nowhere"),
    "itself": lambda path: path.symlink_to(path.name),
    "sparse": sparse,
}


@pytest.mark.parametrize("thing", list(THINGS))
@pytest.mark.parametrize(
    "key", ["train/depth/c.1.0.0", "train/frame/c.1", "records/train-00001.json", "zarr.json", "train/zarr.json"]
)
def test_what_is_no_file_is_not_read_for_ever(copy: Path, thing: str, key: str) -> None:
    (copy / key).unlink()
    THINGS[thing](copy / key)
    said = check_uses(copy)
    if key == "train/zarr.json":  # no reader of ours needs it
        said += [str(problem) for problem in verify_dataset(copy, "quick").problems] if thing != "itself" else []
    assert said
    if key != "zarr.json":
        assert any("shard 1" in text or "train-00001" in text or key in text for text in said)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


HOSTILE = st.sampled_from([
    None, True, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**30, 0.5, 1e300, float("inf"), "", "x", "../x", "0" * 64, [], {},
    [[]], {"a": 1}, [None], ["x"] * 3, deep(200), deep(900),
])  # fmt: skip


def test_no_value_of_a_document_is_believed_unseen(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "a" / "b" / "dataset.zarr"))
    files, want = tree(copy), read_all(root)
    record = f"records/{PLAN.units[1].name}.json"
    documents = {record: json.loads(files[record]), "zarr.json": json.loads(files["zarr.json"])["attributes"]}
    everywhere = [(name, place) for name, content in documents.items() for place in places(content)]

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(everywhere), HOSTILE)
    def change(where: tuple[str, tuple[Any, ...]], value: Any) -> None:
        name, place = where
        content: Any = {"": copies.deepcopy(documents[name])}
        inner = content
        for key in ("", *place)[:-1]:
            inner = inner[key]
        inner[("", *place)[-1]] = value
        try:
            try:
                write_signed(copy, name, content[""])
            except (RecursionError, ValueError, InputError):
                return  # no document says that
            for use in (read_all, verify_dataset, stats):
                try:
                    with within(20):
                        found = use(copy)
                except CanonfaceError:
                    continue
                if use is read_all:
                    assert all(found[key].shape[1:] == want[key].shape[1:] for key in found)
        finally:
            for key in (record, "zarr.json"):
                (copy / key).write_bytes(files[key])

    change()


@pytest.mark.parametrize("key", ["zarr.json", "records/train-00001.json"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"attributes": {"a": NaN}}',
        "9" * 100_000,
        "\ud800",
        "\0",
    ],
    ids=range(11),
)
def test_what_is_no_document_is_named(copy: Path, key: str, text: str) -> None:
    (copy / key).write_bytes(text.encode("utf-8", "surrogatepass"))
    with within(20), pytest.raises(DatasetError, match=key if key == "zarr.json" else "train-00001"):
        open_dataset(copy)["train"].sample(5)
    assert check_uses(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"counts": {"train": 10**13, "val": 2, "test": 0}}, "contradict each other: the steps of train do not add up"),
        ({"counts": {"train": 6.5, "val": 2, "test": 0}}, "contradict each other"),
        ({"steps": [{"train": 6.5, "val": 2}]}, "contradict each other"),
        ({"steps": [{"train": "6", "val": 2}]}, "contradict each other"),
        ({"steps": [{"train": 6, "val": 2, "tran": 2}]}, "contradict each other: unknown groups of a step: tran"),
        ({"steps": [{"train": 7, "val": 2}, {"train": -1}]}, "contradict each other: a count is negative"),
        (
            {"counts": {"train": 10**13, "val": 2, "test": 0}, "steps": [{"train": 10**13, "val": 2}]},
            "contradict each other: they name 3 records for",
        ),
        ({"resolution": 2**40}, "contradict each other: resolution is"),
        ({"resolution": 16380}, "bytes decoded"),
        (
            {
                "samples_per_shard": 2**40,
                "counts": {"train": 2**41, "val": 2, "test": 0},
                "steps": [{"train": 2**41, "val": 2}],
            },
            "it is of train-00000 with|another plan",
        ),
        ({"uuid": "../../x"}, "the uuid is not that of"),
    ],
)
def test_sizes_are_held_against_what_is_there(copy: Path, change: dict[str, Any], words: str) -> None:
    attributes = json.loads((copy / "zarr.json").read_text())["attributes"] | change
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    attributes["attributes_digest"] = attributes_digest(attributes)
    if "resolution" in change:  # a record that agrees
        for unit in PLAN.units:
            record = json.loads((copy / f"records/{unit.name}.json").read_text())
            record["encoding_digest"] = replace(PLAN, resolution=min(change["resolution"], 16384)).encoding_digest
            (copy / f"records/{unit.name}.json").write_bytes(metadata_bytes(record))
        attributes["records"] = "".join(
            record_digest((copy / f"records/{u.name}.json").read_bytes()) for u in PLAN.units
        )
        attributes["attributes_digest"] = attributes_digest(attributes)
    (copy / "zarr.json").write_bytes(metadata_bytes(document))
    with within(20), pytest.raises(CorruptDatasetError, match=words):
        open_dataset(copy)["train"].raw("region", 0, 1)


def test_an_index_that_points_elsewhere_is_no_index(copy: Path) -> None:
    from datagen.shards.chunks import ChunkError, parse_index
    from datagen.shards.pack import with_crc

    for pairs in ([0, 101], [90, 20], [2**63, 8], [8, 2**63], [0, 2], [2**64 - 2, 4]):
        table = np.array(pairs, "<u8").tobytes()
        with pytest.raises(ChunkError, match="bytes that the file does not have"):
            parse_index(with_crc(table), 1, 100)
    assert parse_index(with_crc(np.array([90, 10], "<u8").tobytes()), 1, 100).of(0) == (90, 10)
