"""Small datasets, and the files of other people that lie where one is to be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

from datagen.shards import finalise, list_records, write_unit
from tests.support.shard_samples import make_plan, make_sample, sample_keys

# Names that are ours, that look so, and that are anyone's.
FAMILIAR = (
    "zarr.json",
    "train/zarr.json",
    "train/image/zarr.json",
    "train/image/c.0.0.0.0",
    "train/image/c.9.0.0.0",
    "train/image/c/0/0/0/0",
    "train/depth/c.1.0.0",
    "train/valid/c.0",
    "train/photo.jpg",
    "train/image/photo.jpg",
    "val/photo.jpg",
    "test/a/b/c.txt",
    "records/train-00000.json",
    "records/train-00007.json",
    "records/notes.txt",
    ".staging/notes.txt",
    ".staging/train-00000-12-0123abcd/depth",
    ".push.json",
    ".push-lease.json",
    ".zarr.json.tmp-12-0123abcd",
    "train/depth/.c.0.0.0.tmp-12-0123abcd",
    "train/depth/.c.0.0.0.tmp-x",
    "report/index.html",
    "notes.txt",
)


def small(root: Path, count: int, first: int, **changes: object) -> Path:
    """A dataset of ``count`` samples in shards of two, of other views for another ``first``."""
    plan = make_plan(counts={"train": count}, samples_per_shard=2, clip=1, resolution=8, **changes)
    for unit in plan.units:
        keys = sample_keys("train")[first + unit.start : first + unit.stop]
        write_unit(root, plan, unit, f"{first}-{unit.name}", [make_sample(*key, resolution=8) for key in keys])
    finalise(root, plan, list_records(root))
    return root


def foreign_files(*ours: Mapping[str, bytes]) -> st.SearchStrategy[dict[str, bytes]]:
    """Files of other people under familiar names: other bytes, and some of the bytes and lengths of ours."""

    def content(key: str) -> st.SearchStrategy[bytes]:
        if "-12-0123abcd" in key:  # the beginning of our bytes, none of them too, is what a killed write leaves
            return st.binary(max_size=20).map(lambda data: b"of the user" + data)
        like = [files[key] for files in ours if key in files]
        flipped = [bytes([data[0] ^ 1]) + data[1:] for data in like]
        return st.one_of(st.binary(max_size=20), *(st.just(data) for data in (*like, *flipped)))

    keys = st.lists(st.sampled_from(FAMILIAR), min_size=1, max_size=4, unique=True).map(apart)
    return keys.flatmap(lambda chosen: st.fixed_dictionaries({key: content(key) for key in chosen}))


def apart(keys: list[str]) -> list[str]:
    """The keys of which none is a folder of another."""
    return [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]
