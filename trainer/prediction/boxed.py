"""Single pictures that are cut to a face by a box: which they are, what their files are called, and the square."""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.console import say
from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.names import checked_pattern, shown
from datagen.common.pictures import Orientation, read_picture
from datagen.common.progress import Progress
from trainer.align.crops import square_about
from trainer.prediction.frames import ASK

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PictureOptions:
    """Which pictures, and where the face is in them.

    Attributes
    ----------
    pattern : str or None
        Of pictures below a folder, with ``{camera}`` and ``{frame:06d}``.
    name : str or None
        Of files below the output, alike.
    box : Box or None
        Of the face in every picture: left, top, right and bottom, pixels.
    boxes : Path or None
        A JSON file that names the box of each picture.
    orientation : "stored", "upright" or None
    """

    pattern: str | None = None
    name: str | None = None
    box: Box | None = None
    boxes: Path | None = None
    orientation: Orientation | None = None


@dataclass(frozen=True)
class BoxedPicture:
    """A picture, and the face in it.

    Attributes
    ----------
    name : str
        As a file of boxes has it.
    out : str
        Of its file below the output.
    together : int
        Pictures of its instant.
    box : Box or None
        None where the picture is a square crop about the face, as :data:`trainer.align.crops.ENLARGED` has it.
    """

    path: Path
    name: str
    out: str
    together: int
    box: Box | None = field(default=None)


def boxed_pictures(sources: Sequence[Path], options: PictureOptions) -> list[BoxedPicture]:
    """Return the pictures that were named, each with its box.

    Raises
    ------
    InputError
        If one is missing, or names or boxes do not fit them.
    """
    return _with_boxes(_pictures(sources, options), options)


def opened(
    pictures: Sequence[BoxedPicture], options: PictureOptions, task: str
) -> Iterator[tuple[BoxedPicture, npt.NDArray[np.uint8]]]:
    """Yield each picture with its pixels (H, W, 3), and show how far it is.

    Parameters
    ----------
    task : str
        What is done with them, for the screen.

    Raises
    ------
    InputError
        If a picture cannot be read, or has a turn and ``options`` do not say what becomes of it.
    """
    with Progress(task, len(pictures), "pictures") as progress:
        for picture in pictures:
            yield picture, read_picture(picture.path, orientation=options.orientation, ask=ASK).pixels
            progress.advance(1)


def face_square(box: Box | None, width: int, height: int, what: str) -> torch.Tensor:
    """Return the square about a face (1, 3), as :func:`trainer.align.crops.square_about` has it.

    Raises
    ------
    InputError
        If the box lies outside the picture.
    """
    if box is None:
        return torch.tensor([[width / 2, height / 2, max(width, height)]], dtype=torch.float32)
    check_box(box, width, height, what)
    return square_about(torch.tensor([box], dtype=torch.float32))


def check_box(box: Box, width: int, height: int, what: str) -> None:
    left, top, right, bottom = box
    if not all(np.isfinite(box)) or right <= left or bottom <= top:
        raise InputError(
            f"the box of {what} is {list(box)}",
            "left, top, right, bottom with right > left and bottom > top",
            "Mend it",
        )
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise InputError(
            f"the box {list(box)} lies outside {what}, which has {width} x {height} pixels",
            "a box of pixels of that picture",
            "Give the box of the picture as it is read, or choose --orientation",
        )


