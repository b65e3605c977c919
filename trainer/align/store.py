"""Checkpoints of alignment networks: what they hold besides weights, and the network rebuilt from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datagen.common.documents import parse_json
from datagen.common.errors import CanonfaceError, CheckpointError
from datagen.shards import Dataset
from trainer.align.calibration import Calibration
from trainer.align.config import AlignConfig
from trainer.align.network import FlowNetwork, RegressionNetwork, make_network
from trainer.align.uv_space import UVSpace
from trainer.config import parse_run_config
from trainer.run.checkpoint import read_checkpoint

TASK = "align"


@dataclass(frozen=True, eq=False)
class Aligner:
    """An alignment network, ready to use.

    Attributes
    ----------
    model : FlowNetwork or RegressionNetwork
        In evaluation mode.
    calibration : Calibration or None
        None where nobody was held out.
    template : str
        Digest of the head model's template that it aligns.
    step : int or None
        Of the run.
    """

    model: FlowNetwork | RegressionNetwork
    config: AlignConfig
    space: UVSpace
    calibration: Calibration | None
    template: str
    head: str
    step: int | None

    def check_fits(self, dataset: Dataset) -> None:
        """Refuse a dataset of another template; CheckpointError."""
        template, head = template_of(dataset), str(dataset.attrs.get("space", {}).get("head"))
        if template != self.template:
            raise CheckpointError(
                f"the network aligns the template of {self.head} ({self.template[:12]}), the dataset's is of {head} "
                f"({template[:12]})",
                "a dataset of the same template",
                "Give one, or fit a network on this dataset",
            )


def template_of(dataset: Dataset) -> str:
    """Return the digest of a dataset's template."""
    return str(dataset.attrs.get("space", {}).get("template_digest", ""))


def network_content(dataset: Dataset, space: UVSpace, calibration: Calibration | None) -> dict[str, Any]:
    """Return what a checkpoint holds of an alignment network, besides configuration and weights."""
    return {
        "task": TASK,
        "dataset": {
            "uuid": dataset.uuid,
            "template": template_of(dataset),
            "head": str(dataset.attrs.get("space", {}).get("head")),
        },
        "space": vars(space.to(torch.device("cpu"))),
        "calibration": calibration.to_dict() if calibration is not None else None,
    }


def read_aligner(path: Path, device: torch.device) -> Aligner:
    """Read an alignment network from a run folder (its ``best.pt``) or a checkpoint.

    Raises
    ------
    CheckpointError
        If it is none, damaged, or does not fit this version.
    """
    content = read_checkpoint(path)
    if content.get("task") != TASK:
        raise CheckpointError(
            f"{path} is not of an alignment network", "the folder of a run of `trainer align fit`", "Check the path"
        )
    try:
        config = parse_run_config(AlignConfig, parse_json(content["config"]), "the checkpoint's configuration")
        space = UVSpace(**content["space"])
        model = make_network(config.network, space.uv, torch.zeros_like(space.uv))
        model.load_state_dict(content["model"])
        calibration = Calibration(**content["calibration"]) if content["calibration"] is not None else None
        template, head = str(content["dataset"]["template"]), str(content["dataset"]["head"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, CanonfaceError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{path} does not fit this version of the network ({reason})",
            "weights and configuration that belong together",
            "Use the version of canonface that wrote it, or fit again",
        ) from None
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise CheckpointError(f"{path} holds weights that are not finite", "finite weights", "Take another checkpoint")
    return Aligner(model.to(device).eval(), config, space.to(device), calibration, template, head, content.get("step"))
