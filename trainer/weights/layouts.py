"""How published checkpoints name the weights of this network.

A rule is a pair of patterns, theirs and ours: ``#`` stands for a number, ``*`` at the end for the rest of the name. A
third entry says which part of a stacked weight theirs is: queries, keys and values are one matrix here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Layout = Literal["dinov2", "dinov3", "depth_anything_3", "canonface"]
_Rule = tuple[str, str] | tuple[str, str, int]
_LEVELS = range(4)


@dataclass(frozen=True)
class Place:
    """Where a weight of theirs goes: a name of ours, and which part of it if it holds several, stacked."""

    name: str
    part: int | None = None


def _vit_rules(prefix: str) -> list[_Rule]:
    """The names DINOv2 was published with, which Depth Anything 3 keeps behind a prefix."""
    return [
        (f"{prefix}cls_token", "backbone.embeddings.class_token"),
        (f"{prefix}camera_token", "backbone.embeddings.camera_tokens"),
        (f"{prefix}pos_embed", "backbone.embeddings.positions"),
        (f"{prefix}register_tokens", "backbone.embeddings.registers"),
        (f"{prefix}patch_embed.proj.*", "backbone.embeddings.patch.*"),
        (f"{prefix}blocks.#.*", "backbone.blocks.#.*"),
        (f"{prefix}norm.*", "backbone.norm.*"),
    ]


def _transformers_rules(block: str, norm: str) -> list[_Rule]:
    """The names of ``transformers``: those of the files on the hub, and those its newer versions use in memory."""
    rules: list[_Rule] = [
        ("embeddings.cls_token", "backbone.embeddings.class_token"),
        ("embeddings.register_tokens", "backbone.embeddings.registers"),
        ("embeddings.position_embeddings", "backbone.embeddings.positions"),
        ("embeddings.patch_embeddings.projection.*", "backbone.embeddings.patch.*"),
        ("embeddings.patch_embeddings.*", "backbone.embeddings.patch.*"),
        (f"{norm}.*", "backbone.norm.*"),
    ]
    ours = "backbone.blocks.#."
    for names in (("query", "key", "value"), ("q_proj", "k_proj", "v_proj")):
        for part, name in enumerate(names):
            inner = "attention.attention" if name in ("query", "key", "value") else "attention"
            rules.append((f"{block}.#.{inner}.{name}.*", f"{ours}attn.qkv.*", part))
    rules += [
        (f"{block}.#.attention.output.dense.*", f"{ours}attn.proj.*"),
        (f"{block}.#.attention.o_proj.*", f"{ours}attn.proj.*"),
        (f"{block}.#.layer_scale1.lambda1", f"{ours}ls1.gamma"),
        (f"{block}.#.layer_scale2.lambda1", f"{ours}ls2.gamma"),
        (f"{block}.#.mlp.weights_in.*", f"{ours}mlp.w12.*"),
        (f"{block}.#.mlp.weights_out.*", f"{ours}mlp.w3.*"),
        (f"{block}.#.norm1.*", f"{ours}norm1.*"),
        (f"{block}.#.norm2.*", f"{ours}norm2.*"),
        (f"{block}.#.mlp.fc1.*", f"{ours}mlp.fc1.*"),
        (f"{block}.#.mlp.fc2.*", f"{ours}mlp.fc2.*"),
    ]
    return rules


def _gated_rules(block: str) -> list[_Rule]:
    ours = "backbone.blocks.#.mlp."
    return [
        (f"{block}.#.mlp.gate_proj.*", f"{ours}w12.*", 0),
        (f"{block}.#.mlp.up_proj.*", f"{ours}w12.*", 1),
        (f"{block}.#.mlp.down_proj.*", f"{ours}w3.*"),
    ]


def _plain_rules(block: str) -> list[_Rule]:
    """DINOv3 names the two maps of an ungated block as the outer ones of a gated one."""
    ours = "backbone.blocks.#.mlp."
    return [(f"{block}.#.mlp.up_proj.*", f"{ours}fc1.*"), (f"{block}.#.mlp.down_proj.*", f"{ours}fc2.*")]


def _decoder_rules(theirs: str, ours: str, map_name: str) -> list[_Rule]:
    """A DPT of Depth Anything 3: what comes before the fusion, and the fusion and last convolutions of one map."""
    rules: list[_Rule] = [
        (f"{theirs}.norm.*", f"{ours}.reassembly.norm.*"),
        (f"{theirs}.projects.#.*", f"{ours}.reassembly.project.#.*"),
        (f"{theirs}.resize_layers.#.*", f"{ours}.reassembly.resize.#.*"),
        (f"{theirs}.scratch.output_conv1.*", f"{ours}.heads.{map_name}.before.*"),
        (f"{theirs}.scratch.output_conv2.0.*", f"{ours}.heads.{map_name}.hidden.*"),
        (f"{theirs}.scratch.output_conv2.2.*", f"{ours}.heads.{map_name}.out.*"),
    ]
    rules += [(f"{theirs}.scratch.layer{k + 1}_rn.*", f"{ours}.reassembly.narrow.{k}.*") for k in _LEVELS]
    return rules + _fusion_rules(theirs, ours, map_name, "")


def _fusion_rules(theirs: str, ours: str, map_name: str, suffix: str) -> list[_Rule]:
    rules: list[_Rule] = []
    for k in _LEVELS:
        level, refinenet = f"{ours}.fusions.{map_name}.levels.{k}", f"{theirs}.scratch.refinenet{k + 1}{suffix}"
        rules += [
            (f"{refinenet}.resConfUnit1.conv1.*", f"{level}.lateral.first.*"),
            (f"{refinenet}.resConfUnit1.conv2.*", f"{level}.lateral.second.*"),
            (f"{refinenet}.resConfUnit2.conv1.*", f"{level}.refine.first.*"),
            (f"{refinenet}.resConfUnit2.conv2.*", f"{level}.refine.second.*"),
            (f"{refinenet}.out_conv.*", f"{level}.project.*"),
        ]
    return rules


def _depth_anything_3_rules() -> list[_Rule]:
    ray = "decoders.geometry.heads.ray"
    return [
        *_vit_rules("backbone.pretrained."),
        *_decoder_rules("head", "decoders.geometry", "depth"),
        *_fusion_rules("head", "decoders.geometry", "ray", "_aux"),
        ("head.scratch.output_conv1_aux.3.#.*", f"{ray}.before.#.*"),
        ("head.scratch.output_conv2_aux.3.0.*", f"{ray}.hidden.*"),
        # One norm, shared by all four levels of theirs: files keep it under one name or all.
        *((f"head.scratch.output_conv2_aux.{k}.2.*", f"{ray}.norm.*") for k in (3, 2, 1, 0)),
        ("head.scratch.output_conv2_aux.3.5.*", f"{ray}.out.*"),
        # Face Anything adds this decoder and calls canonical coordinates a deformation.
        *_decoder_rules("deformation_head", "decoders.canonical", "canonical"),
        ("cam_dec.backbone.#.*", "camera.trunk.#.*"),
        ("cam_dec.fc_t.*", "camera.translation.*"),
        ("cam_dec.fc_qvec.*", "camera.quaternion.*"),
        ("cam_dec.fc_fov.0.*", "camera.field_of_view.*"),
    ]


RULES: dict[Layout, list[_Rule]] = {
    "dinov2": [*_transformers_rules("encoder.layer", "layernorm"), *_gated_rules("encoder.layer"), *_vit_rules("")],
    "dinov3": _transformers_rules("layer", "norm"),
    "depth_anything_3": _depth_anything_3_rules(),
    "canonface": [("*", "*")],
}
# Known, but without a place here: what only pretraining needs, cameras and Gaussians as inputs and outputs, levels of
# the ray decoder whose results Depth Anything 3 drops itself, and the metric branch of its nested model.
_UNUSED = re.compile(
    r"(embeddings\.)?mask_token$|rope_embeddings\.|cam_enc\.|gs_head\.|gs_adapter\.|canonical_head\."
    r"|head\.scratch\.output_conv1_aux\.[012]\.|head\.scratch\.output_conv2_aux\.[012]\.[^2]\.|da3_metric\."
)
# In front of all names, left by whatever wrapped the network when it was saved.
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.|dinov2\.|dinov3_vit\.|model\.(da3\.)?(?!$))+")


def shorten(names: Iterable[str]) -> dict[str, str]:
    """Return every name without its wrappers' prefixes."""
    return {name: _PREFIXES.sub("", name) for name in names}


