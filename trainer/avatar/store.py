"""Checkpoints of avatars: what they hold besides weights, and the avatar rebuilt from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datagen.common.documents import parse_json
from datagen.common.errors import CanonfaceError, CheckpointError
from datagen.shards import Dataset
from trainer.align.store import template_of
from trainer.avatar.appearance import Basis
from trainer.avatar.config import AvatarConfig
from trainer.avatar.data import studio_person
from trainer.avatar.network import Avatar
from trainer.avatar.skin import Skin
from trainer.config import parse_run_config
from trainer.run.checkpoint import read_checkpoint

TASK = "avatar"


@dataclass(frozen=True, eq=False)
class StoredAvatar:
    """An avatar, ready to use.

    Attributes
    ----------
    model : Avatar
        In evaluation mode.
    subject : str
        Whose it is.
    template : str
        Digest of the head model's template.
    colour : (3, 3) float32 or None
        From the studio's colours to those of the camera that it was adapted to; None of one that was not.
    """

    model: Avatar
    config: AvatarConfig
    skin: Skin
    subject: str
    template: str
    head: str
    colour: torch.Tensor | None
    step: int | None
    content: dict[str, Any]

    def check_fits(self, dataset: Dataset) -> None:
        """Refuse a dataset of another template; CheckpointError."""
        template, head = template_of(dataset), str(dataset.attrs.get("space", {}).get("head"))
        if template != self.template:
            raise CheckpointError(
                f"the avatar has the template of {self.head} ({self.template[:12]}), the dataset's is of {head} "
                f"({template[:12]})",
                "a dataset of the same template",
                "Give one, or fit an avatar on this dataset",
            )


def avatar_content(dataset: Dataset, skin: Skin) -> dict[str, Any]:
    """Return what a checkpoint holds of an avatar, besides configuration and weights."""
    return {
        "task": TASK,
        "dataset": {
            "uuid": dataset.uuid,
            "template": template_of(dataset),
            "head": str(dataset.attrs.get("space", {}).get("head")),
            "subject": studio_person(dataset),
        },
        "skin": skin.content(),
        "colour": None,
    }


def read_avatar(path: Path, device: torch.device) -> StoredAvatar:
    """Read an avatar from a run folder (its ``best.pt``) or a checkpoint.

    Raises
    ------
    CheckpointError
        If it is none, damaged, or does not fit this version.
    """
    content = read_checkpoint(path)
    if content.get("task") != TASK:
        raise CheckpointError(
            f"{path} is not of an avatar",
            "the folder of a run of `trainer avatar fit`, or of `trainer adapt`",
            "Check the path",
        )
    try:
        config = parse_run_config(AvatarConfig, parse_json(content["config"]), "the checkpoint's configuration")
        skin, weights = Skin(**content["skin"]).to(device), content["model"]
        basis = Basis(*(weights[f"appearance.{name}"] for name in ("mean", "shapes", "texture")))
        model = Avatar(config.network, basis, skin)
        model.load_state_dict(weights)
        about, colour = content["dataset"], content["colour"]
        found = StoredAvatar(
            model.to(device).eval(),
            config,
            skin,
            str(about["subject"]),
            str(about["template"]),
            str(about["head"]),
            colour.to(device) if colour is not None else None,
            content.get("step"),
            content,
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, CanonfaceError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{path} does not fit this version of the network ({reason})",
            "weights and configuration that belong together",
            "Use the version of canonface that wrote it, or fit again",
        ) from None
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise CheckpointError(f"{path} holds weights that are not finite", "finite weights", "Take another checkpoint")
    return found
