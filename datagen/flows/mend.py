"""Mending a capture: its capture.json as the convention that fits says, the old one kept beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, fsync_path, storage_errors
from datagen.flows.conventions import EXCHANGED, figures
from datagen.flows.diagnose import Fit
from datagen.flows.views import NO_IMAGE, examine
from datagen.geometry.space import METRES_PER_UNIT, metres_per
from datagen.sources.camera_entry import RecordedCamera
from datagen.sources.capture_file import CAPTURE_FILE, CaptureFile, parsed_capture, without_notes
from datagen.sources.frame import Frame

BEFORE = f"{CAPTURE_FILE}.before-fix"
UNIT_TOLERANCE = 0.01
DIGITS = 15  # what a float64 holds of a decimal number
_UNIT = "unit "


@dataclass(frozen=True)
class Mended:
    """A capture.json that was, or could not be, written anew.

    Attributes
    ----------
    where : str
        Subject and sequence.
    changes : tuple of str
        What was changed; empty if nothing was.
    refused : str
        Why nothing was.
    kept : str
        Name of the old file.
    """

    where: str
    changes: tuple[str, ...] = ()
    refused: str = ""
    kept: str = ""

    def to_json(self) -> dict[str, object]:
        """Return it as JSON data."""
        return {"where": self.where, "changes": list(self.changes), "refused": self.refused, "kept": self.kept}

    def __str__(self) -> str:
        if self.refused:
            return f"not fixed: {self.where}: {self.refused}"
        return f"fixed: {self.where}: {'; '.join(self.changes)} (before: {self.kept})"


def mend(
    where: str, folder: Path, frames: Sequence[Frame], fits: Mapping[str, Fit], unexplained: Sequence[str] = ()
) -> Mended:
    """Write a sequence's capture.json as the conventions that fit say, if that is sure; nothing else is touched.

    Parameters
    ----------
    where : str
        Subject and sequence.
    folder : Path
        Of the sequence.
    frames : sequence of Frame
        Some of it, on which the new cameras are tried before anything is written.
    fits : mapping of camera name to Fit
        What was found of its cameras.
    unexplained : sequence of str
        Cameras that contradict their pictures too, and nothing fits: a rig is mended as a whole.

    Raises
    ------
    CanonfaceError
        If the file cannot be read or written; the old one is whole then.
    """
    unsure = [f"{name} ({fit.convention.words})" for name, fit in fits.items() if not fit.sure]
    if unsure:
        return Mended(where, refused=f"what fits is not sure of {_listed(unsure)}; {_why_unsure(fits)}")
    if unexplained:
        return Mended(where, refused=f"nothing fits {_cameras(unexplained)}, and a rig is mended as a whole")
    path = folder / CAPTURE_FILE
    if path.is_symlink():
        return Mended(where, refused=f"{path} is a link; correct the file that it leads to")
    old = path.read_bytes()
    content = read_json(path)
    capture = parsed_capture(without_notes(content), str(path))
    try:
        changes = _change(content, capture, fits, str(path))
        rig = parsed_capture(without_notes(content), str(path)).recorded(str(path))
    except InputError as error:
        return Mended(where, refused=str(error))
    worse = _worse(frames, rig, fits)
    if worse and any(map(_is_exchanged, fits.values())):
        worse += ". Masks and images contradict each other: exchange the pictures themselves"
    if worse:
        return Mended(where, refused=worse)
    content["_fixed"] = [*_notes(content.get("_fixed")), *changes]
    kept = _keep(path, old)
    atomic_write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return Mended(where, tuple(changes), kept=kept.name)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _why_unsure(fits: Mapping[str, Fit]) -> str:
    if any(fit.shift_px is not None for fit in fits.values()):
        return "a crop measured in pictures is not exact: take its corner from the principal points by hand"
    if any(not fit.convention.fixable for fit in fits.values()):
        return "other cameras would not mend it"
    return "another convention fits nearly as well: say it by hand"


def _notes(earlier: object) -> list[str]:
    return [str(line) for line in earlier] if isinstance(earlier, list) else [str(earlier)] if earlier else []


def _change(content: dict[str, Any], capture: CaptureFile, fits: Mapping[str, Fit], name: str) -> list[str]:
    """Change the content of a capture.json in place; return what was changed, in words."""
    unit = _shared_unit(capture, fits)
    if unit is not None:
        content["camera_unit"] = unit
        if unit == capture.unit:
            del content["camera_unit"]
        return [f"the cameras' unit is {unit}, {_figure(fits)}"]
    recorded = {one.camera.name: one for one in capture.recorded(name)}
    for camera in fits:
        if recorded[camera].poses or not recorded[camera].lens.is_straight:
            raise InputError(
                f"camera {camera} has `{'poses' if recorded[camera].poses else 'distortion'}`, which stay as they are",
                "K and world_to_camera that are the pictures' own",
                "Correct its calibration by hand",
            )
    given = {name: one.camera for name, one in recorded.items()}
    exchanged = {one: fit.convention.key.removeprefix(EXCHANGED) for one, fit in fits.items() if _is_exchanged(fit)}
    if sorted(exchanged) != sorted(exchanged.values()):
        raise InputError(
            f"the pictures of {_listed(sorted(exchanged))} seem to be those of {_listed(sorted(exchanged.values()))}",
            "cameras that exchange their pictures among themselves",
            "Look at the pictures, and rename their folders",
        )
    entries = content["cameras"]
    if exchanged:
        before = dict(entries)
        for one, other in exchanged.items():
            entries[one] = before[other]
    scale = metres_per(capture.camera_unit or capture.unit, name)
    changes = dict[str, list[str]]()
    for one, fit in fits.items():
        what = fit.convention.words
        if one not in exchanged:
            entry, keys = entries[one], list[str]()
            if (fit.camera.K != given[one].K).any():
                K = fit.camera.K.copy()
                K[:2, 2] -= 0.5 - capture.pixel_center
                entry["K"] = _rounded(K)
                keys.append("K")
            if (fit.camera.world_to_camera != given[one].world_to_camera).any():
                E = fit.camera.world_to_camera.copy()
                E[:3, 3] /= scale
                entry["world_to_camera"] = _rounded(E)
                keys.append("world_to_camera")
            what = f"{' and '.join(keys)} (it was: {what})"
            if fit.shift_px is not None:
                what += ", moved by ({:+.0f}, {:+.0f}) pixels".format(*fit.shift_px)
        changes.setdefault(what, []).append(one)
    return [f"{_cameras(names)}: {what}, {_figure(fits, names)}" for what, names in changes.items()]


def _is_exchanged(fit: Fit) -> bool:
    return fit.convention.key.startswith(EXCHANGED)


def _shared_unit(capture: CaptureFile, fits: Mapping[str, Fit]) -> str | None:
    """Return the unit that all cameras' translations are in, where that alone is wrong, and all cameras are told."""
    keys = {fit.convention.key for fit in fits.values()}
    if set(fits) != set(capture.cameras) or len(keys) != 1:
        return None
    (key,) = keys
    if not key.startswith(_UNIT) or "+" in key:
        return None
    metres = METRES_PER_UNIT[capture.camera_unit or capture.unit] * float(key.removeprefix(_UNIT))
    near = [unit for unit, length in METRES_PER_UNIT.items() if abs(length / metres - 1) < UNIT_TOLERANCE]
    return near[0] if near else None


