"""Published weights as a checkpoint that can be predicted with, measured and exported without fitting anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datagen.common.errors import CheckpointError
from datagen.common.files import atomic_write
from datagen.common.progress import unwatched
from trainer.config import load_config
from trainer.run.checkpoint import check_output, model_content, save_checkpoint

if TYPE_CHECKING:
    from trainer.weights.load import WeightsReport

# Theirs are metres about the template's origin; ours run from −1 to 1 over the head.
HALF_EXTENT_M = 0.15
CONVERT_STEPS = 3
_OUT = "decoders.canonical.heads.canonical.out"


def convert_weights(
    source: str,
    out: Path,
    config_name: str,
    *,
    size: int = 504,
    overwrite: bool = False,
    on_step: Callable[[str], None] = unwatched,
) -> WeightsReport:
    """Write a checkpoint with published weights that include a canonical decoder (Face Anything).

    Depth is in the unit those weights give, which is up to scale; what they do not have (a surface) is marked as
    untrained, so that `trainer predict` goes by confidence.

    Parameters
    ----------
    source : str
        A file, a folder, or an id of the hub.
    out : Path
        The checkpoint.
    config_name : str
        A configuration of the weights' size: "giant" for Face Anything.
    size : int
        Pixels of the longer side that images will have.
    overwrite : bool
        Whether a file ``out`` that exists is replaced.
    on_step : callable
        Called with what begins, :data:`CONVERT_STEPS` times.

    Raises
    ------
    CheckpointError
        If the weights do not fit, or hold no canonical decoder.
    InputError
        If ``out`` is a folder, or the weights themselves.
    StorageError
        If there is a file already, or it cannot be written.
    """
    from trainer.model.joint import DepthUnit, JointModel
    from trainer.weights.load import load_weights
    from trainer.weights.read import USUAL_NAMES, read_tensors

    def refuse(_: Path | None = None) -> None:
        check_output(out, Path(source), USUAL_NAMES, overwrite=overwrite)

    refuse()
    config = load_config(config_name)
    config = config.model_copy(update={"weights": config.weights.model_copy(update={"source": source})})
    # Read first: a network of the largest size takes gigabytes, for weights that may be none.
    on_step("reading the weights")
    tensors = read_tensors(source)
    on_step("making the network")
    # Neither unit nor spread: depth is exp of their number. One image width is a usual focal length.
    model = JointModel(config, size, DepthUnit("dataset", 1.0, 1.0, 1.0))
    report = load_weights(model, config.weights, tensors=tensors)
    fresh = [name for name in report.fresh if name.startswith(("backbone.", "decoders.canonical."))]
    if fresh or f"{_OUT}.weight" not in model.state_dict():
        raise CheckpointError(
            f"{source} ({report.layout}) holds no weights for {', '.join(fresh[:3]) or _OUT}",
            "weights with a canonical decoder, such as Face Anything's",
            "Fit a model that starts from them: weights.source",
        )
    if report.layout != "canonface":
        _normalise(model.state_dict())
    space = {"head": report.layout, "centre": [0.0, 0.0, 0.0], "half_extent": HALF_EXTENT_M}
    dataset = {"resolution": size, "half_extent_m": HALF_EXTENT_M, "space": space}
    untrained = ["surface"] if any(".surface." in name for name in report.fresh) else []
    content = model_content(model, config, dataset)
    on_step(f"writing {out.name}")
    save_checkpoint(
        out, {**content, "untrained": untrained, "depth_up_to_scale": True}, partial(atomic_write, before=refuse)
    )
    return report


def _normalise(weights: dict[str, object]) -> None:
    """Divide what gives x, y and z, in place, by the half extent; the fourth output is the confidence."""
    import torch

    for part in ("weight", "bias"):
        tensor = weights[f"{_OUT}.{part}"]
        assert isinstance(tensor, torch.Tensor)
        tensor[:3] /= HALF_EXTENT_M
