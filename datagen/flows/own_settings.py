"""Settings of their own that some frames are warped with, where the recipe's do not suit them.

They are kept in the build folder, line by line as they were asked for, and nothing there is ever taken away: what holds
of a frame is what is left at the end. They are part of the content keys of what is made with them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from datagen.common.documents import parse_json
from datagen.common.errors import InputError, ManifestError
from datagen.common.files import write_owned_bytes
from datagen.common.settings import flatten, with_overrides
from datagen.flows.history import numbers_of, ranges_of
from datagen.flows.planning import BuildPlan
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, parse_manifest
from datagen.sources.frame import SequenceInfo, SequenceKey

# Of a sequence and a frame, as text: what tells plans, keys and records apart.
OwnOf = Mapping[str, Mapping[int, str]]
_SECTION = "warp."
_TEMPLATE = "the frame table of a dataset is read by one template"
_OTHER = {
    "canonical": "all frames of a dataset are in one canonical space",
    "fit": "frames of a sequence are fitted together",
    "name": "it is the dataset's",
    "needs": "no result depends on it: change it in the recipe, for all units of a stage",
    "render": "all samples of a dataset are rendered alike",
    "seed": "it is the dataset's",
    "shards": "it is how the dataset is stored",
    "source": "it is of the captures, not of what is made of them",
    "splits": "a subject is in one split",
}
# What frames of a sequence share, or what is learnt with its person.
_SHARED = ("warp.share_identity", "warp.evidence")


@dataclass(frozen=True)
class Asked:
    """One line: settings asked for, or taken back, of some frames.

    Attributes
    ----------
    frames : mapping of ``subject/sequence`` to frames
    set : mapping of key to value
    unset : tuple of str
        Keys; with none of either, all settings of these frames are taken back.
    since : str
        Date and time, UTC.
    """

    frames: Mapping[str, tuple[int, ...]]
    set: Mapping[str, Any] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    since: str = ""

    def line(self) -> str:
        """Return it as it is kept."""
        frames = {name: ranges_of(sorted(listed)) for name, listed in self.frames.items()}
        told = {"frames": frames, "set": dict(self.set), "since": self.since, "unset": list(self.unset)}
        return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_own(layout: BuildLayout) -> dict[str, dict[int, str]]:
    """Return the settings of their own that frames of a build have, by ``subject/sequence`` and frame, as text.

    Raises
    ------
    InputError
        If what is kept of them is damaged: frames would be made with other settings.
    """
    try:
        lines = layout.own_settings.read_text().splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            told = parse_json(line)
            asked = Asked(
                {str(name): numbers_of(ranges) for name, ranges in told["frames"].items()},
                dict(told["set"]),
                tuple(map(str, told["unset"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{layout.own_settings}, line {number}, cannot be used ({type(error).__name__}: {error})",
                "what `datagen requeue --set` wrote",
                "Restore it from a backup, or remove the line: its frames are then made by what the others say",
            ) from None
        _apply(found, asked)
    return {
        name: {frame: own_text(settings) for frame, settings in frames.items() if settings}
        for name, frames in found.items()
        if any(frames.values())
    }


def _apply(found: dict[str, dict[int, dict[str, Any]]], asked: Asked) -> None:
    for name, frames in asked.frames.items():
        of_sequence = found.setdefault(name, {})
        for frame in frames:
            settings = of_sequence.setdefault(frame, {})
            settings.update(asked.set)
            gone = asked.unset if asked.set or asked.unset else tuple(settings)
            for key in gone:
                settings.pop(key, None)


def own_text(settings: Mapping[str, Any]) -> str:
    """Return settings as the one text that stands for them."""
    return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)


def own_of(text: str) -> dict[str, Any]:
    """Return settings by their keys."""
    return dict(json.loads(text)) if text else {}


def with_own(plan: BuildPlan, own: OwnOf) -> BuildPlan:
    """Return a plan whose frames have settings of their own.

    Raises
    ------
    ManifestError
        If some do not fit the recipe.
    """
    known = {str(info.key): info for info in plan.sequences}
    kept: dict[str, Mapping[int, str]] = {}
    for name, frames in own.items():
        if name in known:
            there = set(known[name].frames)
            of_sequence = {frame: text for frame, text in frames.items() if frame in there}
            if of_sequence:
                kept[name] = of_sequence
    for text in {text for frames in kept.values() for text in frames.values()}:
        own_manifest(plan.manifest, text)
    return replace(plan, own=kept) if kept else plan


@lru_cache(maxsize=64)
def own_manifest(manifest: Manifest, text: str) -> Manifest:
    """Return the recipe as it is for frames with settings of their own; the recipe itself where ``text`` is empty.

    Raises
    ------
    ManifestError
        If they do not fit it.
    """
    if not text:
        return manifest
    overrides = [f"{key}={json.dumps(value)}" for key, value in json.loads(text).items()]
    content = with_overrides(manifest.model_dump(mode="json"), overrides, "warp.max_distance_mm=12", "")
    return parse_manifest(content, "the recipe with settings of their own that frames have")


def shared_own(own: OwnOf, info: SequenceInfo) -> str:
    """Return the settings of their own that all frames of a sequence have, by which its person is learnt."""
    of_sequence = own.get(str(info.key), {})
    texts = {of_sequence.get(frame, "") for frame in info.frames} if of_sequence else {""}
    if "" in texts:
        return ""
    first, *others = (own_of(text) for text in texts)
    shared = {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}
    return own_text(shared) if shared else ""


def ask(
    layout: BuildLayout,
    plan: BuildPlan,
    frames: Iterable[tuple[SequenceKey, int]],
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
) -> dict[str, Any]:
    """Keep that frames have settings of their own from now on, or have them no more; return those that were set.

    Parameters
    ----------
    overrides : sequence of str
        As in ``warp.max_distance_mm=12``.
    unset : sequence of str
        Keys; "all" for every one.

    Raises
    ------
    InputError
        If a setting may not differ within a dataset, with the reason.
    ManifestError
        If it is unknown, or its value does not fit.
    """
    chosen: dict[SequenceKey, list[int]] = {}
    for key, frame in frames:
        chosen.setdefault(key, []).append(frame)
    keys = [override.partition("=")[0] for override in overrides]
    for name in (*keys, *(key for key in unset if key != "all")):
        _check_key(name)
    whole = {info.key for info in plan.sequences if set(info.frames) <= set(chosen.get(info.key, ()))}
    for name in keys:
        if name in _SHARED and set(chosen) - whole:
            key = min(set(chosen) - whole, key=str)
            raise InputError(
                f"{name} of some frames of {key} alone",
                "all frames of a sequence, which share a person",
                f"Name the sequence: {key}",
            )
    settings = _values(plan.manifest, overrides, keys)
    if settings.get("warp.use_registration") and not plan.manifest.warp.use_registration:
        _refuse_bridges(plan, set(chosen))
    asked = Asked(
        {str(key): tuple(listed) for key, listed in chosen.items()},
        settings,
        () if "all" in unset else tuple(unset),
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    )
    # What is left of each frame has to fit too, before it is kept.
    found = {name: {f: json.loads(t) for f, t in frames.items()} for name, frames in read_own(layout).items()}
    _apply(found, asked)
    with_own(plan, {n: {f: own_text(s) for f, s in frames.items() if s} for n, frames in found.items()})
    before = layout.own_settings.read_bytes() if layout.own_settings.is_file() else b""
    write_owned_bytes(layout.own_settings, before + asked.line().encode() + b"\n")
    return settings


def forget_all(layout: BuildLayout) -> None:
    """Take back all settings of their own: another dataset takes this one's place.

    Raises
    ------
    datagen.common.errors.StorageError
        If the file was edited, or the disk refuses.
    """
    own = read_own(layout)
    if own:
        asked = Asked({name: tuple(frames) for name, frames in own.items()})
        write_owned_bytes(layout.own_settings, layout.own_settings.read_bytes() + asked.line().encode() + b"\n")


def _check_key(name: str) -> None:
    section = name.partition(".")[0]
    reason = _TEMPLATE if name == "warp.subdivisions" else _OTHER.get(section, "")
    if reason:
        raise InputError(
            f"{name} may not differ within one dataset: {reason}",
            "a key of warp, such as warp.max_distance_mm",
            "Change the recipe for all frames, or build them apart (another --out) and merge the datasets",
        )


def _values(manifest: Manifest, overrides: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Return the values of overrides as the recipe understands them."""
    content = with_overrides(manifest.model_dump(mode="json"), overrides, "warp.max_distance_mm=12", "")
    flat = flatten(parse_manifest(content, "--set").model_dump(mode="json"))
    found = {}
    for key in keys:
        if key not in flat:
            raise ManifestError(f"{key} is a section", "a key of it", f"For example: {_SECTION}max_distance_mm")
        found[key] = flat[key]
    return found


def _refuse_bridges(plan: BuildPlan, keys: set[SequenceKey]) -> None:
    head = plan.manifest.canonical.head
    for info in plan.sequences:
        if info.key in keys and info.registration not in (None, head):
            raise InputError(
                f"the registrations of {info.key} are in the topology of {info.registration}, for which this build "
                "finds no bridge",
                "a recipe with warp.use_registration: true",
                "Set it in the recipe, and to false for the other frames",
            )
