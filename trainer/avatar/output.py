"""What avatars do with clips, as files: an adapted avatar, and the meshes of a clip's frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datagen.common.errors import CheckpointError
from datagen.common.files import atomic_write_bytes, json_ready, npz_bytes
from datagen.shards import open_dataset
from trainer.avatar.adapt import Adapted, adapt, drive
from trainer.avatar.clip import read_clip
from trainer.avatar.config import AdaptConfig
from trainer.avatar.data import Studio, studio_person
from trainer.avatar.store import StoredAvatar, read_avatar
from trainer.prediction.boxed import PictureOptions
from trainer.prediction.output import MARKER, check_target, prediction_folder
from trainer.run.checkpoint import pick_device, save_checkpoint
from trainer.run.folder import BEST

MOTION = "motion.npz"
ABOUT = "adapt.json"


def adapt_avatar(
    checkpoint: Path,
    sources: Sequence[Path],
    studio: Path | str,
    out: Path,
    options: PictureOptions,
    config: AdaptConfig,
    *,
    focal_px: float | None = None,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Adapt an avatar to a clip and write it: ``best.pt``, as a run has it, and ``adapt.json``.

    Parameters
    ----------
    sources : sequence of Path
        Pictures in their order, or one folder of them.
    studio : path or str
        The dataset that the avatar was learnt from.
    out : Path
        A new folder, or an earlier adaptation to replace.

    Returns
    -------
    dict
        As it is in ``adapt.json``.

    Raises
    ------
    CheckpointError, DatasetError, InputError, StorageError
        Before anything is written; nothing half-written is left.
    """
    check_target(out)
    device = pick_device(device_name)
    stored = read_avatar(checkpoint, device)
    dataset = open_dataset(studio)
    person = studio_person(dataset)
    stored.check_fits(dataset)
    if person != stored.subject:
        raise CheckpointError(
            f"the avatar is of {stored.subject}, the studio shows {person}",
            "the dataset that it was learnt from",
            "Give that to --studio",
        )
    clip = read_clip(sources, options, stored.model.image_size, focal_px=focal_px).to(device)
    pictures = Studio(dataset, stored.skin, stored.model.appearance.mean, stored.config.data.cache_mb)
    found = adapt(stored.model, stored.skin, clip, pictures, stored.config, config)
    about = json_ready({**described(found), "frames": len(clip), "subject": stored.subject, "focal_px": focal_px})
    with prediction_folder(out) as folder:
        save_checkpoint(folder / BEST, adapted_content(stored, found))
        text = json.dumps({**about, "config": config.model_dump(mode="json")}, indent=1)
        atomic_write_bytes(folder / ABOUT, (text + "\n").encode())
    result: dict[str, Any] = about
    return result


def described(found: Adapted) -> dict[str, Any]:
    """Return what came of an adaptation, as plain data."""
    return {
        "colour": found.colour.cpu().tolist(),
        "studio_before_mm": found.studio_mm[0],
        "studio_after_mm": found.kept_mm,
        "returns": found.returns,
        "stopped_at_step": found.stopped,
        "terms": found.terms,
    }


def adapted_content(stored: StoredAvatar, found: Adapted) -> dict[str, Any]:
    """Return the checkpoint of an adapted avatar: as it was, with other weights and a colour matrix."""
    kept = {k: v for k, v in stored.content.items() if k not in ("optimiser", "average", "stream")}
    weights = {name: value.cpu() for name, value in found.model.state_dict().items()}
    return {**kept, "model": weights, "colour": found.colour.cpu()}


def predict_avatar(
    checkpoint: Path,
    sources: Sequence[Path],
    out: Path,
    options: PictureOptions,
    *,
    focal_px: float | None = None,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Write what a clip's frames tell: ``motion.npz`` and ``prediction.json``; parameters and errors as above."""
    check_target(out)
    device = pick_device(device_name)
    stored = read_avatar(checkpoint, device)
    clip = read_clip(sources, options, stored.model.image_size, focal_px=focal_px).to(device)
    told, driven = drive(stored.model, clip)
    origin = (driven.in_camera - driven.shape @ driven.rotation.transpose(1, 2)).mean(1)
    arrays = {
        "state": told,
        "vertices_m": driven.in_camera,
        "shape_m": driven.shape,
        "rotation": driven.rotation,
        "translation_m": origin,
        "vertex_numbers": stored.skin.vertices,
        "triangles": stored.skin.triangles,
        "intrinsics": clip.intrinsics,
        "colour": stored.colour if stored.colour is not None else torch.eye(3),
    }
    about = {
        "subject": stored.subject,
        "head": stored.head,
        "template": stored.template,
        "frames": list(clip.names),
        "adapted": stored.colour is not None,
        "focal_px": focal_px,
        "step": stored.step,
    }
    with prediction_folder(out) as folder:
        plain = {name: value.cpu().numpy() for name, value in arrays.items()}
        atomic_write_bytes(folder / MOTION, npz_bytes(plain))
        atomic_write_bytes(folder / MARKER, (json.dumps(json_ready(about), indent=1) + "\n").encode())
    return {"frames": len(clip), "adapted": about["adapted"], "subject": stored.subject}
