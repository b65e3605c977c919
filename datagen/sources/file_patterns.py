"""Patterns behind file names: which number in a path is the frame, and which part of it names the camera.

Every reading of every path is tried, and the pattern is taken that covers most files; where several do, the one whose
cameras and frames are known from elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from datagen.common.names import MOST_DIGITS, name_problem
from datagen.shards.schema import MAX_FRAME

_RUN = re.compile(r"[0-9]+")
_PART = re.compile(r"[^_\-. ]+")
_SEPARATORS = "_-. "
# Marks that no name holds, where frame and camera are cut out of a path.
_FRAME, _CAMERA = "\0f", "\0c"

Span = tuple[int, int]


@dataclass(frozen=True)
class FilePattern:
    """Files named alike.

    Attributes
    ----------
    text : str
        As capture.json has it: ``images/{camera}/{frame:06d}.png``.
    files : mapping of (camera, frame) to str
        Relative paths; the camera is empty where the pattern names none.
    """

    text: str
    files: Mapping[tuple[str, int], str]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, sorted."""
        return tuple(sorted({camera for camera, _ in self.files}))

    @property
    def frames(self) -> tuple[int, ...]:
        """Frame numbers of any camera, increasing."""
        return tuple(sorted({frame for _, frame in self.files}))

    def frames_of(self, camera: str) -> frozenset[int]:
        """Frame numbers of one camera."""
        return frozenset(frame for name, frame in self.files if name == camera)


@dataclass(frozen=True)
class _Reading:
    """One way to read a path."""

    template: str
    camera: str
    digits: str
    path: str
    rank: tuple[int, ...]


def frame_patterns(paths: Sequence[str]) -> list[FilePattern]:
    """Return the patterns of files of which there is one a frame, that with most files first.

    Parameters
    ----------
    paths : sequence of str
        Relative, with ``/``.

    Returns
    -------
    list of FilePattern
        No path is in two. Paths without a number are in none, nor are those padded unlike most of their kind.
    """
    return _chosen([reading for path in paths for reading in _readings(path, camera=False)], frozenset(), frozenset())


def camera_patterns(
    paths: Sequence[str], cameras: Collection[str] = (), frames: Collection[int] = ()
) -> list[FilePattern]:
    """Return the patterns of files of which there is one for each camera and frame, the likeliest first.

    Parameters
    ----------
    paths : sequence of str
        Relative, with ``/``.
    cameras : collection of str
        Names known from a calibration.
    frames : collection of int
        Numbers known from the scans.
    """
    readings = [reading for path in paths for reading in _readings(path, camera=True)]
    return _chosen(readings, frozenset(cameras), frozenset(frames))


def _chosen(readings: Iterable[_Reading], cameras: frozenset[str], frames: frozenset[int]) -> list[FilePattern]:
    by_template: dict[str, list[_Reading]] = {}
    for reading in readings:
        by_template.setdefault(reading.template, []).append(reading)
    candidates = []
    for template, alike in by_template.items():
        pattern = _pattern(template, alike)
        candidates.append((_score(pattern, alike[0], cameras, frames), pattern))
    candidates.sort(key=lambda one: one[0], reverse=True)
    chosen, taken = list[FilePattern](), set[str]()
    for _, pattern in candidates:
        if taken.isdisjoint(pattern.files.values()):
            chosen.append(pattern)
            taken.update(pattern.files.values())
    return chosen


def _score(
    pattern: FilePattern, reading: _Reading, cameras: frozenset[str], frames: frozenset[int]
) -> tuple[float, ...]:
    named, numbers = pattern.cameras, pattern.frames
    known = sum(name in cameras for name in named) / len(named)
    shared = sum(number in frames for number in numbers) / len(numbers)
    whole = len(pattern.files) / (len(named) * len(numbers))
    return (len(pattern.files), known, shared, whole, *reading.rank)


def _readings(path: str, *, camera: bool) -> Iterator[_Reading]:
    start = path.rfind("/") + 1
    dot = path.rfind(".", start + 1)
    end = dot if dot > 0 else len(path)
    runs = [run for run in _RUN.finditer(path, 0, end) if len(run[0]) <= MOST_DIGITS and int(run[0]) <= MAX_FRAME]
    for k, run in enumerate(runs):
        # The last number is the likeliest frame: cam1_take02_0001. In 0001/scan_0001.ply it is both.
        twins = [other.span() for other in runs if other[0] == run[0]]
        choices = [[run.span()]] + ([twins] if len(twins) > 1 and twins[-1] == run.span() else [])
        for frames in choices:
            cuts = [(span, _FRAME) for span in frames]
            if not camera:
                yield _Reading(_cut(path, cuts), "", run[0], path, (k, -len(frames)))
                continue
            for span in sorted(set(_camera_spans(path, frames, start, end))):
                name = path[slice(*span)]
                if name_problem(name) is None:
                    folder = int(span[1] < start)
                    rank = (k, -len(frames), folder, span[0] if folder else 0, span[0] - span[1])
                    yield _Reading(_cut(path, sorted([*cuts, (span, _CAMERA)])), name, run[0], path, rank)


def _camera_spans(path: str, frames: Sequence[Span], start: int, end: int) -> Iterator[Span]:
    """Yield the parts of a path that may name a camera: folders, and pieces of the file's name without its frame."""
    begin = 0
    for folder in path[:start].split("/")[:-1]:
        span = begin, begin + len(folder)
        begin = span[1] + 1
        if not any(span[0] <= left < span[1] for left, _ in frames):
            yield span
    inside = [span for span in frames if span[0] >= start]
    edges = [start, *(edge for span in inside for edge in span), end]
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        text = path[left:right]
        stripped = text.strip(_SEPARATORS)
        if stripped:
            offset = left + text.index(stripped)
            yield offset, offset + len(stripped)
            yield from ((left + part.start(), left + part.end()) for part in _PART.finditer(text))


def _cut(path: str, cuts: Sequence[tuple[Span, str]]) -> str:
    text, place = "", 0
    for (start, stop), mark in cuts:
        text += path[place:start] + mark
        place = stop
    return text + path[place:]


def _pattern(template: str, readings: Iterable[_Reading]) -> FilePattern:
    """Return the pattern of a template with the zero padding that most of its files have, and those files."""
    readings = list(readings)
    padded = Counter(len(reading.digits) for reading in readings if _is_padded(reading.digits))
    width = padded.most_common(1)[0][0] if padded else 0
    spec = f":0{width}d" if width else ""
    files: dict[tuple[str, int], str] = {}
    for reading in sorted(readings, key=lambda one: one.path):
        frame = int(reading.digits)
        if f"{frame:0{width}d}" == reading.digits:
            files.setdefault((reading.camera, frame), reading.path)
    text = template.replace("{", "{{").replace("}", "}}")
    return FilePattern(text.replace(_FRAME, f"{{frame{spec}}}").replace(_CAMERA, "{camera}"), files)


def _is_padded(digits: str) -> bool:
    return len(digits) > 1 and digits.startswith("0")