def parse_box(text: str) -> Box:
    """Read ``left,top,right,bottom``; InputError if it is something else."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--box {shown(text)}", "left,top,right,bottom in pixels", "For example: --box 80,60,300,310"
        ) from None
    return left, top, right, bottom


def _pictures(sources: Sequence[Path], options: PictureOptions) -> list[BoxedPicture]:
    if options.pattern is not None:
        if len(sources) != 1 or not sources[0].is_dir():
            raise InputError(
                f"--pictures with {len(sources)} places, {', '.join(map(str, sources[:3]))}", "one folder", "Give it"
            )
        return _by_pattern(sources[0], options.pattern, options.name)
    if options.name is not None:
        raise InputError("--name without --pictures", "both, or neither", "Pictures by themselves keep their names")
    missing = [str(path) for path in sources if not path.is_file()]
    if missing:
        raise InputError(
            f"{', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} no picture",
            "picture files, or a folder with --pictures",
            "Check the path",
        )
    repeated = [name for name, count in Counter(path.stem for path in sources).items() if count > 1]
    if repeated:
        raise InputError(
            f"several pictures are called {shown(repeated[0])}, and would have one file",
            "a name for each",
            "Rename them, or use --pictures with a folder",
        )
    return [BoxedPicture(path, path.name, f"{path.stem}.npz", 1) for path in sources]


def _by_pattern(root: Path, pattern: str, name: str | None) -> list[BoxedPicture]:
    fields = {part[1] for part in string.Formatter().parse(pattern) if part[1]} if "{" in pattern else set()
    camera = "camera" in fields
    name = name or ("{camera}/{frame:06d}.npz" if camera else "{frame:06d}.npz")
    try:
        for one in (pattern, name):
            checked_pattern(one, camera=camera)
    except ValueError as error:
        raise InputError(
            f"--pictures {shown(pattern)} and --name {shown(name)}: {error}", "patterns", "Mend them"
        ) from None
    expression = re.compile(
        "".join(
            re.escape(text) + ("" if key is None else f"(?P<{key}>{'[0-9]+' if key == 'frame' else '[^/]+'})")
            for text, key, _, _ in string.Formatter().parse(pattern)
        )
    )
    found: list[tuple[str, str, int]] = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        relative = path.relative_to(root).as_posix()
        match = expression.fullmatch(relative)
        if match is None:
            continue
        which, frame = match.groupdict().get("camera", ""), int(match["frame"])
        if pattern.format(camera=which, frame=frame) == relative:
            found.append((relative, which, frame))
    if not found:
        raise InputError(f"no file below {root} is called {pattern}", "at least one picture", "Check the pattern")
    together = Counter(frame for _, _, frame in found)
    return [
        BoxedPicture(root / relative, relative, name.format(camera=which, frame=frame), together[frame])
        for relative, which, frame in found
    ]


def _with_boxes(pictures: list[BoxedPicture], options: PictureOptions) -> list[BoxedPicture]:
    if options.box is not None and options.boxes is not None:
        raise InputError("--box and --boxes", "one of the two", "Leave one out")
    if options.boxes is None:
        return [BoxedPicture(p.path, p.name, p.out, p.together, options.box) for p in pictures]
    boxes = _read_boxes(options.boxes)
    lacking = [p.name for p in pictures if p.name not in boxes]
    if lacking:
        raise InputError(
            f"{options.boxes} has no box of {', '.join(lacking[:3])} ({len(lacking)} lack one)",
            "a box for each picture, by its name as it was given, or below the folder",
            "Add them, or leave those pictures out",
        )
    idle = len(boxes.keys() - {p.name for p in pictures})
    if idle:
        say(f"{idle} boxes of {options.boxes} are of no picture that was given", to=sys.stderr)
    return [BoxedPicture(p.path, p.name, p.out, p.together, boxes[p.name]) for p in pictures]


def _read_boxes(path: Path) -> Mapping[str, Box]:
    expected = 'a JSON object such as {"000000.png": [80, 60, 300, 310]}: left, top, right, bottom in pixels'
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--boxes {path} cannot be read ({error})", expected, "Check the file") from None
    if not isinstance(content, dict):
        raise InputError(f"--boxes {path} holds a {type(content).__name__}", expected, "Check the file")
    boxes: dict[str, Box] = {}
    for name, box in content.items():
        numbers = isinstance(box, list) and len(box) == 4 and all(type(n) in (int, float) for n in box)
        if not numbers:
            raise InputError(f"--boxes {path} has {shown(box)} for {shown(name)}", expected, "Mend it")
        left, top, right, bottom = (float(n) for n in box)
        boxes[name] = left, top, right, bottom
    return boxes
