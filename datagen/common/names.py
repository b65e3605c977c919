"""Names and patterns that come from files: what may be a part of a path, and nothing else.

Subjects, sequences, cameras, topologies and labels become parts of paths, pages and messages. Every reader checks them
here, at its door, so that nothing behind it has to.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath

from datagen.common.errors import InputError

# File systems allow 255 bytes; the rest is for our suffixes, those of temporary names included.
MOST_BYTES = 200
MOST_DIGITS = 19  # of the largest frame number, 2**63 - 1
_SPEC = re.compile(r"(0[0-9]{1,2}d?)?")
_KINDS = "frame", "camera"


@lru_cache(maxsize=4096)
def name_problem(name: str) -> str | None:
    """Say why a text cannot be a name; None if it can.

    A name is printable text of any script without separators, so that it is one part of a path and reads as it is.
    """
    if not name:
        return "it is empty"
    if not name.isprintable():  # control and format characters, line ends, halves of characters
        return "it holds characters that do not print"
    if "/" in name or "\\" in name:
        return "it holds a separator of paths"
    if name.startswith("."):
        return "it starts with a dot"
    if name != name.strip():
        return "it starts or ends with a space"
    size = len(name.encode())
    return f"it has {size} bytes, at most {MOST_BYTES} are allowed" if size > MOST_BYTES else None


def checked_name(name: str) -> str:
    """Return a text that is a name.

    Raises
    ------
    ValueError
        If it is none.
    """
    problem = name_problem(name)
    if problem is not None:
        raise ValueError(f"{shown(name)} cannot be a name: {problem}")
    return name


def require_name(name: object, what: str) -> str:
    """Return ``name`` if it is one.

    Parameters
    ----------
    what : str
        What it names, and where, as in "a camera of the dataset".

    Raises
    ------
    InputError
        If it is no text, or cannot be part of a path.
    """
    problem = name_problem(name) if isinstance(name, str) else "it is no text"
    if problem is not None or not isinstance(name, str):
        raise InputError(
            f"{shown(name)} cannot be the name of {what}: {problem}",
            f"printable text without separators, at most {MOST_BYTES} bytes, that does not start with a dot",
            "Rename it",
        )
    return name


def checked_pattern(pattern: str, *, camera: bool, frame: bool = True) -> str:
    """Return a pattern of file names inside a folder.

    It holds ``{frame}`` or ``{frame:06d}``, any number of digits up to :data:`MOST_DIGITS`, if there is a file for each
    frame, and ``{camera}`` if there is one for each camera; neither where there is not. Whatever frame and camera are
    filled in, the path stays in the folder.

    Raises
    ------
    ValueError
        If it is none.
    """
    problem = _pattern_problem(pattern, {"frame": frame, "camera": camera})
    if problem is not None:
        raise ValueError(problem)
    return pattern


def _pattern_problem(pattern: str, needed: Mapping[str, bool]) -> str | None:
    try:
        fields = [part[1:] for part in string.Formatter().parse(pattern) if part[1] is not None]
    except ValueError as error:
        return f"the pattern cannot be filled in ({error})"
    for name, spec, conversion in fields:
        fits = name == "frame" and _SPEC.fullmatch(spec or "") and int((spec or "0").strip("d")) <= MOST_DIGITS
        if conversion is not None or not (fits or (name == "camera" and not spec)):
            return (
                "the pattern may hold {frame}, {frame:06d} with 1 to "
                f"{MOST_DIGITS} digits, and {{camera}}, nothing else in braces"
            )
    found = {str(name) for name, *_ in fields}
    wanted = {kind for kind in _KINDS if needed[kind]}
    if wanted - found:
        return f"the pattern needs {' and '.join(f'{{{kind}}}' for kind in _KINDS if kind in wanted)}"
    if found - wanted:
        other = "camera" if "camera" in found - wanted else "frame"
        per = "frame" if other == "camera" else "camera"
        return f"the pattern names {{{other}}}, but there is one such file per {per}"
    return _path_problem(PurePosixPath(pattern.format(frame=1, camera="a")))


def _path_problem(path: PurePosixPath) -> str | None:
    if path.is_absolute() or ".." in path.parts:
        return "files must lie inside the sequence folder: no absolute path, no '..'"
    for part in path.parts:
        problem = name_problem(part)
        if problem is not None:
            return f"{shown(part)} cannot be part of a path: {problem}"
    return None


def shown(value: object) -> str:
    """Return a value as a message quotes it: one short line of printable characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:50]}…{text[-20:]}"
