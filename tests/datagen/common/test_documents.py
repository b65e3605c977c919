"""Every reader of JSON or YAML: whatever bytes a file holds, it is read, passed over, or refused in words."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.documents import DocumentError, own_json, parse_json, read_json, read_text
from datagen.common.errors import CanonfaceError
from datagen.common.settings import read_yaml
from datagen.flows.demo import Meter
from datagen.flows.export_folder import LISTING, claim_export
from datagen.flows.records import read_result_record
from datagen.geometry.landmarks import declared_unit, read_landmarks
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from datagen.shards import open_dataset
from datagen.shards.ledger import list_records
from datagen.shards.plan import DatasetPlan
from datagen.sources.capture_file import read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.warp.storage import read_verdict
from trainer.config import load_config
from trainer.prediction.cameras import GivenCameras
from trainer.run.folder import read_state
from trainer.run.log import read_log
from trainer.weights.read import read_tensors

EYE3, EYE4 = np.eye(3).tolist(), np.eye(4).tolist()
SHA = {"sha256": "0" * 64, "bytes": 1}
CAPTURE = {
    "format": "canonface-capture",
    "version": 1,
    "unit": "m",
    "fps": 25,
    "frames": [0, 1],
    "pixel_center": 0.5,
    "cameras": {"a": {"K": EYE3, "world_to_camera": EYE4, "width": 4, "height": 4}},
    "registration": {"topology": "mine"},
}
LANDMARKS = {"scheme": "ibug68", "unit": "mm", "points": {"30": [0, 0, 1], "8": [0, 9, 1], "36": [5, 0, 1]}}
MANIFEST = {"name": "x", "source": {"kind": "simulated", "subjects": 3}, "splits": {"val": ["a"]}}
RECORD = {"content_key": "k", "input_digest": "d", "status": "pass", "cameras": ["a"], "files": {"warp.npz": SHA}}
SHARD = {
    "split": "train",
    "index": 0,
    "samples": 1,
    "content_key": "",
    "encoding_digest": "",
    "algorithm": 3,
    "files": {},
}
STATE = {"step": 1, "steps": 2, "config_digest": "", "dataset_uuid": "", "best_step": 1, "best_figures": {"a": 1.0}}
VERDICT = {"verdict": "pass", "reasons": ["a"], "figures": {"b": 1.0}}
PLAN = {
    "resolution": 14,
    "counts": {"train": 1},
    "splits": {"train": ["a"]},
    "subjects": ["a"],
    "sequences": ["b"],
    "cameras": ["c"],
    "space": {"half_extent": 0.1},
    "regions": {"skin": 1},
    "sources": [{"name": "n", "licence": "l"}],
    "software": {"numpy": "2"},
}
CAMERAS = {"frames": [{"name": "a", "width": 4, "height": 4, "intrinsics": EYE3, "world_to_camera": EYE4}]}
ROOT = {"zarr_format": 3, "attributes": {"format": "canonface", "format_version": 1, "attributes_digest": ""}}


def _captures(path: Path) -> object:
    return FolderCaptures(path.parents[2]).sequences()


def _plan(path: Path) -> None:
    with suppress(DocumentError):  # the reader of the root document, which holds the plan, says so
        DatasetPlan.from_json(read_json(path))


# Where each reader finds its file below a folder, what a good one holds, and how it is read, given the file.
READERS: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "capture file": ("capture.json", CAPTURE, lambda path: read_capture_file(path.parent)),
    "captures": ("subject/sequence/capture.json", CAPTURE, _captures),
    "landmarks": ("landmarks.json", LANDMARKS, read_landmarks),
    "unit of landmarks": ("landmarks.json", LANDMARKS, declared_unit),
    "recipe of a build": ("manifest.json", MANIFEST, lambda path: BuildLayout(path.parent).read_manifest()),
    "manifest": ("manifest.yaml", MANIFEST, load_manifest),
    "configuration": ("config.yaml", {"fit": {"steps": 3}}, lambda path: load_config(str(path), ())),
    "record": ("record.json", RECORD, lambda path: read_result_record(path.parent)),
    "verdict": ("verdict.json", VERDICT, lambda path: read_verdict(path.parent)),
    "plan of a dataset": ("plan.json", PLAN, _plan),
    "root of a dataset": ("zarr.json", ROOT, lambda path: open_dataset(path.parent)),
    "record of a shard": ("records/train-00000.json", SHARD, lambda path: list_records(path.parents[1])),
    "tars of an export": (LISTING, {"dataset": "u"}, lambda path: claim_export(path.parent, {"dataset": "u"})),
    "meter": ("times.json", {"seconds": {"a": 1}, "counts": {"b": 2}, "peak_gib": 1.0}, Meter),
    "state of a run": ("state.json", STATE, lambda path: read_state(path.parent)),
    "log of a run": ("log.jsonl", {"kind": "train", "step": 1, "loss": 1.0}, lambda path: read_log(path.parent)),
    "cameras": ("cameras.json", CAMERAS, GivenCameras),
    "index of weights": ("w.safetensors.index.json", {"weight_map": {"a": "b"}}, lambda path: read_tensors(str(path))),
}  # fmt: skip

DEEP = 100_000
MONSTERS = (
    b"",
    b"\0",
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": -' + b"9" * 30 + b"}",
    b'{"a": 1e999, "b": NaN, "c": -Infinity}',
    b'{"a": 1, "a": 2}',
    '{"a": "ä"}'.encode("latin-1"),
    '{"a": 1}'.encode("utf-16"),
    b'{"a": "\\ud800", "\\udcff": "\\u0000"}',
    b"a: &a [" + b"1," * 9 + b"1]\n" + b"".join(b"b%d: &b%d [%s]\n" % (k, k, b",".join([b"*a"] * 9)) for k in range(9)),
    b"x: &x {a: 1}\n" + b"".join(b"y%d: &y%d {<<: [%s]}\n" % (k, k, b",".join([b"*x"] * 50)) for k in range(50)),
    b"a: &a\n  b: *a\n",
    b"!!python/object/apply:os.system ['true']",
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [0, -1, 2**31, 2**63, 10**400, 1e999, -0.0, "", "..", "/", "\0", "a/../../b", "x" * 9000, "\ud800"]
    ),
    st.floats(),
    st.text(max_size=9),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every value of a document is."""
    yield path
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield from places(content[key], (*path, key))


