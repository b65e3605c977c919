"""A sequence's person on disk: ``person.npz``, the same bytes for the same person."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from datagen.errors import InputError
from datagen.heads.base import HeadTemplate
from datagen.shards.atomic import atomic_write_bytes
from datagen.sources.folder_writer import npz_bytes
from datagen.warp.personal import SequencePrior

PERSON_FILE = "person.npz"
# Beside the frames of its sequence.
PERSON_FOLDER = "person"


def write_prior(folder: Path, prior: SequencePrior) -> None:
    """Write ``person.npz`` into ``folder`` atomically: the neutral, the frames it was learnt from, the head's name.

    Raises
    ------
    datagen.errors.StorageError
        If the disk refuses.
    """
    content = npz_bytes(
        {
            "neutral": prior.neutral,
            "frames": np.array(prior.frames, np.int64),
            "head": np.frombuffer(prior.head.encode(), np.uint8),
        }
    )
    atomic_write_bytes(folder / PERSON_FILE, content)


def read_prior(folder: Path, template: HeadTemplate | None = None) -> SequencePrior:
    """Read what :func:`write_prior` wrote.

    Parameters
    ----------
    folder : Path
    template : HeadTemplate, optional
        That the person must be in the topology of.

    Raises
    ------
    InputError
        If the file is missing or broken, or the person is in another topology.
    """
    path = folder / PERSON_FILE
    try:
        with np.load(path, allow_pickle=False) as archive:
            neutral, frames, head = (archive[name] for name in ("neutral", "frames", "head"))
        prior = SequencePrior(head.tobytes().decode(), neutral, tuple(int(frame) for frame in frames))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error})", "a person", "Remove its folder and build again") from None
    if template is not None and (prior.head, neutral.shape) != (template.name, template.vertices.shape):
        raise InputError(
            f"the person {path} is in the topology of {prior.head!r} ({len(neutral)} vertices)",
            f"{template.name!r} with {len(template.vertices)} vertices",
            "Remove its folder and build again",
        )
    return prior
