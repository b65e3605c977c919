"""Small datasets with faces: a template of a few vertices, and a frame table beside the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datagen.shards import DatasetPlan, list_records
from datagen.shards.faces import FrameRow, TemplateContents
from datagen.shards.finish import finalise
from datagen.shards.plan import frames_of
from datagen.shards.schema import SPLITS, TEMPLATE, Sample
from datagen.shards.writer import write_frames, write_template, write_unit
from tests.support.shard_samples import make_plan, make_sample

V, F = 12, 8


def make_template(identity: int = 2, expression: int = 3) -> TemplateContents:
    """A template of random points, some of its parts at will."""
    rng = np.random.default_rng(identity + 10 * expression)
    vertices = rng.normal(0, 0.05, (V, 3)).astype(np.float32)
    return TemplateContents(
        vertices=vertices,
        faces=rng.integers(0, V, (F, 3)).astype(np.int32),
        region=np.ones(V, np.uint8),
        uv=rng.random((V, 2)).astype(np.float32),
        uv_faces=rng.integers(0, V, (F, 3)).astype(np.int32),
        landmark_faces=np.arange(4, dtype=np.int32),
        landmark_weights=np.full((4, 3), 1 / 3, np.float32),
        identity_names=tuple(f"identity {k}" for k in range(identity)),
        expression_names=tuple(f"expression {k}" for k in range(expression)),
        mean=vertices if expression else np.zeros((0, 3), np.float32),
        identity_basis=np.zeros((0, V, 3), np.float32),
        expression_basis=rng.normal(0, 0.01, (expression, V, 3)).astype(np.float32),
        head="anny",
        licence="CC0-1.0",
        model_digest="0" * 64,
    )


def make_row(subject: str, sequence: str, frame: int, template: TemplateContents) -> FrameRow:
    """A row whose numbers follow from its names."""
    rng = np.random.default_rng([*subject.encode(), 0, *sequence.encode(), 0, frame])
    return FrameRow(
        vertices=template.vertices + rng.normal(0, 0.003, (V, 3)).astype(np.float32),
        spread_m=rng.uniform(0, 0.015, V).astype(np.float32),
        identity=rng.normal(size=len(template.identity_names)).astype(np.float32),
        expression=rng.random(len(template.expression_names)).astype(np.float32),
        model_to_head=np.eye(4, dtype=np.float32),
        parameter_rms_mm=0.25,
        head_to_world=np.eye(4, dtype=np.float32),
        subject=subject,
        sequence=sequence,
        frame=frame,
        time_s=frame / 24,
        verdict="pass",
    )


Key = tuple[str, str, str, int]  # subject, sequence, camera, frame


def build_steps(root: Path, steps: Sequence[dict[str, list[Key]]], template: TemplateContents, **changes: Any) -> int:
    """Write a dataset as runs that add samples, one after another, leave it; return how many shards were written.

    Parameters
    ----------
    steps : sequence of mappings of split to samples
    """
    return write_all(root, *plan_steps(steps, template, **changes), template)


def write_all(
    root: Path,
    plan: DatasetPlan,
    samples: dict[str, list[Sample]],
    rows: dict[str, list[FrameRow]],
    template: TemplateContents,
) -> int:
    """Write the shards of a plan that are not there, and finalise; return how many these were."""
    written = 0
    known = {record.name for record in list_records(root)}
    for unit in plan.units:
        if unit.name in known:
            continue
        written += 1
        key = f"key-{unit.name}"
        if unit.group == TEMPLATE:
            write_template(root, plan, unit, key, template)
        elif unit.group in SPLITS:
            write_unit(root, plan, unit, key, samples[unit.group][unit.start : unit.stop])
        else:
            write_frames(root, plan, unit, key, rows[unit.group][unit.start : unit.stop])
    finalise(root, plan, list_records(root))
    return written


def plan_steps(
    steps: Sequence[dict[str, list[Key]]], template: TemplateContents, **changes: Any
) -> tuple[DatasetPlan, dict[str, list[Sample]], dict[str, list[FrameRow]]]:
    """Return the plan of such a dataset, its samples and its rows, in their order."""
    tables: dict[int, list[str]] = {0: [], 1: [], 2: []}
    counts = []
    for step in steps:
        keys = [key for listed in step.values() for key in listed]
        for column, names in tables.items():
            names.extend(sorted({key[column] for key in keys} - set(names)))
        frames = {split: {(key[0], key[1], key[3]) for key in listed} for split, listed in step.items()}
        counts.append(
            {split: len(listed) for split, listed in step.items()}
            | {frames_of(split): len(listed) for split, listed in frames.items()}
        )
    splits = {split: sorted({key[0] for step in steps for key in step.get(split, [])}) for split in SPLITS}
    plan = make_plan(
        counts={split: sum(step.get(split, 0) for step in counts) for split in SPLITS},
        frame_counts={split: sum(step.get(frames_of(split), 0) for step in counts) for split in SPLITS},
        steps=counts,
        faces=template.to_attrs(),
        subjects=tables[0],
        sequences=tables[1],
        cameras=tables[2],
        splits=splits,
        epochs={},
        **changes,
    )
    numbers = plan.numbers
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    rows: dict[str, list[FrameRow]] = {frames_of(split): [] for split in SPLITS}
    for step in steps:
        for split, listed in step.items():
            group = frames_of(split)
            frames = sorted(
                {(key[0], key[1], key[3]) for key in listed},
                key=lambda f: (numbers["subject"][f[0]], numbers["sequence"][f[1]], f[2]),
            )
            first = len(rows[group])
            places = plan.shards(group).stored(np.arange(first, first + len(frames))).tolist()
            place_of = dict(zip(frames, places, strict=True))
            rows[group] += [make_row(*frame, template) for frame in frames]
            ordered = sorted(
                listed,
                key=lambda k: (*(numbers[n][k[i]] for i, n in enumerate(("subject", "sequence", "camera"))), k[3]),
            )
            samples[split] += [
                replace(make_sample(*key), frame_row=place_of[key[0], key[1], key[3]]) for key in ordered
            ]
    return plan, samples, rows
