"""A dataset as tar files of PNG and npz members, as the ``webdataset`` package and others read them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.files import DISK_ERRORS, npz_bytes, storage_errors, write_owned_bytes
from datagen.common.ownership import refuse_strangers, strangers
from datagen.flows.export_folder import LISTING, claim_export, export_text, finish_export
from datagen.shards import SPLITS, Dataset, open_dataset
from datagen.shards.schema import CANONICAL_LEVELS, CONFIDENCE_LEVELS, NORMAL_LEVELS, VERDICTS

EXPORT_VERSION = 2
PNG_LEVEL = 6
_PNG = ("image", "depth", "confidence", "region", "edge")
_NPZ = ("canonical", "normal", "intrinsics", "world_to_camera", "head_to_world")


@dataclass(frozen=True)
class TarPlan:
    """One tar file: samples ``start`` to ``stop`` (exclusive) of a split."""

    split: str
    start: int
    stop: int
    name: str


def export_webdataset(
    source: str | Path, out: Path, samples_per_tar: int = 256, on_samples: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Write a dataset as tar files; run again after an interruption, it continues with the next.

    Members of a sample share a key and differ in what follows the first dot: ``image.png`` (8 bit RGB), ``depth.png``
    (16 bit), ``confidence.png``, ``region.png``, ``edge.png`` (8 bit), ``maps.npz`` (canonical uint16, normal int8 and
    the matrices) and ``meta.json`` (names, frame, time and how the integers are scaled). The same dataset gives the
    same bytes.

    Parameters
    ----------
    source : str or Path
    out : Path
        Folder of the tar files; made if missing.
    samples_per_tar : int
    on_samples : callable, optional
        Called with how many samples more are in a tar, for progress.

    Returns
    -------
    dict
        What ``export.json``, written last, says: dataset, tars with samples, bytes and SHA-256.

    Raises
    ------
    DatasetError
        If ``out`` holds another export or other files.
    StorageError
        If a file of these names is not ours, or the disk refuses.
    """
    dataset = open_dataset(source)
    head = {"dataset": dataset.uuid, "export_version": EXPORT_VERSION, "samples_per_tar": samples_per_tar}
    plans = list(_plans(dataset, samples_per_tar))
    tars = {}
    with storage_errors(f"exporting to {out}", only=DISK_ERRORS):
        refuse_strangers(strangers(out, (LISTING, *(plan.name for plan in plans))))
        claim_export(out, head)
        for plan in plans:
            path = out / plan.name
            # A tar appears under its name only when it is whole.
            if not path.is_file():
                write_owned_bytes(path, _tar(dataset, plan, on_samples))
            elif on_samples is not None:
                on_samples(plan.stop - plan.start)
            data = path.read_bytes()
            tars[plan.name] = {
                "bytes": len(data),
                "samples": plan.stop - plan.start,
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        return finish_export(out, head, {"tars": tars})


def _plans(dataset: Dataset, samples_per_tar: int) -> Iterator[TarPlan]:
    for split in SPLITS:
        count = len(dataset[split])
        for number, start in enumerate(range(0, count, samples_per_tar)):
            yield TarPlan(split, start, min(start + samples_per_tar, count), f"{split}-{number:06d}.tar")


def _tar(dataset: Dataset, plan: TarPlan, on_samples: Callable[[int], None] | None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(plan.start, plan.stop):
            key, members = _members(dataset, plan.split, i)
            for suffix, data in members.items():
                # Neither time nor owner: the same dataset gives the same bytes.
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            if on_samples is not None:
                on_samples(1)
    return buffer.getvalue()


def _members(dataset: Dataset, split: str, i: int) -> tuple[str, dict[str, bytes]]:
    part, plan = dataset[split], dataset.plan
    subject, sequence = plan.subjects[part.index.subject[i]], plan.sequences[part.index.sequence[i]]
    stored = {name: values[0] for name, values in part.read((*_PNG, *_NPZ), [i], decode=False).items()}
    meta = {
        "camera": plan.cameras[part.index.camera[i]],
        "canonical_half_extent_m": dataset.half_extent_m,
        "canonical_levels": CANONICAL_LEVELS,
        "confidence_levels": CONFIDENCE_LEVELS,
        "depth_scale_m": dataset.depth_scale,
        "epoch_s": plan.epochs.get(f"{subject}/{sequence}", 0.0),
        "frame": int(part.index.frame[i]),
        "normal_levels": NORMAL_LEVELS,
        "sample": i,
        "sequence": sequence,
        "split": split,
        "subject": subject,
        "time_s": float(part.index.time[i]),
        "verdict": VERDICTS[int(part.raw("verdict", i, i + 1)[0])],
    }
    members = {f"{name}.png": _png(stored[name]) for name in _PNG}
    members["maps.npz"] = npz_bytes({name: stored[name] for name in _NPZ})
    members["meta.json"] = export_text(meta)
    # The number alone: names of subjects may hold dots, which end a key.
    return f"{split}-{i:08d}", members


def _png(values: npt.NDArray[Any]) -> bytes:
    from PIL import Image

    picture = np.moveaxis(values, 0, -1) if values.ndim == 3 else values
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()
