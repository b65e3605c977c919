"""Checkpoints of parameter heads: what they hold besides weights, and the network rebuilt from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datagen.common.arrays import F64
from datagen.common.documents import parse_json
from datagen.shards import Dataset
from trainer.attributes.config import AttributesConfig
from trainer.attributes.face_model import FaceModel
from trainer.attributes.network import AttributeNetwork
from trainer.config import parse_run_config
from trainer.run.checkpoint import check_finite, read_task, rebuilding
from trainer.run.pictures import check_template, learnt_from

TASK = "attributes"
# By whether the camera's focal length is known.
FOCAL, NO_FOCAL = "focal", "no_focal"


@dataclass(frozen=True, eq=False)
class Head:
    """A parameter head, ready to use.

    Attributes
    ----------
    model : AttributeNetwork
        In evaluation mode.
    template : str
        Digest of the head model's template.
    temperatures : dict of str to float or None
        By attribute, what its σ has to be multiplied by on people held out; None where nobody was.
    neutral_error_mm : dict of str to float or None
        RMS distance, over people held out, of the face at rest that one picture tells, by :data:`FOCAL` and
        :data:`NO_FOCAL`.
    names : dict
        ``identity`` and ``expression``: of the parameters.
    step : int or None
    """

    model: AttributeNetwork
    config: AttributesConfig
    face: FaceModel
    template: str
    head: str
    model_digest: str
    temperatures: dict[str, float] | None
    neutral_error_mm: dict[str, float] | None
    names: dict[str, list[str]]
    step: int | None

    @property
    def mean_places(self) -> F64:
        """Mean places of the landmarks in crops of the training people, (L, 2)."""
        return self.model.mean_places(self.face)

    def to_learn_from(self) -> Head:
        """Return it with weights that keep still."""
        self.model.requires_grad_(requires_grad=False)
        return self

    def check_fits(self, dataset: Dataset) -> None:
        """Refuse a dataset of another template; CheckpointError."""
        check_template(dataset, self.template, self.head, "tells parameters")


def head_content(
    dataset: Dataset,
    face: FaceModel,
    temperatures: dict[str, float] | None,
    neutral_error_mm: dict[str, float] | None,
) -> dict[str, Any]:
    """Return what a checkpoint holds of a parameter head, besides configuration and weights."""
    template = dataset.template
    return {
        "task": TASK,
        "dataset": {
            **learnt_from(dataset),
            "model_digest": template.model_digest,
            "names": {"identity": list(template.identity_names), "expression": list(template.expression_names)},
        },
        "face": face.content(),
        "temperatures": temperatures,
        "neutral_error_mm": neutral_error_mm,
    }


def read_head(path: Path, device: torch.device) -> Head:
    """Read a parameter head from a run folder (its ``best.pt``) or a checkpoint.

    Raises
    ------
    CheckpointError
        If it is none, damaged, or does not fit this version.
    """
    content = read_task(path, TASK, "a parameter head")
    with rebuilding(str(path)):
        config = parse_run_config(AttributesConfig, parse_json(content["config"]), "the checkpoint's configuration")
        face = FaceModel(**content["face"])
        model = AttributeNetwork(config, face)
        model.load_state_dict(content["model"])
        about = content["dataset"]
        head = Head(
            model.to(device).eval(),
            config,
            face.to(device),
            str(about["template"]),
            str(about["head"]),
            str(about["model_digest"]),
            content["temperatures"],
            content["neutral_error_mm"],
            dict(about["names"]),
            content.get("step"),
        )
    check_finite(model, str(path))
    return head
