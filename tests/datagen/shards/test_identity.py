"""A dataset is what was opened: whatever is swapped within it or comes from another is found at the first read."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import CorruptDatasetError, MissingShardError, ReplacedDatasetError
from datagen.shards import (
    ARRAYS,
    Dataset,
    Sample,
    ShardStream,
    StreamConfig,
    finalise,
    list_records,
    open_dataset,
    verify_dataset,
    write_unit,
)
from datagen.shards.chunks import index_bytes, parse_index
from datagen.shards.pack import with_crc
from datagen.shards.store import open_store
from datagen.shards.tools.publish import publish
from tests.support.shard_samples import build, make_plan, tree, unit_samples

pytestmark = pytest.mark.usefixtures("without_fsync")

PLAN = make_plan(counts={"train": 10, "val": 4}, samples_per_shard=4)
MAPS = ("image", "depth", "canonical", "normal", "confidence", "region", "edge")
CONFIG = StreamConfig(frames_per_batch=2, seed=3)
Files = dict[str, bytes]


def altered(sample: Sample) -> Sample:
    """The same view, rendered and lit a little differently."""
    depth = np.where(sample.depth > 0, sample.depth + np.float32(1e-3), 0).astype(np.float32)
    return dataclasses.replace(sample, depth=depth, image=sample.image[:, ::-1].copy(), time=sample.time + 1)


def build_again(root: Path) -> Path:
    """Another dataset of the same captures: same plan, same keys, other values."""
    for unit in PLAN.units:
        write_unit(root, PLAN, unit, f"key-{unit.name}", [altered(sample) for sample in unit_samples(unit)])
    finalise(root, PLAN, list_records(root))
    return root


@pytest.fixture(scope="module")
def mine(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("mine") / "dataset.zarr", PLAN)


@pytest.fixture(scope="module")
def other(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_again(tmp_path_factory.mktemp("other") / "dataset.zarr")


@pytest.fixture(scope="module")
def bench(mine: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Files, Files, Files]:
    """A copy to be damaged, the files of both datasets, and every stored value."""
    root = tmp_path_factory.mktemp("bench") / "dataset.zarr"
    shutil.copytree(mine, root)
    values = {
        f"{split}/{name}": part.raw(name, 0, len(part)) for split, part in open_dataset(mine).items() for name in ARRAYS
    }
    return root, tree(mine), tree(other), values


def chunks(content: bytes) -> list[bytes]:
    tail = index_bytes(4)
    index = parse_index(content[-tail:], 4, len(content) - tail)
    return [content[o : o + n] for o, n in zip(index.offsets, index.lengths, strict=True) if o != 2**64 - 1]


def packed(parts: list[bytes]) -> bytes:
    """A shard's file of these chunks, its index right."""
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    pairs = [n for start, part in zip(ends, parts, strict=False) for n in (start, len(part))]
    pairs += [2**64 - 1] * (8 - len(pairs))
    return b"".join([*parts, with_crc(struct.pack("<8Q", *pairs))])


def is_map_file(key: str) -> bool:
    return "/c." in key and key.split("/")[1] in MAPS


@st.composite
def swaps(draw: st.DrawFn, mine: Files, other: Files) -> Files:
    """Some files of ours with the bytes of others: of ours or of the other dataset, whole or a chunk."""
    kind = draw(st.sampled_from(["file", "same file", "chunk", "record", "shard", "root"]))
    source = draw(st.sampled_from([mine, other]))
    ours = sorted(key for key in mine if "/c." in key)
    if kind == "file":
        a, b = draw(st.sampled_from(ours)), draw(st.sampled_from(ours))
        return {a: source[b], **({b: mine[a]} if draw(st.booleans()) else {})}
    if kind == "same file":
        key = draw(st.sampled_from(ours))
        return {key: other[key]}
    if kind == "chunk":
        maps = [key for key in ours if is_map_file(key)]
        a, b = draw(st.sampled_from(maps)), draw(st.sampled_from(maps))
        parts, others = chunks(mine[a]), chunks(source[b])
        parts[draw(st.integers(0, len(parts) - 1))] = others[draw(st.integers(0, len(others) - 1))]
        return {a: packed(parts)}
    if kind == "record":
        records = sorted(key for key in mine if key.startswith("records/"))
        return {draw(st.sampled_from(records)): source[draw(st.sampled_from(records))]}
    if kind == "shard":
        unit, theirs = draw(st.sampled_from(PLAN.units)), draw(st.sampled_from(PLAN.units))
        found = {f"records/{unit.name}.json": source[f"records/{theirs.name}.json"]}
        for key in ours:
            split, name, chunk = key.split("/")
            if split == theirs.split and chunk.split(".")[1] == str(theirs.index):
                parts = [str(unit.index) if k == 1 else part for k, part in enumerate(chunk.split("."))]
                found[f"{unit.split}/{name}/{'.'.join(parts)}"] = source[key]
        return found
    return {"zarr.json": other["zarr.json"]}


def check_reads(dataset: Dataset, values: dict[str, Any], changed: Files) -> None:
    """Every value is right, or an error names a changed file."""
    names = [*changed, *("the root document names" for key in changed if key == "zarr.json")]
    names += [*(f"shard {key.split('.')[1]}" for key in changed if "/c." in key)]
    for split, part in dataset.items():
        for name in ARRAYS:
            for i in range(len(part)):
                try:
                    found = part.raw(name, i, i + 1)[0]
                except CorruptDatasetError as error:
                    said = str(error)
                    if any(text in said for text in names):
                        continue
                    raise
                np.testing.assert_array_equal(found, values[f"{split}/{name}"][i])


