"""Builds of some frames only, to try a recipe: which frames, named by patterns or by how many."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from datagen.common.documents import parse_json
from datagen.common.errors import InputError
from datagen.flows.planning import BuildPlan
from datagen.sources.frame import SequenceInfo

_SHOWN = 5


@dataclass(frozen=True)
class Choice:
    """Some frames of a build.

    Attributes
    ----------
    only : tuple of str
        Shell patterns of ``subject``, ``subject/sequence`` or ``subject/sequence/frame``; all, if there are none.
    limit : int or None
        At most so many of these, the first in the plan's order.
    """

    only: tuple[str, ...] = ()
    limit: int | None = None

    def __bool__(self) -> bool:
        return bool(self.only) or self.limit is not None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {"limit": self.limit, "only": list(self.only)}

    def __str__(self) -> str:
        parts = [f"--only {pattern}" for pattern in self.only]
        return " ".join([*parts, *([f"--limit {self.limit}"] if self.limit is not None else [])])


def choice_of(recipe: str) -> Choice:
    """Return which frames a dataset holds, as its recipe says; all, if it says nothing."""
    try:
        told = parse_json(recipe)["partial"]
        return Choice(tuple(map(str, told["only"])), told["limit"])
    except (ValueError, KeyError, TypeError):
        return Choice()


def choose(plan: BuildPlan, choice: Choice) -> BuildPlan:
    """Return a plan of some frames of another. Splits, and the persons that frames are held to, stay those of all.

    Raises
    ------
    InputError
        If a pattern is none, or covers no frame; then it names what is close.
    """
    patterns = [_parts(pattern) for pattern in choice.only]
    matched = [False] * len(patterns)
    left = choice.limit if choice.limit is not None else plan.frames
    if left < 1:
        raise InputError(f"--limit {left} leaves no frame", "1 or more", "Correct --limit")
    chosen, whole = [], []
    for info in plan.sequences:
        frames = _frames(info, patterns, matched)[:left]
        left -= len(frames)
        if frames:
            chosen.append(replace(info, frames=frames))
            whole.append(info)
    for pattern, found in zip(choice.only, matched, strict=True):
        if not found:
            raise _nothing(pattern, plan)
    told = choice.to_json()
    return replace(plan, sequences=tuple(chosen), whole=tuple(whole), chosen={**told, "of_frames": plan.frames})


def _parts(pattern: str) -> list[str]:
    parts = pattern.strip("/").split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise InputError(
            f"--only {pattern!r} is no pattern of frames",
            "subject, subject/sequence or subject/sequence/frame, with *, ? and [ ]",
            "For example: --only 's003/*'",
        )
    return parts


def _frames(info: SequenceInfo, patterns: Sequence[list[str]], matched: list[bool]) -> tuple[int, ...]:
    """Return the frames of a sequence that patterns cover, and note which pattern covers any."""
    if not patterns:
        return info.frames
    found: set[int] = set()
    for number, parts in enumerate(patterns):
        names = info.key.subject, info.key.sequence
        if not all(fnmatchcase(name, part) for name, part in zip(names, parts, strict=False)):
            continue
        own = [frame for frame in info.frames if len(parts) < 3 or _is_frame(frame, parts[2])]
        matched[number] = matched[number] or bool(own)
        found.update(own)
    return tuple(frame for frame in info.frames if frame in found)


def _is_frame(frame: int, pattern: str) -> bool:
    return fnmatchcase(f"{frame:06d}", pattern) or pattern == str(frame)


def _nothing(pattern: str, plan: BuildPlan) -> InputError:
    parts = _parts(pattern)
    if len(parts) == 1:
        names = list(dict.fromkeys(info.key.subject for info in plan.sequences))
    else:
        names = [str(info.key) for info in plan.sequences]
    of_sequences = [info for info in plan.sequences if _frames(info, [parts[:2]], [False])]
    if len(parts) == 3 and of_sequences:
        info = of_sequences[0]
        close = [f"{info.key}/{info.frames[0]:06d} to {info.frames[-1]:06d}"]
    else:
        wanted = "/".join(parts[:2])
        close = difflib.get_close_matches(wanted, names, _SHOWN, 0.5) or names[:_SHOWN]
    return InputError(
        f"--only {pattern!r} covers no frame", f"names such as {', '.join(close)}", "`datagen plan --json` lists all"
    )
