"""Training configurations: typed YAML, every value overridable on the command line, stored with the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from datagen.common.digests import sha256_text
from datagen.common.settings import Section, flatten, parse, read_yaml, with_overrides
from trainer.model.config import BackboneConfig, DecoderConfig, HeadsConfig, WeightsConfig

# How batches are read, not what is in them: these may change from one call of a run to the next.
FREE_DATA_KEYS = tuple(f"data.{key}" for key in ("workers", "reader", "cache_mb", "cache_dir", "cache_gb"))


class DataConfig(Section):
    """What a batch is made of."""

    clip_lengths: tuple[int, ...] = Field((1, 2, 4), description="frames of a clip; lengths share the frames equally")
    frames_per_batch: int = Field(
        8, ge=1, description="of all ranks together: a batch holds frames_per_batch // length clips, at least one"
    )
    view_ratio: float = Field(
        0.5, ge=0, le=1, description="share of frames in clips of several cameras at one instant; the rest is over time"
    )
    stride: int = Field(1, ge=1, description="frames between two frames of a clip over time")
    jitter: int = Field(0, ge=0, description="frames by which each frame of a clip over time may shift; below stride")
    drop_last: bool = Field(False, description="leave out batches with too few clips; required with several processes")
    window: int = Field(8, ge=1, description="shards that are mixed with each other")
    min_confidence: float = Field(0.0, ge=0, le=1, description="least mean confidence of a sample that is read")
    min_coverage: float = Field(0.0, ge=0, le=1, description="least share of its pixels with canonical coordinates")
    verdicts: tuple[Literal["pass", "review"], ...] = Field((), description="verdicts that are read; empty: all")
    subject_weights: dict[str, float] = Field({}, description="relative frequency of subjects, where not 1")
    region_weights: dict[str, float] = Field({}, description="relative frequency of views of face regions, where not 1")
    on_corrupt: Literal["raise", "skip"] = Field(
        "raise", description="a damaged sample ends the run, or another clip of the batch takes its place"
    )
    workers: int = Field(0, ge=0, description="readers beside the training; 0 reads between steps")
    reader: Literal["threads", "processes"] = Field(
        "threads", description="what kind the readers are; processes are spawned"
    )
    cache_dir: Path | None = Field(
        None, description="folder that keeps what was read from a remote dataset, and statistics of samples"
    )
    cache_gb: float = Field(100.0, gt=0, description="most space remote data may take in that folder, GiB")
    cache_mb: int = Field(1024, ge=0, description="keep the validation arrays in memory while they fit; 0 always reads")

    @model_validator(mode="after")
    def _lengths_positive(self) -> DataConfig:
        if not self.clip_lengths or min(self.clip_lengths) < 1:
            raise ValueError("clip_lengths needs at least one length, all of them 1 or more")
        if self.jitter >= self.stride:
            raise ValueError(f"jitter {self.jitter} must be below stride {self.stride}")
        return self


class ClipDataConfig(DataConfig):
    """What a batch of the joint model is made of."""

    singles: float = Field(
        0.0, ge=0, lt=1, description="share of the steps, the first ones, that see single frames only, whatever lengths"
    )


# What names of configurations begin with that are not of the joint model.
OTHER_KINDS = ("align", "attributes", "avatar")
CONFIGS = Path(__file__).parent / "configs"
# Where and for how long a run computes; these may change from one call to the next.
FREE_KEYS = (
    *(
        "fit.device",
        "fit.threads",
        "fit.max_minutes",
        "fit.save_every",
        "fit.preview",
        "fit.profile_steps",
        "fit.wandb",
    ),
    *FREE_DATA_KEYS,
    *("backbone.checkpoint_every", "decoder.frames_at_once"),
)


class DepthConfig(Section):
    """What the depth head's number means."""

    normalisation: Literal["dataset", "focal"] = Field(
        "dataset",
        description="dataset: relative to the training set's median depth; focal: the same, of depth × width / focal",
    )


