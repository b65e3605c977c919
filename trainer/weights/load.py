"""Filling a network with published weights, strictly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from datagen.common.errors import CheckpointError
from trainer.model.backbone import resize_positions
from trainer.model.config import WeightsConfig
from trainer.model.joint import JointModel
from trainer.weights.layouts import Layout, Place, Translation, guess_layout, shorten, unused
from trainer.weights.read import read_tensors

_POSITIONS = "backbone.embeddings.positions"
_DEPTH_OUT = "decoders.geometry.heads.depth.out."
_LAYOUTS = "DINOv2, DINOv3, Depth Anything 3, Face Anything, or a checkpoint of this trainer"
_SHOWN = 6


@dataclass
class WeightsReport:
    """Filled by :func:`trainer.weights.load.load_weights`.

    Attributes
    ----------
    matched : list of str
        Weights of the network that were filled as they were found.
    converted : list of str
        Weights that were filled after a change, which is named: interpolated positions, rescaled depth.
    fresh : list of str
        Weights of the network that this kind of checkpoint does not have; they keep their random start.
    missing : list of str
        Weights of the network that this kind of checkpoint should fill and does not.
    mismatched : list of str
        Weights of another shape, with both shapes.
    left_over : list of str
        Weights of the checkpoint without a place in the network as configured.
    unused : list of str
        Weights of the checkpoint that are known to have no place here.
    """

    source: str
    layout: str
    matched: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything that should fit did."""
        return not (self.missing or self.mismatched or self.left_over)

    def text(self) -> str:
        """One line for each kind that occurs."""
        kinds = {
            "matched": f"{len(self.matched)}",
            "converted": _some(self.converted),
            "kept at their random start": _some(_groups(self.fresh)),
            "missing": _some(self.missing),
            "of another shape": _some(self.mismatched),
            "left over": _some(self.left_over),
            "known and not used": _some(_groups(self.unused)),
        }
        lines = [f"  {kind}: {what}" for kind, what in kinds.items() if what]
        return "\n".join([f"weights of {self.source} ({self.layout})", *lines])

    def problems(self) -> str:
        """What does not fit, in one sentence."""
        kinds = {"missing": self.missing, "of another shape": self.mismatched, "left over": self.left_over}
        return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"


