"""Checkpoints of alignment networks: what they hold besides weights, and the network rebuilt from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datagen.common.documents import parse_json
from datagen.shards import Dataset
from trainer.align.calibration import Calibration
from trainer.align.config import AlignConfig
from trainer.align.network import FlowNetwork, RegressionNetwork, make_network
from trainer.align.uv_space import UVSpace
from trainer.config import parse_run_config
from trainer.run.checkpoint import check_finite, read_task, rebuilding
from trainer.run.pictures import check_template, learnt_from

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
        check_template(dataset, self.template, self.head, "aligns the template")


def network_content(dataset: Dataset, space: UVSpace, calibration: Calibration | None) -> dict[str, Any]:
    """Return what a checkpoint holds of an alignment network, besides configuration and weights."""
    return {
        "task": TASK,
        "dataset": learnt_from(dataset),
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
    content = read_task(path, TASK, "an alignment network")
    with rebuilding(str(path)):
        config = parse_run_config(AlignConfig, parse_json(content["config"]), "the checkpoint's configuration")
        space = UVSpace(**content["space"])
        model = make_network(config.network, space.uv, torch.zeros_like(space.uv))
        model.load_state_dict(content["model"])
        calibration = Calibration(**content["calibration"]) if content["calibration"] is not None else None
        template, head = str(content["dataset"]["template"]), str(content["dataset"]["head"])
    check_finite(model, str(path))
    return Aligner(model.to(device).eval(), config, space.to(device), calibration, template, head, content.get("step"))