def _cameras(names: Sequence[str]) -> str:
    return f"camera{'s' if len(names) > 1 else ''} {_listed(names)}"


def _figure(fits: Mapping[str, Fit], names: Sequence[str] | None = None) -> str:
    chosen = [fits[name] for name in (names if names is not None else fits)]
    least = min(fit.score for fit in chosen)
    most = max(fit.given for fit in chosen)
    return (
        f"{least:.2f} or more instead of {most:.2f} or less"
        if len(chosen) > 1
        else f"{least:.2f} instead of {most:.2f}"
    )


def _rounded(matrix: np.ndarray[Any, Any]) -> list[list[float]]:
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in matrix + 0.0]


def _worse(frames: Sequence[Frame], rig: Sequence[RecordedCamera], fits: Mapping[str, Fit]) -> str:
    """Return what the pictures say against new cameras; empty if nothing."""
    recorded = {one.camera.name: one for one in rig}
    for frame in frames:
        cameras = tuple(recorded[c.name].at(frame.index) if c.name in fits else c for c in frame.cameras)
        found = examine(replace(frame, cameras=cameras), lambda _: False)
        against = {name: reason for name, reason in found.views.blind.items() if reason != NO_IMAGE}
        against |= found.views.wrong
        for name in fits:
            if name in against:
                return f"with what fits, {against[name].rstrip('.')}"
    return ""


def _keep(path: Path, data: bytes) -> Path:
    """Keep the bytes of a file under the first name that is free beside it."""
    with storage_errors(f"writing {path}{BEFORE.removeprefix(CAPTURE_FILE)}"):
        for number in count(1):
            kept = path.with_name(BEFORE if number == 1 else f"{BEFORE}-{number}")
            with suppress(FileExistsError), open(kept, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                break
        fsync_path(path.parent)
    return kept


def settle_fits(found: Mapping[str, Sequence[Fit]]) -> dict[str, Fit]:
    """Join what was found of cameras in several frames: of each camera what most say, sure if all say the same."""
    out = {}
    for name, fits in found.items():
        keys = [fit.convention.key for fit in fits]
        key = max(sorted(set(keys)), key=keys.count)
        chosen = next(fit for fit in fits if fit.convention.key == key)
        same = all(figures(fit.camera) == figures(chosen.camera) for fit in fits)
        out[name] = replace(chosen, sure=chosen.sure and same and all(fit.sure for fit in fits))
    return out
