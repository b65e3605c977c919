"""What training batches are made of, as a section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from datagen.common.settings import Section

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
    jitter: int = Field(0, ge=0, description="frames that each frame of a clip over time may move; below stride")
    drop_last: bool = Field(False, description="leave out batches with too few clips; several processes need it")
    window: int = Field(8, ge=1, description="shards that are mixed with each other")
    min_confidence: float = Field(0.0, ge=0, le=1, description="least mean confidence of a sample that is read")
    min_coverage: float = Field(0.0, ge=0, le=1, description="least share of its pixels with canonical coordinates")
    verdicts: tuple[Literal["pass", "review"], ...] = Field((), description="verdicts that are read; empty: all")
    subject_weights: dict[str, float] = Field({}, description="how often subjects are read, where not 1")
    region_weights: dict[str, float] = Field({}, description="how often views of face regions are read, where not 1")
    on_corrupt: Literal["raise", "skip"] = Field(
        "raise", description="a damaged sample ends the run, or another clip of the batch takes its place"
    )
    workers: int = Field(0, ge=0, description="readers beside the training; 0 reads in between")
    reader: Literal["threads", "processes"] = Field("threads", description="what readers are; processes are spawned")
    cache_dir: Path | None = Field(
        None, description="folder that keeps what was read of a remote dataset, and statistics of samples"
    )
    cache_gb: float = Field(100.0, gt=0, description="what the remote data in that folder may take, GiB")
    cache_mb: int = Field(1024, ge=0, description="keep the validation arrays in memory while they fit; 0 always reads")

    @model_validator(mode="after")
    def _lengths_positive(self) -> DataConfig:
        if not self.clip_lengths or min(self.clip_lengths) < 1:
            raise ValueError("clip_lengths needs at least one length, all of them 1 or more")
        if self.jitter >= self.stride:
            raise ValueError(f"jitter {self.jitter} must be below stride {self.stride}")
        return self
