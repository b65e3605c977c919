"""Points of the template seen in pictures, as files: what an alignment network is used for."""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.console import say
from datagen.common.documents import read_json
from datagen.common.errors import CheckpointError, InputError
from datagen.common.files import atomic_write_bytes
from datagen.common.names import checked_pattern, shown
from datagen.common.pictures import Orientation, read_picture
from datagen.common.progress import Progress
from datagen.common.seen_points import LEAST_SIGMA_PX, SeenPoints, seen_points_bytes
from trainer.align.crops import crop_transform, square_about, take_crops, to_picture
from trainer.align.store import Aligner, read_aligner
from trainer.data import normalise
from trainer.prediction.frames import ASK
from trainer.prediction.output import check_target, prediction_folder
from trainer.run.checkpoint import pick_device

SOURCE = "align"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PredictAlignOptions:
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
class _Picture:
    path: Path
    name: str  # as a file of boxes has it
    out: str
    together: int  # pictures of its instant
    box: Box | None = field(default=None)


def predict_align(
    checkpoint: Path,
    sources: Sequence[Path],
    out: Path,
    options: PredictAlignOptions,
    *,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Write one file of :class:`datagen.common.seen_points.SeenPoints` for each picture.

    Parameters
    ----------
    sources : sequence of Path
        Pictures; with ``options.pattern``, one folder.
    out : Path
        A new folder, or an earlier prediction to replace.

    Returns
    -------
    dict
        ``pictures`` and ``median_sigma_px``, that of all points as they are written.

    Raises
    ------
    CheckpointError, InputError, StorageError
        Before anything is written where the cause is a name, a box or a picture that is missing; nothing half-written
        is left.
    """
    check_target(out)
    pictures = _with_boxes(_pictures(sources, options), options)
    aligner = read_aligner(checkpoint, pick_device(device_name))
    sigmas = []
    with prediction_folder(out) as folder, Progress("align", len(pictures), "pictures") as progress:
        for picture in pictures:
            pixels = read_picture(picture.path, orientation=options.orientation, ask=ASK).pixels
            points = align_picture(aligner, pixels, picture.box, together=picture.together, what=str(picture.path))
            atomic_write_bytes(folder / picture.out, seen_points_bytes(points))
            sigmas.append(np.sqrt(points.covariance[:, 0, 0]))
            progress.advance(1)
    return {"pictures": len(pictures), "median_sigma_px": float(np.median(np.concatenate(sigmas)))}


def align_picture(
    aligner: Aligner, pixels: npt.NDArray[np.uint8], box: Box | None, *, together: int = 1, what: str = "the picture"
) -> SeenPoints:
    """Return where the face's vertices are in a picture.

    Their covariance is σ² times :meth:`trainer.align.calibration.Calibration.inflation`: points and pictures may be
    taken to err each by itself.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    box : Box or None
        Of the face; None where the picture is a square crop about it, as :data:`trainer.align.crops.ENLARGED` has it.
    together : int
        Pictures of this instant that are aligned.

    Raises
    ------
    CheckpointError
        If the network's uncertainty was never held against people it has not learnt from.
    InputError
        If the box lies outside the picture.
    """
    if aligner.calibration is None:
        raise CheckpointError(
            "the run had no validation people, so that nobody knows what its uncertainty is worth",
            "a network fitted on a dataset with a val split",
            "Build the dataset with splits.val, and fit again",
        )
    height, width = pixels.shape[:2]
    if box is None:
        square = torch.tensor([[width / 2, height / 2, max(width, height)]], dtype=torch.float32)
    else:
        _check_box(box, width, height, what)
        square = square_about(torch.tensor([box], dtype=torch.float32))
    device, space = aligner.space.uv.device, aligner.space
    transform = crop_transform(square).to(device)
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))[None].to(device).float() / 255
    with torch.inference_mode():
        crop = normalise(take_crops(image, transform, aligner.model.encoder.image_size))
        found = aligner.model(crop)[-1]
        places = to_picture(found.positions, transform)[0, space.is_face]
        sigma = found.sigma[0, space.is_face] * transform[0, 0, :2].norm()
    variance = sigma.cpu().double().square().numpy() * aligner.calibration.inflation(together)
    corner = space.corner[space.is_face].cpu().numpy()
    return SeenPoints(
        source=SOURCE,
        template=aligner.template,
        width=width,
        height=height,
        faces=space.corner_faces[space.is_face].cpu().numpy(),
        barycentric=np.eye(3)[corner],
        pixels=places.cpu().double().numpy(),
        covariance=np.maximum(variance, LEAST_SIGMA_PX**2)[:, None, None] * np.eye(2),
    )


def _check_box(box: Box, width: int, height: int, what: str) -> None:
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


def _pictures(sources: Sequence[Path], options: PredictAlignOptions) -> list[_Picture]:
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
    return [_Picture(path, path.name, f"{path.stem}.npz", 1) for path in sources]


def _by_pattern(root: Path, pattern: str, name: str | None) -> list[_Picture]:
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
        _Picture(root / relative, relative, name.format(camera=which, frame=frame), together[frame])
        for relative, which, frame in found
    ]


def _with_boxes(pictures: list[_Picture], options: PredictAlignOptions) -> list[_Picture]:
    if options.box is not None and options.boxes is not None:
        raise InputError("--box and --boxes", "one of the two", "Leave one out")
    if options.boxes is None:
        return [_Picture(p.path, p.name, p.out, p.together, options.box) for p in pictures]
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
    return [_Picture(p.path, p.name, p.out, p.together, boxes[p.name]) for p in pictures]


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
