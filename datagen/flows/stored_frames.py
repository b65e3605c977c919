"""Which frames a dataset holds: with a verdict that is accepted, and a camera that sees a surface.

A million of them have to fit a small part of a process's memory: what is kept of each is its number, its cameras and
two digests, sequence by sequence.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, TypeVar

import numpy as np

from datagen.common.digests import sha256_text
from datagen.common.documents import own_json
from datagen.flows.history import Stored, numbers_of, ranges_of
from datagen.flows.planning import BuildPlan
from datagen.flows.quarantine import read_quarantine
from datagen.flows.records import NOTE, ResultRecord, SequenceResults, digest_of_keys, record_of
from datagen.flows.seen import Seen
from datagen.flows.state_index import open_index
from datagen.flows.views import Views
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.shards.schema import ARRAYS
from datagen.sources.frame import SequenceInfo, SequenceKey
from datagen.warp.result import WARP_FILE

IN_QUARANTINE = "in quarantine"
NO_VIEW = "no surface in any image"
NO_DEPTH = "it has no depth map, and samples show the pixels of depth maps (render.surface)"
DEPTH_LEVELS = np.iinfo(ARRAYS["depth"].dtype).max
T = TypeVar("T")
_RULES = 1  # raise it when the same results give others
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class LeftOutCamera:
    """A camera of a sequence that gives no samples of some frames.

    Attributes
    ----------
    frames : int
        How many, of those that are stored or would be.
    wrong : bool
        Whether something contradicts; else it sees nothing of the head, or has no image.
    reason : str
        Of the first of them.
    """

    key: SequenceKey
    camera: str
    frames: int
    wrong: bool
    reason: str

    def __str__(self) -> str:
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        return f"{self.key} camera {self.camera} ({frames}): {self.reason}"


class Digests(Sequence[str]):
    """Digests as text, kept in half the bytes or fewer."""

    def __init__(self, texts: Sequence[str] | str) -> None:
        """Keep digests, or what :attr:`kept` was of others."""
        fit = isinstance(texts, str) or all(map(_SHA256.fullmatch, texts))
        self._kept: bytes | tuple[str, ...] = bytes.fromhex("".join(texts)) if fit else tuple(texts)

    @property
    def kept(self) -> Sequence[str] | str:
        """All of them in one text, where that is possible."""
        return self._kept.hex() if isinstance(self._kept, bytes) else self._kept

    def __len__(self) -> int:
        return len(self._kept) // 32 if isinstance(self._kept, bytes) else len(self._kept)

    def __iter__(self) -> Iterator[str]:
        if not isinstance(self._kept, bytes):
            return iter(self._kept)
        text = self._kept.hex()
        return (text[start : start + 64] for start in range(0, len(text), 64))

    def __getitem__(self, place: int) -> str:  # type: ignore[override]  # nobody asks for slices
        if isinstance(self._kept, bytes):
            return self._kept[32 * place : 32 * place + 32].hex()
        return self._kept[place]


@dataclass(frozen=True)
class StoredPart:
    """The stored frames of one sequence.

    Attributes
    ----------
    frames : tuple of int
        Increasing.
    cameras : tuple of tuples of str
        Of each frame, sorted: those that give samples.
    statuses : tuple of str
        The verdict of each frame.
    warps, inputs : Digests
        Digests of each frame's warp and input.
    """

    key: SequenceKey
    frames: tuple[int, ...]
    cameras: tuple[tuple[str, ...], ...]
    statuses: tuple[str, ...]
    warps: Digests
    inputs: Digests


@dataclass(frozen=True)
class SequencePart:
    """What of one sequence is stored, and why the rest is not; the attributes as of :class:`StoredFrames`."""

    part: StoredPart | None
    verdicts: Mapping[str, int]
    left_out: Mapping[str, int]
    cameras: tuple[LeftOutCamera, ...]
    waiting: tuple[int, ...]
    results: str
    own: Mapping[str, Mapping[str, Any]]

    def to_text(self) -> str:
        """Return what :meth:`from_text` reads, of a sequence of which no frame waits."""
        content: dict[str, Any] = {
            "verdicts": self.verdicts,
            "left_out": self.left_out,
            "cameras": [(each.camera, each.frames, each.wrong, each.reason) for each in self.cameras],
            "results": self.results,
            "own": self.own,
        }
        if self.part is not None:
            part = self.part
            digests = part.warps.kept, part.inputs.kept
            content["part"] = [ranges_of(part.frames), _column(part.cameras), _column(part.statuses), *digests]
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_text(cls, key: SequenceKey, text: str, same: dict[tuple[str, ...], tuple[str, ...]]) -> SequencePart:
        """Read what :meth:`to_text` gave; ``same`` holds what many sequences share, and is added to."""
        content, part = own_json(text), None
        if "part" in content:
            ranges, rigs, statuses, warps, inputs = content["part"]
            frames = numbers_of(ranges)
            cameras_of = _repeated([same.setdefault(rig, rig) for rig in map(tuple, rigs)], len(frames))
            verdicts = _repeated([sys.intern(status) for status in statuses], len(frames))
            part = StoredPart(key, frames, cameras_of, verdicts, Digests(warps), Digests(inputs))
        cameras = tuple(LeftOutCamera(key, *told) for told in content["cameras"])
        return cls(part, content["verdicts"], content["left_out"], cameras, (), content["results"], content["own"])


def _column(values: Sequence[Any]) -> Sequence[Any]:
    """Return values, one where all are the same."""
    return values[:1] if all(value == values[0] for value in values) else values


def _repeated(values: Sequence[T], count: int) -> tuple[T, ...]:
    """Undo :func:`_column`."""
    return tuple(values) * count if len(values) == 1 else tuple(values)


@dataclass(frozen=True)
class StoredFrames:
    """Which frames the dataset holds.

    Attributes
    ----------
    parts : tuple of StoredPart
        Of the sequences with frames that are stored, in the plan's order.
    verdicts : mapping of status to number of frames
    left_out : mapping of reason to number of frames
        A head may be outside every image: :data:`NO_VIEW`.
    cameras : tuple of LeftOutCamera
    waiting : mapping of sequence to frames
        Without a verdict yet.
    results : tuple of str
        Of each sequence of the plan, a digest of the content keys of its frames' results.
    own : mapping of frame to settings
        Of the stored frames that were made with settings of their own.
    """

    parts: tuple[StoredPart, ...]
    verdicts: Mapping[str, int]
    left_out: Mapping[str, int]
    cameras: tuple[LeftOutCamera, ...]
    waiting: Mapping[SequenceKey, tuple[int, ...]]
    results: tuple[str, ...] = ()
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def stored(self) -> Iterator[Stored]:
        """Yield every frame that is stored."""
        return ((part.key, frame) for part in self.parts for frame in part.frames)

    def camera_names(self) -> set[str]:
        """The cameras that see any of them."""
        return {name for names in {names for part in self.parts for names in part.cameras} for name in names}


def accepted_verdicts(manifest: Manifest) -> tuple[str, ...]:
    """Verdicts whose frames may be stored, sorted."""
    return ("pass", "review") if manifest.shards.include_review else ("pass",)


def stored_frames(plan: BuildPlan, layout: BuildLayout) -> StoredFrames:
    """Choose the frames that are stored."""
    index = open_index(layout.root)
    if index is None:
        return _stored_frames(plan, layout)
    return index.remembered("stored", asked_for(plan, layout), lambda: _stored_frames(plan, layout))


def asked_for(plan: BuildPlan, layout: BuildLayout) -> str:
    """Name what decides the frames that are stored, beside their results."""
    return f"{plan.digest} {hash(frozenset(read_quarantine(layout, plan.manifest).frames))}"


def _stored_frames(plan: BuildPlan, layout: BuildLayout) -> StoredFrames:
    out = read_quarantine(layout, plan.manifest).frames
    parts: list[StoredPart] = []
    verdicts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    cameras: list[LeftOutCamera] = []
    waiting: dict[SequenceKey, tuple[int, ...]] = {}
    results: list[str] = []
    own: dict[str, Mapping[str, Any]] = {}
    same: dict[tuple[str, ...], tuple[str, ...]] = {}  # few rigs, however many frames
    index = open_index(layout.root)
    known = repeat(None) if index is None else index.ahead((_group(sequence) for sequence in plan.sequences), NOTE)
    for sequence, seen in zip(plan.sequences, known, strict=False):
        given_up = {frame for frame in sequence.frames if (sequence.key, frame) in out} if out else set()
        found = _of_sequence(sequence, given_up, plan.manifest, layout, seen, same)
        verdicts.update(found.verdicts)
        left_out.update(found.left_out)
        cameras += found.cameras
        results.append(found.results)
        own |= {f"{sequence.key}/{int(frame):06d}": settings for frame, settings in found.own.items()}
        if found.waiting:
            waiting[sequence.key] = found.waiting
        if found.part is not None:
            parts.append(found.part)
    return StoredFrames(tuple(parts), dict(verdicts), dict(left_out), tuple(cameras), waiting, tuple(results), own)


def _group(sequence: SequenceInfo) -> str:
    return f"stored/{sequence.key}"


def _of_sequence(
    sequence: SequenceInfo,
    given_up: Collection[int],
    manifest: Manifest,
    layout: BuildLayout,
    seen: Seen | None,
    same: dict[tuple[str, ...], tuple[str, ...]],
) -> SequencePart:
    """Choose the frames of a sequence, unless that is known of these very results.

    Parameters
    ----------
    seen : Seen or None
        What is known of the choice, if no file of the results changed since.
    """
    results, index = SequenceResults(layout, sequence), open_index(layout.root)
    rules = accepted_verdicts(manifest), manifest.shards.depth_scale
    asked = sha256_text(f"{_RULES} {rules} {manifest.render.surface} {sequence.frames}")
    if index is None or given_up:
        return _chosen(sequence, results.contents(), given_up, manifest)
    known, _, text = (results.noted(index, seen) if seen is not None else "").partition(" ")
    if known == asked:
        return SequencePart.from_text(sequence.key, text, same)
    found = _chosen(sequence, results.contents(), given_up, manifest)
    if not found.waiting:
        results.note(index, _group(sequence), f"{asked} {found.to_text()}")
    return found


def _chosen(
    sequence: SequenceInfo,
    contents: Iterable[Mapping[str, Any] | None],
    given_up: Collection[int],
    manifest: Manifest,
) -> SequencePart:
    accepted, limit = accepted_verdicts(manifest), DEPTH_LEVELS * manifest.shards.depth_scale
    verdicts: Counter[str] = Counter()
    left_out: Counter[str] = Counter({IN_QUARANTINE: len(given_up)} if given_up else {})
    cameras: dict[tuple[SequenceKey, str], LeftOutCamera] = {}
    kept: list[tuple[int, tuple[str, ...], Mapping[str, Any]]] = []
    missing = []
    contents = list(contents)
    for frame, content in zip(sequence.frames, contents, strict=True):
        if frame in given_up:
            continue
        if content is None:
            missing.append(frame)
            continue
        status = content["status"]
        verdicts[status] += 1
        if status not in accepted:
            left_out[f"verdict {status}"] += 1
            continue
        if _shows_all(content, limit, manifest):
            stored = tuple(content["cameras"])
        else:
            stored = _shown(sequence.key, record_of(content), limit, manifest, cameras)
        if stored:
            kept.append((frame, stored, content))
        else:
            left_out[NO_VIEW] += 1
    return SequencePart(
        _part(sequence.key, kept) if kept else None,
        verdicts,
        left_out,
        tuple(cameras.values()),
        tuple(missing),
        digest_of_keys(sequence, contents),
        {str(frame): content["own_settings"] for frame, _, content in kept if "own_settings" in content},
    )


def _shows_all(content: Mapping[str, Any], limit_m: float, manifest: Manifest) -> bool:
    """Whether nothing is to be said of any camera of a frame, as of most."""
    views = content.get("views")
    if not views:
        return manifest.render.shown(fused=False) != "measured"
    odd = views["wrong"] or views["blind"] or max(views["farthest_m"].values(), default=0.0) >= limit_m
    return not odd and manifest.render.shown(fused=views["fused"]) != "measured"


def _shown(
    key: SequenceKey,
    record: ResultRecord,
    limit_m: float,
    manifest: Manifest,
    cameras: dict[tuple[SequenceKey, str], LeftOutCamera],
) -> tuple[str, ...]:
    """Return the cameras that give samples of a frame, and count the others."""
    views = _with_depth_maps(_within_depth(record.views, limit_m), record, manifest)
    for wrong, reasons in ((True, views.wrong), (False, views.blind)):
        for camera, reason in reasons.items():
            first = cameras.get((key, camera), LeftOutCamera(key, camera, 0, wrong, reason))
            # What is wrong with one frame counts for more than that the head is outside in another.
            worst = first if first.wrong or not wrong else replace(first, wrong=True, reason=reason)
            cameras[key, camera] = replace(worst, frames=first.frames + 1)
    return tuple(c for c in record.cameras if c not in views.wrong and c not in views.blind)


def _part(key: SequenceKey, kept: Sequence[tuple[int, tuple[str, ...], Mapping[str, Any]]]) -> StoredPart:
    none = {"sha256": ""}
    return StoredPart(
        key,
        tuple(frame for frame, _, _ in kept),
        tuple(names for _, names, _ in kept),
        tuple(sys.intern(content["status"]) for _, _, content in kept),
        Digests([content["files"].get(WARP_FILE, none)["sha256"] for _, _, content in kept]),
        Digests([content["input_digest"] for _, _, content in kept]),
    )


def _within_depth(views: Views, limit_m: float) -> Views:
    """Add the cameras that see the scan farther away than depth can be stored: found late, it would end a build."""
    far = {
        camera: f"around the head the scan reaches {depth:.2f} m from it. Depth is stored up to {limit_m:.2f} m. Raise "
        f"shards.depth_scale in the manifest to {1.01 * depth / DEPTH_LEVELS:.1g} or more."
        for camera, depth in views.farthest_m.items()
        if depth >= limit_m
    }
    return replace(views, wrong={**far, **views.wrong}) if far else views


def _with_depth_maps(views: Views, record: ResultRecord, manifest: Manifest) -> Views:
    """Add the cameras that have no depth map, where samples show their pixels."""
    if manifest.render.shown(fused=views.fused) != "measured":
        return views
    return replace(views, blind={**{c: NO_DEPTH for c in record.cameras if c not in views.measured}, **views.blind})
