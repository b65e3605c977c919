"""Splits, plans, progress, locks and disk errors: everything of a build that computes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datagen.common.errors import InputError, ManifestError, StorageError
from datagen.flows.build_folder import build_lock
from datagen.flows.planning import chunks, plan_build, samples_per_shard
from datagen.flows.records import content_key
from datagen.layout import BuildLayout
from datagen.manifest import parse_manifest
from datagen.sources.frame import SequenceInfo, SequenceKey


def test_a_plan_counts_views_and_shards_without_computing_anything() -> None:
    source = {"kind": "simulated", "subjects": 4, "frames": 5, "cameras": 3}
    manifest = parse_manifest({"name": "x", "source": source, "shards": {"clip": 4, "samples_per_shard": 6}})
    plan = plan_build(manifest)
    assert plan.views() == {"train": 30, "val": 15, "test": 15}
    assert samples_per_shard(manifest) == 8
    assert [unit.samples for unit in plan.units()] == [8, 8, 8, 6, 8, 7, 8, 7]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    manifest = parse_manifest({"name": "x", "source": {"kind": "folder", "root": str(tmp_path / "nowhere")}})
    with pytest.raises(ManifestError, match="nowhere is not a folder"):
        plan_build(manifest)


def test_captures_in_an_object_store_are_refused_with_the_way_to_them() -> None:
    # The path has lost one slash by then.
    manifest = parse_manifest({"name": "x", "source": {"kind": "folder", "root": "s3://bucket/captures"}})
    with pytest.raises(
        InputError, match=r"(?s)captures s3://bucket/captures lie in an object store.*aws s3 sync s3://bu"
    ):
        plan_build(manifest)


def test_chunks_cover_a_sequence_in_order() -> None:
    sequence = SequenceInfo(SequenceKey("a", "b"), tuple(range(0, 70, 2)), 3)
    parts = chunks([sequence], 16)
    assert [len(part.frames) for part in parts] == [16, 16, 3]
    assert tuple(frame for part in parts for frame in part.frames) == sequence.frames


def test_a_content_key_depends_on_values_not_on_their_order() -> None:
    assert content_key({"a": 1, "b": [2, 3]}) == content_key({"b": [2, 3], "a": 1})
    assert content_key({"a": 1, "b": [2, 3]}) != content_key({"a": 1, "b": [3, 2]})


def test_a_second_build_in_one_folder_is_refused_and_names_the_first(tmp_path: Path) -> None:
    message = f"another build is working .*process {os.getpid()}"
    with (
        build_lock(BuildLayout(tmp_path)),
        pytest.raises(StorageError, match=message),
        build_lock(BuildLayout(tmp_path)),
    ):
        pass
    with build_lock(BuildLayout(tmp_path)):
        pass
