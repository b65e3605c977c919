"""Recorded ARKit motion, resampled in true time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.errors import InputError
from datagen.sources.simulation.motion import plain_name

F64 = npt.NDArray[np.float64]
MOTION_FILE = Path("arkit_motion") / "motion.npz"
# Golden-ratio steps spread the subjects' start times evenly, however many there are.
START_STEP = 0.6180339887498949


def arkit_curves(root: Path, names: Sequence[str], times_s: F64, subject: int) -> F64:
    """Return recorded expression weights for a head, (T, len(names)) float64 in [0, 1].

    The recording's time comes from its frame counter, which jumps where frames were lost; in between, weights are
    interpolated linearly. Time runs to and fro over the recording, from another start for each subject.

    Parameters
    ----------
    root : Path
        Folder that holds ``arkit_motion/motion.npz`` with ``weights`` (T, C), ``frame_numbers`` (T,), ``fps``,
        ``to_ict`` (C, E) and ``ict_expression_names`` (E,).
    names : sequence of str
        The head's expression names; those the recording lacks stay 0.
    times_s : (T,) float64
    subject : int
        Index of the subject.

    Raises
    ------
    InputError
        If the file is missing or is no such recording.
    """
    path = Path(root) / MOTION_FILE
    try:
        with np.load(path, allow_pickle=False) as archive:
            weights = archive["weights"] @ archive["to_ict"]
            recorded = (archive["frame_numbers"] - archive["frame_numbers"][0]) / float(archive["fps"])
            columns = [plain_name(str(name)) for name in archive["ict_expression_names"]]
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist",
            "the recorded motion",
            "Set source.root to the folder with arkit_motion/, or source.motion to procedural",
        ) from None
    except Exception as error:  # numpy and zipfile raise many kinds on broken or other files
        raise InputError(f"{path} cannot be read ({error!r})", "a recorded ARKit motion", "Copy it again") from None
    span = float(recorded[-1])
    phase = (np.asarray(times_s) + START_STEP * span * subject * 2) % (2 * span)
    at = np.where(phase <= span, phase, 2 * span - phase)
    source = {name: k for k, name in enumerate(columns)}
    curves = np.zeros((len(times_s), len(names)))
    for k, name in enumerate(names):
        plain = plain_name(name)
        # Where the recording has two sides and the head has one, the head gets their mean.
        sides = [source[n] for n in ((plain,) if plain in source else (plain + "left", plain + "right")) if n in source]
        if sides:
            curves[:, k] = np.interp(at, recorded, weights[:, sides].mean(axis=1))
    return np.clip(curves, 0, 1)