def test_whatever_is_swapped_is_never_read_and_verify_finds_it(bench: tuple[Path, Files, Files, Files]) -> None:
    root, mine, other, values = bench

    @settings(max_examples=60, deadline=None)
    @given(swaps(mine, other))
    def swap(files: Files) -> None:
        changed = {key: data for key, data in files.items() if mine[key] != data}
        for key, data in changed.items():
            (root / key).write_bytes(data)
        try:
            with suppress(CorruptDatasetError):
                check_reads(open_dataset(root), values, changed)
            for level in ("quick", "digests"):
                assert verify_dataset(root, level).ok is not bool(changed), (level, sorted(changed))
        finally:
            for key in changed:
                (root / key).write_bytes(mine[key])

    swap()


@pytest.mark.parametrize(
    "key", ["train/depth/c.1.0.0", "train/image/c.2.0.0.0", "train/time/c.0", "records/val-00000.json"]
)
def test_a_file_of_another_dataset_of_the_same_captures_is_named(
    mine: Path, other: Path, tmp_path: Path, key: str
) -> None:
    root = Path(shutil.copytree(mine, tmp_path / "dataset.zarr"))
    shutil.copyfile(other / key, root / key)
    split, shard = ("val", 0) if "val" in key else ("train", int(key.split(".")[1]))
    reasons = "is another than the record|its record says|is not the record that"
    with pytest.raises(CorruptDatasetError, match=rf"{key}.*({reasons})"):
        open_dataset(root)[split].read(ARRAYS, [4 * shard])
    (problem, *_) = verify_dataset(root, "quick").problems
    assert (problem.split, problem.shard) == (split, shard)


def swapped_folder(root: Path, other: Path) -> None:
    shutil.copytree(other, root.with_name("next"))
    os.rename(root, root.with_name("former"))
    os.rename(root.with_name("next"), root)


def removed(root: Path, other: Path) -> None:
    del other
    shutil.rmtree(root)


def pushed(root: Path | str, other: Path) -> None:
    publish(other, root, replace=True)


REPLACE: dict[str, Callable[[Path, Path], None]] = {"swap": swapped_folder, "remove": removed, "push": pushed}


def streamed(dataset: Dataset, at: int, replace: Callable[[], None], **options: Any) -> Iterator[dict[str, Any]]:
    """Batches of a stream, the dataset replaced before batch ``at``."""
    with ShardStream(dataset, "train", CONFIG, on_corrupt="skip", arrays=(*MAPS, "time"), **options) as stream:
        batches = iter(stream)
        for number in range(6):
            if number == at:
                replace()
            batch = next(batches, None)
            if batch is None:
                return
            yield {"samples": batch.samples, **batch.arrays}
        assert not stream.damaged


@pytest.mark.parametrize("how", list(REPLACE))
@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"workers": 1, "reader_kind": "processes"}], ids=str)
def test_a_stream_gives_batches_of_what_was_opened_then_says_that_it_is_gone(
    mine: Path, other: Path, tmp_path: Path, how: str, options: dict[str, Any]
) -> None:
    want = list(streamed(open_dataset(mine), -1, lambda: None))
    for at in range(5) if options.get("reader_kind") != "processes" else (1,):
        root = Path(shutil.copytree(mine, tmp_path / f"at-{at}" / "dataset.zarr"))
        dataset, got = open_dataset(root), list[dict[str, Any]]()
        said = ""
        try:
            for batch in streamed(dataset, at, partial(REPLACE[how], root, other), **options):
                got.append(batch)
        except (ReplacedDatasetError, MissingShardError) as error:
            said = str(error)
        np.testing.assert_equal(got, want[: len(got)])
        if not said:  # every file that was needed was open by then
            assert len(got) == len(want)
            assert at > 0
            continue
        if options:  # readers that are ahead may see a part of it
            assert "while it was open" in said or (how == "remove" and "is missing" in said)
        else:
            assert f"uuid {dataset.uuid}" in said
            assert "Open it again" in said
            assert (f"now {open_dataset(other).uuid}" in said) is (how != "remove")


def test_a_replaced_object_store_ends_a_stream_alike(mine: Path, other: Path, s3_url: str) -> None:
    want = list(streamed(open_dataset(mine), -1, lambda: None))
    for at, workers in ((0, 0), (2, 0), (4, 0), (0, 2)):
        publish(mine, s3_url, replace=True)
        got: list[dict[str, Any]] = []
        stream = streamed(open_dataset(s3_url), at, partial(pushed, s3_url, other), workers=workers)
        with pytest.raises(
            ReplacedDatasetError, match=r"was (replaced|removed, or is being replaced,) while it was op"
        ):
            got.extend(stream)
        np.testing.assert_equal(got, want[: len(got)])
    assert verify_dataset(s3_url, "quick").ok
    store = open_store(s3_url)
    store.write("train/depth/c.0.0.0", store.read("train/depth/c.1.0.0"))
    assert {(p.split, p.shard) for p in verify_dataset(s3_url, "quick").problems} == {("train", 0)}


def test_a_dataset_committed_again_with_the_same_content_reads_on(mine: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(mine, tmp_path / "dataset.zarr"))
    dataset = open_dataset(root)
    for unit in PLAN.units:
        write_unit(root, PLAN, unit, "another key", unit_samples(unit))
    again = finalise(root, PLAN, list_records(root))
    assert again.uuid == dataset.uuid
    assert again.attrs["records"] != dataset.attrs["records"]
    np.testing.assert_array_equal(dataset["val"].raw("depth", 0, 4), again["val"].raw("depth", 0, 4))
