"""A network's weights as Depth Anything 3 and Face Anything publish theirs: the trainer's translation, backwards."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import torch
import yaml

from trainer.config import CONFIGS, load_config
from trainer.model.joint import DepthUnit, JointModel
from trainer.weights.layouts import RULES

_DEPTH_OUT = "decoders.geometry.heads.depth.out."


_APART = {"shared": False, "image_skip": False, "norm": "geometry", "positions": "geometry"}


def write_config(path: Path) -> Path:
    """Write a configuration as small as `tiny` and built as `giant`."""
    content = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    content["decoder"] |= _APART
    content["heads"] = {"ray": True, "camera": True}
    content["backbone"]["position_grid"] = 5
    path.write_text(yaml.safe_dump(content))
    return path


def published(config: Path) -> JointModel:
    """Return a model of a configuration with random weights, always the same."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    return JointModel(load_config(config), 28, DepthUnit("dataset", 1.0, 1.0, 1.0)).eval()


def to_depth_anything_3(model: JointModel) -> dict[str, torch.Tensor]:
    """Return the weights under the names Depth Anything 3 (and Face Anything) know them by.

    What they have no name for (surface, image features) is left out. Depth is theirs times the unit: the first output,
    log depth, is scaled by the spread; the second is its confidence.
    """
    named: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        there = name_there(name)
        if there is not None:
            exported = value.clone()
            if name.startswith(_DEPTH_OUT):
                exported[0] *= model.depth_unit.spread
            named[f"model.{there}"] = exported
    return named


def name_there(name: str) -> str | None:
    """Return what Depth Anything 3 calls a weight of ours; None if it has none such."""
    for rule in RULES["depth_anything_3"]:
        match = re.fullmatch(re.escape(rule[1]).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"), name)
        if match and len(rule) == 2:
            pieces = zip_longest(re.split(r"[#*]", rule[0]), match.groups(), fillvalue="")
            return "".join(text for pair in pieces for text in pair)
    return None