def _groups(names: list[str]) -> list[str]:
    """The first two parts of the names, each once, in order."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))


def load_weights(
    model: JointModel,
    config: WeightsConfig,
    cache: Path | None = None,
    *,
    tensors: dict[str, torch.Tensor] | None = None,
) -> WeightsReport:
    """Fill a network with the weights of ``config.source``.

    Positions of another grid are interpolated. The depth head of Depth Anything 3 gives log depth; it is rescaled so
    that this network's depth, unit × exp(spread × x), is the unit times theirs.

    Parameters
    ----------
    model : JointModel
        Changed only if everything that should fit does, or ``config.strict`` is off.
    cache : Path, optional
        Folder for downloads.
    tensors : dict of name to Tensor, optional
        What the source holds, if it has been read already.

    Raises
    ------
    CheckpointError
        If the source cannot be read or is of no known layout, holds values that are not finite, or (``strict``) leaves
        weights of the network without a value, has some of another shape, or some that fit nowhere.
    """
    assert config.source is not None
    tensors = read_tensors(config.source, cache) if tensors is None else tensors
    short = shorten(tensors)
    layout = guess_layout(short.values()) if config.layout == "auto" else config.layout
    if layout is None:
        names = ", ".join(list(tensors)[:3])
        raise CheckpointError(f"{config.source} has no known layout (it holds {names})", _LAYOUTS, "Check the file")
    report = WeightsReport(config.source, layout)
    own = model.state_dict()
    placed, parts = _place(tensors, short, layout, model, report)
    for name, pieces in parts.items():
        _join(name, pieces, own[name], placed, report)
    _convert(model, placed, layout, report)
    for name, value in list(placed.items()):
        if value.shape != own[name].shape:
            report.mismatched.append(f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}")
            del placed[name]
        elif not torch.isfinite(value).all():
            raise CheckpointError(
                f"{config.source}: {name} holds values that are not finite", "finite weights", "Download it again"
            )
    _account(placed, own, layout, report)
    if config.strict and not report.complete:
        raise CheckpointError(
            f"{config.source} does not fit the network: {report.problems()}",
            "weights of the configured size and parts",
            "Choose the configuration of their size (trainer/configs), or set weights.strict=false to take what fits",
        )
    model.load_state_dict(placed, strict=False)
    return report


def _place(
    tensors: dict[str, torch.Tensor], short: dict[str, str], layout: Layout, model: JointModel, report: WeightsReport
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, torch.Tensor]]]:
    """Sort theirs into whole weights of ours, and parts of stacked ones."""
    own = set(model.state_dict())
    off = [part for part in (".camera.", ".ray.") if not any(part in f".{name}" for name in own)]
    translation = Translation(layout, gated=any("gate_proj" in name for name in short.values()))
    whole: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for full, tensor in tensors.items():
        name = short[full]
        if unused(name):
            report.unused.append(name)
            continue
        place: Place | None = translation.place(name)
        if place is not None and any(part in f".{place.name}" for part in off):
            report.unused.append(name)  # the configuration leaves this head out
        elif place is None or place.name not in own:
            report.left_over.append(name)
        elif place.part is None:
            whole[place.name] = tensor
        else:
            parts.setdefault(place.name, {})[place.part] = tensor
    return whole, parts


def _join(
    name: str,
    pieces: dict[int, torch.Tensor],
    own: torch.Tensor,
    placed: dict[str, torch.Tensor],
    report: WeightsReport,
) -> None:
    """Stack the parts of one weight. Keys have no bias in DINOv3: theirs is 0."""
    count = 3 if ".qkv." in name else 2
    if name.endswith("qkv.bias") and set(pieces) == {0, 2}:
        pieces[1] = torch.zeros_like(pieces[0])
    if set(pieces) == set(range(count)) and len({p.shape[1:] for p in pieces.values()}) == 1:
        placed[name] = torch.cat([pieces[k] for k in range(count)])
    else:
        found = ", ".join(f"part {k} {tuple(pieces[k].shape)}" for k in sorted(pieces))
        report.mismatched.append(f"{name} {found} for {tuple(own.shape)}")


def _convert(model: JointModel, placed: dict[str, torch.Tensor], layout: Layout, report: WeightsReport) -> None:
    embeddings = model.backbone.embeddings
    theirs = placed.get(_POSITIONS)
    if theirs is not None and theirs.ndim == 3 and theirs.shape[1] != 1 + embeddings.grid**2:
        grid = math.isqrt(theirs.shape[1] - 1)
        if grid**2 == theirs.shape[1] - 1:
            size = (embeddings.grid, embeddings.grid)
            placed[_POSITIONS] = resize_positions(theirs, grid, size, antialias=embeddings.registers is not None)
            report.converted.append(f"{_POSITIONS} from {grid} × {grid} to {size[0]} × {size[1]}")
    if layout == "depth_anything_3" and model.depth_unit.spread != 1:
        for name in (_DEPTH_OUT + "weight", _DEPTH_OUT + "bias"):
            if name in placed:
                placed[name] = _rescaled(placed[name], 1 / model.depth_unit.spread)
                report.converted.append(f"{name} by 1 / {model.depth_unit.spread:.3g}")


def _rescaled(value: torch.Tensor, factor: float) -> torch.Tensor:
    """Scale the first output, log depth; the second is its confidence."""
    factors = torch.ones(len(value), dtype=value.dtype, device=value.device)
    factors[0] = factor
    return value * factors.reshape(-1, *[1] * (value.ndim - 1))


def _account(
    placed: dict[str, torch.Tensor], own: dict[str, torch.Tensor], layout: Layout, report: WeightsReport
) -> None:
    converted = {line.split(" ")[0] for line in report.converted}
    mismatched = {line.split(" ")[0] for line in report.mismatched}
    has_canonical = any(name.startswith("decoders.canonical.") for name in placed)
    for name in own:
        if name in placed:
            if name not in converted:
                report.matched.append(name)
        elif name not in mismatched:
            (report.missing if _expected(name, layout, has_canonical) else report.fresh).append(name)


def _expected(name: str, layout: Layout, has_canonical: bool) -> bool:
    """Whether checkpoints of a layout have this weight of ours."""
    if layout == "canonface":
        return True
    if layout == "depth_anything_3":
        canonical = name.startswith("decoders.canonical.") and not has_canonical
        added = (".surface.", ".skip.", ".confidence.")
        return not (canonical or any(part in name for part in added) or name.startswith("detail."))
    ours_alone = ("camera_tokens", ".q_norm.", ".k_norm.")
    return name.startswith("backbone.") and not any(part in name for part in ours_alone)
