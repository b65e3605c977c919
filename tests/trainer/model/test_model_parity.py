"""The network against the public Depth Anything 3 package, layer by layer, with random weights.

The package (`depth-anything-3` 0.1.1) is no dependency: put an unpacked copy, with addict, einops and omegaconf, on
PYTHONPATH to run this. Nothing of it is replaced. PARITY_SIZES=base,large,giant adds these at full width (giant takes
20 GB of memory and some minutes).
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.functional import interpolate

from tests.support.published_weights import to_depth_anything_3
from trainer.config import TrainConfig, load_config
from trainer.model.backbone import choose_reference
from trainer.model.camera import decode_camera, encode_camera
from trainer.model.config import WeightsConfig
from trainer.model.joint import DepthUnit, JointModel
from trainer.weights.layouts import Translation, unused
from trainer.weights.load import load_weights

TOLERANCE = 1e-4
# Real DA3-SMALL, and a narrow one with ViT-giant's gated map and its odd start of alternation.
GIANT_LIKE = [
    *("backbone.dim=48", "backbone.blocks=12", "backbone.heads=4", "backbone.mlp=swiglu", "backbone.alternate_from=5"),
    *("backbone.outputs=[4,6,9,11]", "decoder.channels=16", "decoder.reassemble=[8,8,16,16]"),
]


def import_da3() -> SimpleNamespace:
    names = (
        "da3",
        "dinov2.dinov2",
        "dinov2.vision_transformer",
        "dualdpt",
        "dpt",
        "cam_dec",
        "cam_enc",
        "utils.transform",
    )
    pytest.importorskip("depth_anything_3", reason="the depth-anything-3 package is not importable")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("DA3_LOG_LEVEL", "ERROR")
        try:
            modules = [importlib.import_module(f"depth_anything_3.model.{name}") for name in names]
        except ImportError as error:
            pytest.skip(f"the depth-anything-3 package is there, but not {error.name}, which it imports")
    return SimpleNamespace(**{name.rpartition(".")[2]: module for name, module in zip(names, modules, strict=True)})


def build_theirs(da3: SimpleNamespace, config: TrainConfig) -> Any:
    """Their network of the same sizes, with Face Anything's decoder, random weights everywhere."""
    torch.manual_seed(0)
    b, d = config.backbone, config.decoder
    names = {384: "vits", 768: "vitb", 1024: "vitl", 1536: "vitg"}
    backbone = da3.dinov2.DinoV2(names.get(b.dim, "vits"), list(b.taken), b.start, b.start, b.start, True)
    if b.dim not in names:
        backbone.pretrained = da3.vision_transformer.DinoVisionTransformer(
            img_size=518,
            patch_size=14,
            embed_dim=b.dim,
            depth=b.blocks,
            num_heads=b.heads,
            ffn_layer="swiglufused" if b.mlp == "swiglu" else "mlp",
            alt_start=b.start,
            qknorm_start=b.start,
            rope_start=b.start,
        )
    sizes = {"features": d.channels, "out_channels": list(d.reassemble)}
    net = da3.da3.DepthAnything3Net(
        backbone,
        da3.dualdpt.DualDPT(b.width, output_dim=2, **sizes),
        da3.cam_dec.CameraDec(b.width),
        da3.cam_enc.CameraEnc(b.dim, num_heads=b.heads),
    )
    net.deformation_head = da3.dpt.DPT(
        b.width, output_dim=4, head_name="deformation", use_sky_head=False, activation="linear", **sizes
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim > 1 and "token" not in name and "pos_embed" not in name:
                p.normal_(0, p[0].numel() ** -0.5, generator=generator)
            else:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return net.eval()


class Pair:
    """Their network and ours, filled from a file of theirs as their hub has it."""

    def __init__(self, da3: SimpleNamespace, size: str, overrides: list[str], folder: Path) -> None:
        config = load_config(size, overrides)
        self.transform = da3.transform
        self.theirs = build_theirs(da3, config)
        published = nn.Module()
        published.model = self.theirs
        save_model(published, str(folder / "model.safetensors"))
        self.ours = JointModel(config, 504, DepthUnit("dataset", 1.0, 1.0, 1.0)).eval()
        self.report = load_weights(self.ours, WeightsConfig(source=str(folder)))
        self.path = folder / "model.safetensors"


CASES = {"small": ("small", []), "narrow": ("small", GIANT_LIKE)}
CASES |= {size: (size, []) for size in os.environ.get("PARITY_SIZES", "").split(",") if size}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    size, overrides = CASES[request.param]
    return Pair(import_da3(), size, overrides, tmp_path_factory.mktemp("da3"))


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.reshape(theirs.shape) - theirs).abs().max() / theirs.abs().max()).item()


@contextmanager
def recorded(blocks: nn.ModuleList) -> Iterator[list[torch.Tensor]]:
    """Copies of what every block gives; theirs are written into later on."""
    seen: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: seen.append(out.clone())) for block in blocks]
    yield seen
    for hook in hooks:
        hook.remove()


