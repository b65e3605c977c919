"""Manifests: the YAML recipe of a dataset, typed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from datagen.common.settings import Name, Section, parse, read_yaml, with_overrides
from datagen.heads.registry import HEADS
from datagen.render.registry import RENDERERS
from datagen.sources.registry import SOURCES, Source

# The registries as types; type checkers cannot read a dictionary.
if TYPE_CHECKING:
    HeadName = str
    BackendName = str
    AnySource = Source
else:
    HeadName = Literal[tuple(HEADS)]
    BackendName = Literal["auto", *RENDERERS]
    AnySource = Annotated[reduce(or_, SOURCES.values()), Field(discriminator="kind")]

PATCH = 14  # the trainer's ViT reads patches of 14 pixels
_KEYS = "`datagen schema` prints every key with its type, range and meaning"


class CanonicalConfig(Section):
    """The space coordinates live in."""

    head: HeadName = "anny"
    identity: Literal["shared"] = Field("shared", description="one mean template for everyone")
    head_root: Path | None = Field(None, description="folder with the head model's files, where it is not embedded")


class WarpConfig(Section):
    """Settings of the registration engine."""

    subdivisions: int | None = Field(
        None,
        ge=0,
        le=2,
        description="times the template is subdivided for the last stages; by default until it is fine",
    )
    use_registration: bool = Field(
        True, description="start from the supplied registration; otherwise from landmarks alone"
    )
    share_identity: bool = Field(
        True, description="learn each sequence's person once from keyframes, and hold frames to it"
    )
    max_distance_mm: float = Field(
        8.0,
        gt=0,
        description="a scan point further than this from the registered template has no counterpart",
    )
    pass_residual_mm: float = Field(0.5, gt=0, description="median surface residual up to which a frame passes")
    fail_residual_mm: float = Field(2.0, gt=0)


class CropJitter(Section):
    """How far a sample's crop departs from the one that fits, drawn once for each sequence and camera."""

    shift: float = Field(0.03, ge=0, le=0.5, description="largest shift either way, as a share of the side")
    scale: float = Field(0.05, ge=0, le=1, description="largest change of the side, as a share of it")


class RenderConfig(Section):
    """Settings of the ground-truth maps."""

    backend: BackendName = "auto"
    resolution: int = Field(504, ge=PATCH, le=8190, multiple_of=PATCH, description="pixels a side of a stored sample")
    crop_margin: float = Field(1.25, gt=0, description="side of the crop, as a multiple of the projected head's extent")
    crop_jitter: CropJitter = CropJitter()


class ShardConfig(Section):
    """Settings of the dataset on disk."""

    clip: int = Field(
        4, ge=1, description="a shard holds a multiple of this many samples, so clips rarely straddle shards"
    )
    samples_per_shard: int = Field(64, ge=1)
    depth_scale: float = Field(2e-5, gt=0, description="metres per uint16 step")
    image_error: int = Field(1, ge=0, le=2, description="steps of 255 that a stored image may be off; 0 is exact")
    include_review: bool = Field(True, description="also store frames whose verdict is `review`")


class SplitConfig(Section):
    """Which subjects are held out: named, or the last ones in order."""

    val: int | tuple[Name, ...] = 1
    test: int | tuple[Name, ...] = 1


class Manifest(Section):
    """The recipe of one dataset."""

    name: Name
    seed: int = 0
    source: AnySource
    canonical: CanonicalConfig = CanonicalConfig()
    warp: WarpConfig = WarpConfig()
    render: RenderConfig = RenderConfig()
    shards: ShardConfig = ShardConfig()
    splits: SplitConfig = SplitConfig()

    @property
    def head_root(self) -> Path | None:
        """Folder with the canonical head model's files: its own setting, or else the simulation's root."""
        return self.source.canonical_root(self.canonical.head_root)

    @property
    def registration_root(self) -> Path | None:
        """Folder with the files of the head model that registrations are in."""
        return self.source.registration_root(self.canonical.head_root)


def load_manifest(path: Path, overrides: Iterable[str] = ()) -> Manifest:
    """Read a YAML manifest and apply ``key.path=value`` overrides (values are YAML).

    Raises
    ------
    ManifestError
        If the file is missing or not YAML, a key is unknown (with the nearest valid one) or given twice, or a value has
        the wrong type or range.
    """
    content = read_yaml(path, "manifest", "See manifests/ for recipes to start from")
    return parse_manifest(with_overrides(content, overrides, "source.subjects=3", _KEYS), str(path))


def parse_manifest(content: dict[str, Any], name: str = "manifest") -> Manifest:
    """Validate a manifest given as plain data.

    Raises
    ------
    ManifestError
        As :func:`load_manifest`.
    """
    return parse(Manifest, content, name, _KEYS)
