"""Checkpoints of avatars: what they hold besides weights, and the avatar rebuilt from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datagen.common.documents import parse_json
from datagen.shards import Dataset
from trainer.avatar.appearance import Basis
from trainer.avatar.config import AvatarConfig
from trainer.avatar.data import studio_person
from trainer.avatar.network import Avatar
from trainer.avatar.skin import Skin
from trainer.config import parse_run_config
from trainer.run.checkpoint import check_finite, read_task, rebuilding
from trainer.run.pictures import check_template, learnt_from

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
        check_template(dataset, self.template, self.head, "has the template")


def avatar_content(dataset: Dataset, skin: Skin) -> dict[str, Any]:
    """Return what a checkpoint holds of an avatar, besides configuration and weights."""
    return {
        "task": TASK,
        "dataset": {**learnt_from(dataset), "subject": studio_person(dataset)},
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
    content = read_task(path, TASK, "an avatar")
    with rebuilding(str(path)):
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
    check_finite(model, str(path))
    return found
