"""Videos in a folder that are the pictures of cameras: which part of a name is the camera's."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from datagen.common.names import name_problem
from datagen.common.video_frames import video_index
from datagen.sources.file_patterns import FilePattern

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".mxf")
_EDGES = "_-. "


def video_pattern(
    folder: Path, paths: Sequence[str], cameras: Collection[str], frames: Sequence[int] | None
) -> FilePattern | None:
    """Return the pattern of videos of which there is one for each camera; None if there is none.

    Parameters
    ----------
    folder : Path
    paths : sequence of str
        Of the videos below it, relative, with ``/``.
    cameras : collection of str
        Names known from a calibration.
    frames : sequence of int or None
        Numbers known from the scans: those that a video holds, counted from 0, are its files. None for all it holds.

    Raises
    ------
    InputError
        If one of the videos cannot be read.
    DependencyError
        If PyAV is not installed.
    """
    readings = list(_readings(paths))
    # The names that are known, then as many cameras as there are videos, then the shortest names.
    best = max(
        readings,
        key=lambda one: (sum(name in cameras for name in one[1]), len(one[1]), -sum(map(len, one[1]))),
        default=None,
    )
    if best is None:
        return None
    text, named = best
    files: dict[tuple[str, int], str] = {}
    for camera, path in named.items():
        count = len(video_index(folder / path).times)
        held = range(count) if frames is None else [frame for frame in frames if frame < count]
        files |= {(camera, frame): path for frame in held}
    return FilePattern(text, files) if files else None


def _readings(paths: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield patterns, each with the videos by camera: the file's name, what tells names apart, or the folder's."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        parent, _, name = path.rpartition("/")
        kinds.setdefault((parent, os.path.splitext(name)[1]), []).append(path)
    for (parent, suffix), group in kinds.items():
        place = f"{parent}/" if parent else ""
        stems = [path[len(place) : -len(suffix)] for path in group]
        before, after = _shared(stems), _shared([stem[::-1] for stem in stems])[::-1]
        # Only whole words are not the camera's: cam_1 and cam_12 differ in 1 and 12.
        before = before[: max(before.rfind(edge) for edge in _EDGES) + 1]
        starts = [after.find(edge) for edge in _EDGES if edge in after]
        after = after[min(starts) :] if starts else ""
        for left, right in sorted({("", ""), (before, ""), ("", after), (before, after)}):
            names = [stem[len(left) : len(stem) - len(right)] for stem in stems]
            if all(name_problem(name) is None for name in names) and len(set(names)) == len(names):
                text = f"{_plain(place + left)}{{camera}}{_plain(right + suffix)}"
                yield text, dict(zip(names, group, strict=True))
    folders: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        parts = path.split("/")
        if len(parts) > 1 and name_problem(parts[-2]) is None:
            folders.setdefault(("/".join(parts[:-2]), parts[-1]), {})[parts[-2]] = path
    for (parent, name), named in folders.items():
        yield f"{_plain(f'{parent}/' if parent else '')}{{camera}}/{_plain(name)}", named


def _shared(texts: Sequence[str]) -> str:
    """Return what all texts begin with."""
    least, most = min(texts), max(texts)
    return least[: next((k for k, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))]


def _plain(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
