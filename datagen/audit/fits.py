"""What the report says of heads that were fitted to pictures, sequence by sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from datagen.common.errors import CanonfaceError
from datagen.fit.figures import disagreement_text
from datagen.fit.stored import FIT_FILE, FitTold
from datagen.layout import BuildLayout

SHOWN_REASONS = 3


def fit_rows(layout: BuildLayout) -> list[dict[str, Any]]:
    """Return a row for each sequence that a head was fitted to, those with something to say first.

    Returns
    -------
    list of dict
        ``name``, ``fitted`` and ``left_out`` (numbers of frames), ``by`` (who told where points are), ``spread_mm``,
        ``reprojection_px``, ``disagreement`` and ``skin_points`` (medians of the frames; None without any), and
        ``said``, sentences.
    """
    rows = []
    for path in sorted(layout.fits.glob(f"*/*/{FIT_FILE}")):
        name = f"{path.parent.parent.name}/{path.parent.name}"
        try:
            rows.append(_row(name, FitTold.read(path)))
        except CanonfaceError as error:
            rows.append(_row(name, FitTold(problem=str(error))))
    return sorted(rows, key=lambda row: (not row["said"], row["name"]))


def _row(name: str, told: FitTold) -> dict[str, Any]:
    figures = list(told.frames.values())
    medians = {
        key: float(np.median([getattr(one, key) for one in figures])) if figures else None
        for key in ("spread_mm", "reprojection_px", "disagreement", "skin_points")
    }
    said = [told.problem] if told.problem else []
    said += [disagreement_text(camera, scale) for camera, scale in told.disagreeing.items()]
    said += [f"camera {camera} has the focal length {length:.1f} px" for camera, length in told.focal_px.items()]
    said += told.remarks
    said += [f"frame {index} is left out: {why}" for index, why in list(told.left_out.items())[:SHOWN_REASONS]]
    if len(told.left_out) > SHOWN_REASONS:
        said.append(f"and {len(told.left_out) - SHOWN_REASONS} more frames")
    return {
        "name": name,
        "fitted": len(figures),
        "left_out": len(told.left_out),
        "by": ", ".join(told.who),
        **medians,
        "said": said,
    }
