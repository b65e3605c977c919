"""Axes of one name have one length within a group: readers with named axes refuse a group otherwise."""

from __future__ import annotations

import json

from datagen.shards.metadata import plan_documents
from tests.support.face_scene import template
from tests.support.shard_samples import make_plan


def test_axes_of_one_name_have_one_length_in_each_group() -> None:
    plan = make_plan(faces=template().to_attrs(), frame_counts={"train": 24, "val": 8})
    lengths: dict[tuple[str, str], set[int]] = {}
    for key, data in plan_documents(plan).items():
        document = json.loads(data)
        if document["node_type"] == "array":
            names = document["dimension_names"]
            assert len(set(names)) == len(names) == len(document["shape"]), key
            for name, length in zip(names, document["shape"], strict=True):
                lengths.setdefault((key.rsplit("/", 2)[0], name), set()).add(length)
    assert len(lengths) > 20
    assert {place: found for place, found in lengths.items() if len(found) > 1} == {}