def guess_layout(names: Iterable[str]) -> Layout | None:
    """Tell the layout from (shortened) names; None if it is none we know."""
    known = set(names)
    if any(name.startswith("backbone.pretrained.") for name in known):
        return "depth_anything_3"
    if "backbone.embeddings.patch.weight" in known:
        return "canonface"
    if "embeddings.patch_embeddings.weight" in known:
        return "dinov3"
    if "embeddings.patch_embeddings.projection.weight" in known or {"cls_token", "patch_embed.proj.weight"} <= known:
        return "dinov2"
    return None


def unused(name: str) -> bool:
    """Whether a (shortened) name is known to have no place in this network."""
    return _UNUSED.match(name) is not None


class Translation:
    """Names of one layout to ours."""

    def __init__(self, layout: Layout, *, gated: bool = False) -> None:
        rules = list(RULES[layout])
        if layout == "dinov3":
            rules += _gated_rules("layer") if gated else _plain_rules("layer")
        self._rules = [(_pattern(rule[0]), _template(rule[1]), rule[2] if len(rule) == 3 else None) for rule in rules]

    def place(self, name: str) -> Place | None:
        """Return where a weight of theirs goes, by name alone; None if no rule covers it."""
        for pattern, template, part in self._rules:
            match = pattern.fullmatch(name)
            if match:
                return Place(match.expand(template), part)
        return None


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _template(text: str) -> str:
    pieces = re.split(r"([#*])", text)
    return "".join(rf"\g<{(k + 1) // 2}>" if k % 2 else piece for k, piece in enumerate(pieces))
