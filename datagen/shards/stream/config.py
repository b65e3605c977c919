"""What a stream reads, and in which order: the choices that make the order, and nothing else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from datagen.common.digests import canonical_json
from datagen.common.errors import InputError
from datagen.shards.schema import VERDICTS

# Raise it whenever the same choices would give another order.
ORDER_VERSION = 1


@dataclass(frozen=True)
class StreamConfig:
    """The order of a stream is a function of these, of the epoch and of the dataset's content.

    Attributes
    ----------
    seed : int
    lengths : tuple of int
        Frames of a clip. Each length takes an equal share of the frames; all clips of a batch have one length.
    frames_per_batch : int
        Of all ranks together; a batch holds ``frames_per_batch // length`` clips, at least one.
    view_ratio : float
        Share of the frames, in [0, 1], that come as several cameras of one instant rather than one camera over time.
    stride : int
        Frames between two frames of a clip over time.
    jitter : int
        Up to how many frames each frame of a clip over time is moved from its place, below ``stride``. 0 is even.
    shuffle : bool
        Stored order if False: the same clips every epoch.
    window : int
        Shards that are mixed with each other; with clips of views, performances. More mixes better, and keeps more
        shards open at a time.
    drop_last : bool
        Leave out the last batch of each kind and length where it is not full.
    min_confidence : float
        Least mean confidence of a sample where its canonical coordinate is known, in [0, 1].
    min_coverage : float
        Least share of pixels whose canonical coordinate is known, in [0, 1].
    verdicts : tuple of str
        Verdicts that are read, of ``pass`` and ``review``; empty: all.
    subjects : tuple of str
        Subjects that are read; empty: all.
    subject_weights, region_weights : mapping of name to float
        How often samples are read, relative to others: 1 where nothing is said. A sample's regional weight is the
        mean over its labelled pixels.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    seed: int = 0
    lengths: tuple[int, ...] = (1,)
    frames_per_batch: int = 8
    view_ratio: float = 0.0
    stride: int = 1
    jitter: int = 0
    shuffle: bool = True
    window: int = 8
    drop_last: bool = False
    min_confidence: float = 0.0
    min_coverage: float = 0.0
    verdicts: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    subject_weights: Mapping[str, float] = field(default_factory=dict)
    region_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(sorted({int(n) for n in self.lengths})))
        rules = (
            (bool(self.lengths) and self.lengths[0] >= 1, "lengths", "one length or more, each at least 1"),
            (self.seed >= 0, "seed", "0 or more"),
            (self.frames_per_batch >= 1, "frames_per_batch", "at least 1"),
            (0 <= self.view_ratio <= 1, "view_ratio", "a share in [0, 1]"),
            (self.stride >= 1, "stride", "at least 1"),
            (0 <= self.jitter < self.stride, "jitter", f"0 to {self.stride - 1}: less than the stride"),
            (self.window >= 1, "window", "at least 1"),
            (0 <= self.min_confidence <= 1, "min_confidence", "a confidence in [0, 1]"),
            (0 <= self.min_coverage <= 1, "min_coverage", "a share in [0, 1]"),
            (set(self.verdicts) <= set(VERDICTS[1:]), "verdicts", f"some of {', '.join(VERDICTS[1:])}"),
        )
        for right, name, expected in rules:
            if not right:
                raise InputError(f"{name} of the stream is {getattr(self, name)!r}", expected, f"Change {name}")
        for name in ("subject_weights", "region_weights"):
            for key, weight in getattr(self, name).items():
                if not (math.isfinite(weight) and weight >= 0):
                    raise InputError(f"{name} gives {key} {weight}", "a finite number, 0 or more", f"Change {name}")

    @property
    def needs_statistics(self) -> bool:
        """Whether samples have to be looked at before the order can be made."""
        return bool(self.min_confidence > 0 or self.min_coverage > 0 or self.region_weights)

    @property
    def weighted(self) -> bool:
        """Whether some samples are read more often than others."""
        return bool(self.subject_weights or self.region_weights)

    def clips_per_batch(self, length: int) -> int:
        """Return the number of clips of a full batch, of all ranks together."""
        return max(self.frames_per_batch // length, 1)

    def digest(self, dataset_digest: str, split: str) -> str:
        """Digest of everything but the epoch that decides the order."""
        content = {f.name: asdict(self)[f.name] for f in fields(self)}
        text = canonical_json({"order": ORDER_VERSION, "dataset": dataset_digest, "split": split, "config": content})
        return hashlib.sha256(text.encode()).hexdigest()
