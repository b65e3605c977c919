"""Where one sample comes from."""

from __future__ import annotations

from typing import Any

from datagen.shards.dataset import Dataset
from datagen.shards.ledger import read_record
from datagen.shards.metadata import chunk_path
from datagen.shards.plan import ShardUnit
from datagen.shards.schema import ARRAYS, VERDICTS


def sample_provenance(dataset: Dataset, split: str, i: int) -> dict[str, Any]:
    """Say who, what and when a sample shows, where it is stored and what it was made of.

    Parameters
    ----------
    dataset : Dataset
    split : str
    i : int
        Number of the sample in the split.

    Returns
    -------
    dict
        JSON-ready: dataset, split, sample, shard, position, subject, sequence, camera, frame, time_s, verdict,
        content_key, files, sources, manifest_digest, canonical space and software versions.

    Raises
    ------
    IndexError
        If there is no such sample.
    CorruptDatasetError
        If its record is damaged.
    """
    part = dataset[split]
    if not 0 <= i < len(part):
        raise IndexError(f"sample {i} of {len(part)} in {split}")
    plan, tables = dataset.plan, part.index
    shard, position = divmod(i, plan.samples_per_shard)
    start = shard * plan.samples_per_shard
    unit = ShardUnit(split, shard, start, min(start + plan.samples_per_shard, len(part)))
    record = read_record(dataset.store, unit)
    return {
        "dataset": dataset.uuid,
        "split": split,
        "sample": i,
        "shard": shard,
        "position": position,
        "subject": plan.subjects[tables.subject[i]],
        "sequence": plan.sequences[tables.sequence[i]],
        "camera": plan.cameras[tables.camera[i]],
        "frame": int(tables.frame[i]),
        "time_s": float(tables.time[i]),
        "verdict": VERDICTS[int(part.raw("verdict", i, i + 1)[0])],
        "content_key": record.content_key,
        "files": {name: chunk_path(split, name, shard) for name in ARRAYS},
        "sources": [dict(source) for source in plan.sources],
        "manifest_digest": plan.manifest_digest,
        "space": dict(plan.space),
        "software": dict(plan.software),
    }
