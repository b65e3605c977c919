"""The commented ``capture.json`` of a survey: what is known filled in, ``"?"`` for the rest, a note beside each."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datagen.common.digests import sha256_text
from datagen.geometry.space import METRES_PER_UNIT
from datagen.sources.calibration import Calibrated
from datagen.sources.capture_draft import Answers, Survey
from datagen.sources.capture_file import CAPTURE_FORMAT, CAPTURE_VERSION, NOTE, OPEN
from datagen.sources.rig_size import RIG

_WIDTH = 110
_ABOUT = (
    "Written by `datagen init` from the files in this folder. Keys that begin with _ are notes, read by nobody.",
    'Replace every "?", then run `datagen check`. Until you change this file, `datagen init` may write it anew.',
)
_DIGEST = re.compile(r'^ "_digest": "([0-9a-f]{64})",$', re.MULTILINE)


@dataclass(frozen=True)
class Missing:
    """Something that only the user can say.

    Attributes
    ----------
    key : str
        In capture.json.
    hint : str
        What is known of it.
    """

    key: str
    hint: str


def missing_of(found: Survey, answers: Answers) -> list[Missing]:
    """Return what is still to be filled in, most important first."""
    missing = []
    if answers.unit is None:
        missing.append(Missing("unit", _unit_hint(found)))
    if answers.fps is None and len(found.frames) > 1:
        missing.append(Missing("fps", "frames a second of the recording"))
    if answers.pixel_center is None and (found.calibration is None or found.calibration.pixel_center is None):
        missing.append(Missing("pixel_center", _pixel_hint(found.calibrated)))
    if answers.camera_unit is None and found.camera_factor != 1:
        missing.append(Missing("camera_unit", _camera_unit_hint(found)))
    lacking = [camera for camera in found.pictures.cameras if camera not in found.calibrated]
    if lacking:
        names = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
        missing.append(Missing("cameras", f"K and world_to_camera of {names}, from the calibration of the rig"))
    if found.turned:
        missing.append(
            Missing("orientation", 'pictures have an EXIF turn: are K and size of the "stored" or the "upright" ones')
        )
    return missing


def _unit_hint(found: Survey) -> str:
    declared = f'; the landmarks say "{found.landmark_unit}"' if found.landmark_unit else ""
    if found.extent is None:
        return f"of {RIG.name}: {', '.join(METRES_PER_UNIT)}{declared}"
    sizes = ", or ".join(f'"{unit}", which makes it {size:.2f} m' for unit, size in found.extent.units())
    if not sizes:
        low, high = found.extent.kind.range_m
        sizes = f"no unit ({', '.join(METRES_PER_UNIT)}) makes that {low} to {high} m: scale {found.extent.kind.name}"
    return f"{found.extent}: {sizes}{declared}"


def _pixel_hint(calibrated: Mapping[str, Calibrated]) -> str:
    hint = "centre of the top-left pixel in K: 0.5 at (0.5, 0.5), as COLMAP has it; 0 at (0, 0), as OpenCV"
    for one in calibrated.values():
        if one.size is not None:
            for value, side in ((0.5, one.size[0] / 2), (0, (one.size[0] - 1) / 2)):
                if one.K[0, 2] == side:
                    return f"{hint}; cx = {one.K[0, 2]:g} of {one.size[0]} pixels suggests {value}"
    return hint


def _camera_unit_hint(found: Survey) -> str:
    pairs = [
        f'"{camera}" if the scans are in {unit}'
        for unit, _ in (found.extent.units() if found.extent else ())
        for camera, metres in METRES_PER_UNIT.items()
        if abs(metres / METRES_PER_UNIT[unit] / found.camera_factor - 1) < 0.01
    ]
    return f"the cameras would see the scan if their translations were multiplied by {found.camera_factor:g}" + (
        f": {', or '.join(pairs)}" if pairs else ""
    )


def capture_text(found: Survey, answers: Answers) -> str:
    """Return the text of capture.json; the same survey and answers always give the same."""
    open_hints = {one.key: one.hint for one in missing_of(found, answers)}
    items: list[tuple[str, Any]] = [(f"{NOTE}about", list(_ABOUT))]

    def add(key: str, value: Any, note: str = "") -> None:
        if key in open_hints:
            note = f"MISSING: {open_hints[key]}"
        if note:
            items.append((NOTE + key, note))
        items.append((key, value))

    add("format", CAPTURE_FORMAT)
    add("version", CAPTURE_VERSION)
    size = f": {found.extent}" if found.extent else ""
    add("unit", answers.unit or OPEN, f"of {(found.extent.kind if found.extent else RIG).name}{size}")
    if answers.camera_unit or "camera_unit" in open_hints:
        add("camera_unit", answers.camera_unit or OPEN, "of the cameras' translations")
    fps = answers.fps if answers.fps is not None else 1 if len(found.frames) == 1 else OPEN
    add("fps", fps, "a single frame: any number will do" if len(found.frames) == 1 else "frames a second")
    needed = "a scan and a picture" if found.scans else "a picture"
    add("frames", list(found.frames), f"those that have {needed} of every camera")
    given = found.calibration.pixel_center if found.calibration else None
    centre = answers.pixel_center if answers.pixel_center is not None else given
    add("pixel_center", OPEN if centre is None else centre, _pixel_note(found, answers))
    note = f"from {found.calibration_file}" if found.calibrated else ""
    add("cameras", {camera: _camera(found, camera) for camera in found.pictures.cameras}, note)
    if found.scans is not None:
        add("scan", found.scans.text)
    else:
        add("surface", "none", "no scans were found: heads are fitted to what is seen in the pictures")
    if found.registrations is not None:
        note = f"{found.registration_head} is the head model with as many vertices"
        add("registration", {"head": found.registration_head, "pattern": found.registrations.text}, note)
    if found.landmarks is not None:
        add("landmarks", found.landmarks.text)
    add("images", found.pictures.text)
    if found.masks is not None:
        add("masks", found.masks.text)
    if found.turned:
        add("orientation", OPEN)
    if found.remarks:
        items.append((f"{NOTE}remarks", list(found.remarks)))
    lines = [f" {json.dumps(key)}: {_value(value)}" for key, value in items]
    digest = sha256_text(_joined(lines))
    return _joined([lines[0], f' "{NOTE}digest": "{digest}"', *lines[1:]])


def _joined(lines: Sequence[str]) -> str:
    return "{\n" + ",\n".join(lines) + "\n}\n"


def is_untouched(text: str) -> bool:
    """Whether a capture.json is as :func:`capture_text` made it: it holds the digest of the rest of it."""
    found = _DIGEST.search(text)
    return found is not None and sha256_text(text[: found.start()] + text[found.end() + 1 :]) == found[1]


def _pixel_note(found: Survey, answers: Answers) -> str:
    if answers.pixel_center is not None or found.calibration is None:
        return ""
    return f"as {found.calibration.kind} has it"


def _camera(found: Survey, camera: str) -> dict[str, Any]:
    one = found.calibrated.get(camera)
    width, height = (one.size if one is not None else None) or found.sizes[camera]
    entry: dict[str, Any] = {
        "K": OPEN if one is None else one.K.tolist(),
        "world_to_camera": OPEN if one is None else one.world_to_camera.tolist(),
        "width": width,
        "height": height,
    }
    if one is not None and one.distortion is not None:
        model, parameters = one.distortion
        entry["distortion"] = {"model": model, "parameters": list(parameters)}
    return entry


def _value(value: Any, indent: int = 1) -> str:
    """Return JSON as people write it: numbers side by side, one line a row, a note or a camera's key."""
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        rows = [f"{json.dumps(key, ensure_ascii=False)}: {_value(inner, indent + 1)}" for key, inner in value.items()]
        return f"{{\n{pad}" + f",\n{pad}".join(rows) + f"\n{' ' * indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        rows = [_value(inner, indent + 1) for inner in value]
        return f"[\n{pad}" + f",\n{pad}".join(rows) + f"\n{' ' * indent}]"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) and len(text) > _WIDTH:
        return f"\n{pad}".join(textwrap.wrap(text, _WIDTH))
    return text