class AugmentConfig(Section):
    """Changes of training clips; 0 turns one off."""

    photometric: float = Field(1.0, ge=0, le=2, description="strength of changes of colour, contrast, blur and noise")
    background: float = Field(0.0, ge=0, le=1, description="share of clips that get another background")
    occlusion: float = Field(0.0, ge=0, le=1, description="share of clips with an object in front of the head")
    crop: float = Field(0.0, ge=0, le=0.5, description="largest share of each side that is cropped away")
    mirror: bool = Field(
        False, description="mirror half of the clips; right only if the canonical space is symmetric about x = 0"
    )


class LossConfig(Section):
    """Weights of the loss terms; of those that are 0 by default, a term of weight 0 is not computed."""

    depth: float = Field(1.0, ge=0, description="of the depth terms")
    canonical: float = Field(5.0, ge=0, description="of the canonical terms")
    gradient: float = Field(1.0, ge=0, description="of the multi-scale gradient terms, within each map's own weight")
    surface: float = Field(1.0, ge=0, description="of telling surface from background")
    ray: float = Field(1.0, ge=0, description="of the ray maps, if the model has them")
    camera: float = Field(1.0, ge=0, description="of pose and field of view, if the model gives them")
    point: float = Field(0.0, ge=0, description="of points in the reference's axes, from depth and rays together")
    normal: float = Field(0.0, ge=0, description="of 1 − cos between normals of predicted and true depth")
    consistency: float = Field(
        0.0, ge=0, description="of canonical coordinates of one skin point in two frames of a clip"
    )
    depth_scale: Literal["metric", "clip"] = Field(
        "metric",
        description="metric: errors in metres count; clip: each clip is aligned by its median ratio and divided by "
        "the mean norm of its points first",
    )
    scale: float = Field(1.0, ge=0, description="of the scale of depth itself, with depth_scale clip")
    unmapped: float = Field(
        1.0, ge=0, le=1, description="weight of depth where the surface has no canonical coordinate"
    )
    confidence_lambda: float = Field(
        0.1, ge=0, description="λ of c·|e| − λ log c, of canonical coordinates and rays; 0 leaves their confidence out"
    )
    depth_lambda: float = Field(
        0.1,
        ge=0,
        description="the same for depth, whose errors count in units of its spread; 1: a more telling confidence",
    )
    depth_confidence: Literal["joint", "apart"] = Field(
        "joint",
        description="joint: it weighs the errors of depth as they are learnt; apart: a branch of its own learns how "
        "large errors of aligned depth are, and nothing else learns from it",
    )
    gradient_scales: int = Field(3, ge=1, le=6, description="scales of the gradient terms, each half the last")

    @model_validator(mode="after")
    def _confidence_learnt(self) -> LossConfig:
        if self.depth_confidence == "apart" and not self.depth_lambda:
            raise ValueError("depth_confidence apart needs a depth_lambda above 0, best 1: at 0 nothing is learnt")
        return self