def leaves(content: Any) -> list[Any]:
    """Return every value of a document that holds no others."""
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else None
    return [content] if inner is None else [leaf for value in inner for leaf in leaves(value)]


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a document with another value at a place."""
    if not path:
        return value
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


def read(name: str, data: bytes) -> None:
    """Have a reader read these bytes; anything but an error of ours fails the test."""
    place, _, reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with suppress(CanonfaceError):
            reader(path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("number", range(len(MONSTERS)))
def test_a_monster_is_refused_in_words(name: str, number: int) -> None:
    read(name, MONSTERS[number])


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_document_with_a_wrong_value_is_refused_in_words(name: str, data: st.DataObject) -> None:
    good = READERS[name][1]
    path = data.draw(st.sampled_from(list(places(good))))
    read(name, json.dumps(changed(good, path, data.draw(VALUES))).encode())


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, max_examples=25)
@given(data=st.one_of(st.binary(max_size=60), VALUES.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_refused_in_words(name: str, data: bytes) -> None:
    read(name, data)


@given(VALUES)
def test_what_python_writes_is_what_is_read(value: Any) -> None:
    text = json.dumps(value)
    if any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in leaves(value)):
        with pytest.raises(DocumentError, match="too large"):
            parse_json(text)
    else:
        assert json.dumps(parse_json(text)) == json.dumps(parse_json(text.encode("utf-8-sig"))) == text


def test_a_key_given_twice_and_half_a_file_are_no_json() -> None:
    for text, words in (
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "'c' is given twice"),
        ('{"a', "not JSON"),
        ("1" * 21, "large"),
    ):
        with pytest.raises(DocumentError, match=words):
            parse_json(text)


def test_what_has_no_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(link)
    with pytest.raises(DocumentError, match="longer than 1000 bytes"):
        read_text(Path("/dev/zero"), 1000)
    assert read_text(pipe) == ""
    for path in (link, tmp_path, tmp_path / "gone", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=r"\[Errno"):
            read_json(path)
        with pytest.raises(CanonfaceError):
            read_yaml(path, "recipe", "Mend it")


@pytest.mark.parametrize("content", [{"a": [1, 2.5, None, "ü"]}, {"far": float("inf"), "odd": 1}])
def test_what_this_program_wrote_is_read_back_whatever_it_holds(content: object) -> None:
    assert own_json(json.dumps(content)) == content


def test_what_is_no_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        own_json("{half")
