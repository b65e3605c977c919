"""A sequence of a dataset as a recording for Rerun: cameras, maps and the points they show, over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.errors import DependencyError, InputError
from datagen.common.files import atomic_write_bytes
from datagen.geometry.space import MM_PER_M, CanonicalSpace
from datagen.shards import Dataset

# Of a frame's points: enough to see a face, and little enough to be sent.
POINTS_A_SAMPLE = 20_000
MAPS = ("image", "depth", "canonical", "confidence", "intrinsics", "world_to_camera")


def export_recording(dataset: Dataset, out: Path, sequence: str | None = None) -> int:
    """Write a sequence's samples as a ``.rrd`` file; return how many.

    Entities are ``camera/<name>`` with its pose and pinhole, ``…/image``, ``…/depth`` and ``…/confidence``, and
    ``points/<name>`` in the world in the colours of the image; ``canonical/<name>`` has the same points at their
    canonical coordinates, millimetres. The timelines are ``frame`` and ``time``.

    Parameters
    ----------
    sequence : str, optional
        ``subject/sequence``; by default the first.

    Raises
    ------
    DependencyError
        If rerun-sdk is not installed.
    InputError
        If there is no such sequence, or the name does not end in ``.rrd``.
    StorageError
        If the disk refuses.
    """
    rr = _rerun()
    if out.suffix != ".rrd":
        raise InputError(f"--rerun {out}", "a name that ends in .rrd", "Rerun opens no other")
    split, samples, name = _samples_of(dataset, sequence)
    space = CanonicalSpace.from_attrs(dict(dataset.plan.space))
    part = dataset[split]
    recording = rr.RecordingStream("canonface")
    memory = recording.memory_recording()
    recording.send_recording_name(name)
    rr.log("/", rr.ViewCoordinates.RIGHT_HAND_Y_UP, static=True, recording=recording)
    for i in samples:
        _log_sample(rr, recording, part, i, space)
    atomic_write_bytes(out, bytes(memory.drain_as_bytes()))
    return len(samples)


def _rerun() -> Any:
    try:
        import rerun
    except ImportError:
        raise DependencyError(
            "--rerun needs the package rerun-sdk, which is not installed",
            "rerun-sdk",
            "Install the extra: pip install 'canonface[rerun]'",
        ) from None
    return rerun


def _samples_of(dataset: Dataset, sequence: str | None) -> tuple[str, list[int], str]:
    plan, known = dataset.plan, []
    for split in dataset:
        index = dataset[split].index
        for subject, number in np.unique(np.stack([index.subject, index.sequence], axis=1), axis=0):
            name = f"{plan.subjects[subject]}/{plan.sequences[number]}"
            if sequence in (None, name):
                chosen = np.flatnonzero((index.subject == subject) & (index.sequence == number))
                return split, [int(i) for i in chosen], name
            known.append(name)
    raise InputError(
        f"the dataset has no sequence {sequence!r}", f"one of {', '.join(known[:8]) or 'a dataset with samples'}"
    )


def _log_sample(rr: Any, recording: Any, part: Any, i: int, space: CanonicalSpace) -> None:
    maps = {name: values[0] for name, values in part.read(MAPS, [i]).items()}
    _, _, frame, camera = part.sample_name(i).split("/")
    recording.set_time("frame", sequence=int(frame))
    recording.set_time("time", duration=float(part.index.time[i]))
    camera_to_world = np.linalg.inv(maps["world_to_camera"].astype(np.float64))
    depth, K = maps["depth"], maps["intrinsics"].astype(np.float64)
    side, camera = depth.shape[-1], rr.escape_entity_path_part(camera)
    path = f"camera/{camera}"
    picture = np.ascontiguousarray(np.moveaxis(maps["image"], 0, -1))
    place = rr.Transform3D(translation=camera_to_world[:3, 3], mat3x3=camera_to_world[:3, :3])
    pinhole = rr.Pinhole(image_from_camera=K, resolution=[side, side], camera_xyz=rr.ViewCoordinates.RDF)
    for entity, what in (
        (path, place),
        (path, pinhole),
        (f"{path}/image", rr.Image(picture)),
        (f"{path}/depth", rr.DepthImage(depth, meter=1.0)),
        (f"{path}/confidence", rr.Image(np.rint(maps["confidence"] * 255).astype(np.uint8))),
    ):
        rr.log(entity, what, recording=recording)
    rows, columns = np.nonzero(depth > 0)
    step = max(len(rows) // POINTS_A_SAMPLE, 1)
    rows, columns = rows[::step], columns[::step]
    z = depth[rows, columns].astype(np.float64)
    local = np.stack([(columns + 0.5 - K[0, 2]) * z / K[0, 0], (rows + 0.5 - K[1, 2]) * z / K[1, 1], z], axis=1)
    world = local @ camera_to_world[:3, :3].T + camera_to_world[:3, 3]
    colours = picture[rows, columns]
    rr.log(f"points/{camera}", rr.Points3D(world, colors=colours), recording=recording)
    known = maps["confidence"][rows, columns] > 0
    canonical_mm = MM_PER_M * space.metres(maps["canonical"][:, rows, columns].T.astype(np.float64)[known])
    cloud = rr.Points3D(canonical_mm, colors=colours[known])
    rr.log(f"canonical/{camera}", cloud, recording=recording)