class FitConfig(Section):
    """The optimisation."""

    steps: int = Field(ge=1, description="optimiser steps")
    learning_rate: float = Field(5e-4, gt=0, description="peak rate of AdamW")
    backbone_rate: float = Field(1.0, gt=0, le=1, description="the backbone's share of the rate; below 1 if pretrained")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each block's rate over that of the block above it; below 1 if pretrained"
    )
    beta2: float = Field(0.95, gt=0, lt=1, description="of AdamW")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make up one step")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of an average of the weights, which is then what is validated and kept as best",
    )
    warmup_steps: int = Field(50, ge=0, description="steps of linear warm-up")
    final_rate: float = Field(0.02, ge=0, le=1, description="share of the learning rate left at the end of the cosine")
    weight_decay: float = Field(0.05, ge=0, description="of matrices, not of biases, norms, embeddings")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    val_every: int = Field(200, ge=1, description="steps between validations; the last step always has one")
    val_samples: int = Field(64, ge=1, description="samples of `val` measured while fitting, evenly spread")
    preview: bool = Field(
        True, description="draw held-out samples and the learning curves at validations, at most twice a minute"
    )
    save_every: int = Field(200, ge=1, description="steps between writes of last.pt")
    max_minutes: float | None = Field(
        None, gt=0, description="stop (and save) when a call has taken this long; the same command resumes"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    compile: bool = Field(False, description="torch.compile the network; a minute at the start, faster steps on a GPU")
    sharding: Literal["none", "full"] = Field(
        "none", description="with several processes: every one holds the model (DDP), or a part of it (FSDP)"
    )
    profile_steps: int = Field(
        0, ge=0, description="steps after the first five that are traced into the run folder's trace.json"
    )
    wandb: str | None = Field(None, description="project of Weights & Biases that metrics go to as well")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; empty: OMP_NUM_THREADS or all cores")


class RunConfig(Section):
    """What the configuration of every kind of run has; ``data`` and ``fit`` are keys of each.

    Attributes
    ----------
    schema_command : str
        What prints all keys.
    """

    schema_command: ClassVar[str] = "trainer schema"

    name: str = Field("run", min_length=1, description="shown while fitting")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, order and augmentation")
    if TYPE_CHECKING:  # each names them in the order of its file
        data: DataConfig
        fit: FitConfig

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the weights: all but where and how long the run may take."""
        content = {key: value for key, value in flatten(self.model_dump(mode="json")).items() if key not in FREE_KEYS}
        return sha256_text(json.dumps(content, sort_keys=True))


RunConfigT = TypeVar("RunConfigT", bound=RunConfig)


class TrainConfig(RunConfig):
    """One training run."""

    data: ClipDataConfig = ClipDataConfig()
    backbone: BackboneConfig = BackboneConfig()
    decoder: DecoderConfig = DecoderConfig()
    heads: HeadsConfig = HeadsConfig()
    weights: WeightsConfig = WeightsConfig()
    augment: AugmentConfig = AugmentConfig()
    depth: DepthConfig = DepthConfig()
    loss: LossConfig = LossConfig()
    fit: FitConfig


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a configuration of the joint model; parameters and errors as :func:`load_run_config`."""
    return load_run_config(TrainConfig, path, overrides)


def load_run_config(
    kind: type[RunConfigT], path: Path | str, overrides: Iterable[str] = (), prefix: str = ""
) -> RunConfigT:
    """Read a YAML configuration of a kind of run and apply ``key.path=value`` overrides (values are YAML).

    Parameters
    ----------
    path : path or str
        A file, or the name of one in ``trainer/configs`` ("demo").
    overrides : iterable of str
        Such as ``fit.steps=100``.
    prefix : str
        What names of this kind of run begin with in ``trainer/configs``, up to a dash; it may be left out.

    Raises
    ------
    ManifestError
        If the file is missing or not valid YAML, a key is unknown (with the nearest valid one) or given twice, or a
        value has the wrong type or range.
    """
    files = sorted(CONFIGS.glob("*.yaml"), key=lambda path: path.stem)
    begin = tuple(f"{kind}-" for kind in ((prefix,) if prefix else OTHER_KINDS))
    ours = {p.stem: p for p in files if p.stem.startswith(begin) == bool(prefix)}
    shipped = ours.get(str(path)) or ours.get(f"{prefix}-{path}")
    file = shipped if shipped and not Path(path).exists() else Path(path)
    content = read_yaml(file, "configuration", f"Give --config a file, or one of {', '.join(ours)}")
    return parse_run_config(kind, with_overrides(content, overrides, "fit.steps=100", _keys(kind)), str(path))


def parse_config(content: dict[str, Any], name: str = "configuration") -> TrainConfig:
    """Validate a configuration given as plain data.

    Raises
    ------
    ManifestError
        As :func:`load_config`.
    """
    return parse_run_config(TrainConfig, content, name)


def parse_run_config(kind: type[RunConfigT], content: dict[str, Any], name: str = "configuration") -> RunConfigT:
    """Validate a configuration of a kind of run given as plain data; raises as :func:`parse_config`."""
    return parse(kind, content, name, _keys(kind))


def _keys(kind: type[RunConfig]) -> str:
    return f"`{kind.schema_command}` prints every key with its type, range and meaning"


def changed_keys(one: RunConfig, other: RunConfig) -> list[str]:
    """Return the dotted keys that decide weights and in which two configurations differ, with both values."""
    left, right = flatten(one.model_dump(mode="json")), flatten(other.model_dump(mode="json"))
    return [
        f"{key} ({left.get(key)} → {right.get(key)})"
        for key in left
        if key not in FREE_KEYS and left.get(key) != right.get(key)
    ]