# One frame, two (the first is the reference), four (the reference is chosen); other shapes than the grid's 37².
@pytest.mark.parametrize(("clips", "frames", "height", "width"), [(1, 1, 56, 42), (2, 2, 42, 70), (2, 4, 42, 42)])
def test_every_block_and_every_map_agree(pair: Pair, clips: int, frames: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(frames)
    images = torch.randn(clips, frames, 3, height, width, generator=generator)
    errors: dict[str, float] = {}
    with torch.no_grad():
        with recorded(pair.theirs.backbone.pretrained.blocks) as their_blocks:
            features, _ = pair.theirs.backbone(images)
        with recorded(pair.ours.backbone.blocks) as our_blocks:
            ours = pair.ours(images, torch.eye(3).expand(clips, frames, 3, 3))
        theirs = pair.theirs.head(features, height, width, patch_start_idx=0)
        canonical = pair.theirs.deformation_head(features, height, width, patch_start_idx=0)
        pose = pair.theirs.cam_dec(features[-1][1])
        tokens = pair.ours.backbone(images)
    assert len(our_blocks) == len(their_blocks) == pair.ours.backbone.config.blocks
    errors |= {f"block {k}": relative(a, b) for k, (a, b) in enumerate(zip(our_blocks, their_blocks, strict=True))}
    errors |= {
        f"features {k}": relative(a, b[0]) for k, (a, b) in enumerate(zip(tokens.patches, features, strict=True))
    }
    errors["camera tokens"] = relative(tokens.camera, features[-1][1])
    # Their rays stay at the size of the fusion; ours are enlarged at the end.
    rays = theirs.ray.flatten(0, 1).permute(0, 3, 1, 2)
    ray = interpolate(rays, (height, width), mode="bilinear", align_corners=False)
    ray_logit = interpolate((theirs.ray_conf.flatten(0, 1)[:, None] - 1).log(), (height, width), mode="bilinear")
    assert ours.ray is not None
    assert ours.ray_confidence is not None
    assert ours.camera is not None
    errors |= {
        "depth": relative(ours.depth_m, theirs.depth),
        "depth confidence": relative(ours.depth_confidence, theirs.depth_conf),
        "ray": relative(ours.ray, ray),
        "ray confidence": relative(ours.ray_confidence, 1 + ray_logit.exp()),
        "canonical": relative(ours.canonical, canonical.deformation.permute(0, 1, 4, 2, 3)),
        "canonical confidence": relative(ours.canonical_confidence, canonical.deformation_conf),
        "camera": relative(ours.camera, pose),
    }
    blocks = max(error for name, error in errors.items() if name.startswith("block"))
    rest = {name: f"{error:.1e}" for name, error in errors.items() if not name.startswith("block")}
    print(f"{frames} frames: blocks up to {blocks:.1e}, {rest}")  # shown by pytest -rP
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}
    # The comparison means something: maps vary, and depth lies where ours is not bounded (e^±4 units).
    assert theirs.depth.log().abs().max() < 4
    if frames >= 3:  # ... and another frame than the first is the reference of a clip
        before = our_blocks[pair.ours.backbone.config.start - 2].unflatten(0, (clips, frames))
        assert choose_reference(before[:, :, 0], "balanced").any()
    assert theirs.depth.std() > 0.01 * theirs.depth.mean()
    assert canonical.deformation.std() > 0.01


def test_cameras_are_read_and_written_as_they_do(pair: Pair) -> None:
    generator = torch.Generator().manual_seed(0)
    encoding = torch.randn(2, 3, 9, generator=generator)
    encoding[..., 7:] = encoding[..., 7:].abs() * 0.5 + 0.2
    pose, intrinsics = pair.transform.pose_encoding_to_extri_intri(encoding, (42, 70))
    our_pose, our_intrinsics = decode_camera(encoding, (42, 70))
    assert relative(our_pose[..., :3, :], pose) <= TOLERANCE
    assert relative(our_intrinsics, intrinsics) <= TOLERANCE
    again = pair.transform.extri_intri_to_pose_encoding(our_pose, our_intrinsics, (42, 70))
    assert relative(encode_camera(our_pose, our_intrinsics, (42, 70)), again) <= TOLERANCE


def test_their_whole_checkpoint_is_accounted_for(pair: Pair) -> None:
    assert pair.report.layout == "depth_anything_3"
    assert pair.report.complete
    assert all(".surface." in name for name in pair.report.fresh)
    kinds = {name.split(".")[0] for name in pair.report.unused}
    assert kinds == {"cam_enc", "head"}


def test_exported_weights_fill_their_network(pair: Pair) -> None:
    exported = {name.removeprefix("model."): value for name, value in to_depth_anything_3(pair.ours).items()}
    state = pair.theirs.state_dict()
    differing = [name for name, value in exported.items() if not torch.equal(value, state[name])]
    assert differing == []
    left = {name.split(".")[0] for name in state if name not in exported}
    assert left == {"cam_enc", "head"}  # only the ray levels they drop


@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
def test_configurations_have_the_published_sizes(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import_da3()
    from depth_anything_3.cfg import create_object
    from depth_anything_3.cfg import load_config as load_theirs

    settings = load_theirs(f"depth_anything_3.configs.da3-{size}")
    parts = {"backbone": settings.net, "head": settings.head, "cam_dec": settings.cam_dec}
    with torch.device("meta"), monkeypatch.context() as patch:
        # They read rates of drop path, all 0, out of a tensor; the meta device has no numbers.
        patch.setattr(torch.Tensor, "item", lambda _tensor: 0.0)
        theirs = nn.ModuleDict({name: create_object(part) for name, part in parts.items()}).state_dict()
    with torch.device("meta"):
        ours = JointModel(load_config(size), 504, DepthUnit("dataset", 1.0, 1.0, 1.0)).state_dict()
    translation, reached = Translation("depth_anything_3"), set()
    for name, value in theirs.items():
        if not unused(name):
            place = translation.place(name)
            assert place is not None, name
            assert value.shape == ours[place.name].shape, name
            reached.add(place.name)
    rest = {name for name in ours if name not in reached and ".surface." not in name}
    assert all(name.startswith("decoders.canonical.") for name in rest)
