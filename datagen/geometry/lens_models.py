"""Lens models by the name that a capture file gives them, and the lenses that their numbers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datagen.common.errors import CameraError
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens, TsaiLens

Numbers = Sequence[float]

_MOST_TERMS = 8


@dataclass(frozen=True)
class _Model:
    counts: tuple[int, ...]
    order: str
    make: Callable[[Numbers], Lens]


def _opencv(p: Numbers) -> Lens:
    k1, k2, p1, p2, k3, k4, k5, k6 = (*p, 0.0, 0.0, 0.0, 0.0)[:8]
    divisor = (k4, k5, k6) if any((k4, k5, k6)) else ()
    return BrownLens((k1, k2, k3) if k3 else (k1, k2), divisor, (p1, p2))


def _metashape(p: Numbers) -> Lens:
    k1, k2, k3, k4, p1, p2 = p
    # Its p1 and p2 are OpenCV's p2 and p1.
    return BrownLens((k1, k2, k3, k4), (), (p2, p1))


_MODELS = {
    "opencv": _Model((4, 5, 8, 12, 14), "k1, k2, p1, p2, k3, k4, k5, k6", _opencv),
    "opencv_fisheye": _Model((1, 2, 3, 4), "k1, k2, k3, k4", lambda p: FisheyeLens(tuple(p))),
    "radial": _Model(tuple(range(1, _MOST_TERMS + 1)), "k1, k2, k3, …", lambda p: BrownLens(tuple(p))),
    "metashape": _Model((6,), "k1, k2, k3, k4, p1, p2", _metashape),
    "tsai": _Model(tuple(range(1, _MOST_TERMS + 1)), "k1, k2, …", lambda p: TsaiLens(tuple(p))),
}
LENS_MODELS = tuple(_MODELS)


def lens_of(model: str, parameters: Numbers, name: str) -> Lens:
    """Return the lens that a model's parameters describe.

    Parameters
    ----------
    model : str
        One of :data:`LENS_MODELS`.
    parameters : sequence of float
        In the model's order. OpenCV's may be 12 or 14, if those beyond the eighth (thin prism, tilt) are 0.
    name : str
        Of the camera, for messages.

    Raises
    ------
    CameraError
        If the model is unknown, or has other parameters.
    """
    known = _MODELS.get(model)
    if known is None:
        raise CameraError(
            f"camera {name} has the distortion model {model!r}",
            f"one of {', '.join(LENS_MODELS)}",
            "Straighten its pictures with the program that calibrated it, and leave `distortion` out",
        )
    if len(parameters) not in known.counts:
        raise CameraError(
            f"camera {name}: its distortion has {len(parameters)} parameters",
            f"{_listed(known.counts)} of the model {model}: {known.order}",
            "Check model and parameters",
        )
    if any(parameters[8:]):
        raise CameraError(
            f"camera {name} has a thin prism or a tilted sensor ({', '.join(f'{k:g}' for k in parameters[8:])})",
            f"{known.order}, and 0 for any others",
            "Calibrate it without these (OpenCV: without CALIB_THIN_PRISM_MODEL and CALIB_TILTED_MODEL)",
        )
    return known.make([float(k) for k in parameters])


def model_of(lens: Lens) -> tuple[str, list[float]]:
    """Return model and parameters of which :func:`lens_of` makes this very lens.

    Raises
    ------
    CameraError
        If none of the models has them all.
    """
    match lens:
        case FisheyeLens(coefficients) if len(coefficients) <= 4:
            return "opencv_fisheye", [*coefficients, *[0.0] * (0 if coefficients else 1)]
        case TsaiLens(radial) if 0 < len(radial) <= _MOST_TERMS:
            return "tsai", list(radial)
        case BrownLens(radial, divisor, (p1, p2)) if len(radial) <= 3 and len(divisor) <= 3:
            k1, k2, k3 = (*radial, 0.0, 0.0, 0.0)[:3]
            if not any(divisor):
                return "opencv", [k1, k2, p1, p2, k3]
            return "opencv", [k1, k2, p1, p2, k3, *(*divisor, 0.0, 0.0, 0.0)[:3]]
        case BrownLens(radial, divisor, (p1, p2)) if len(radial) == 4 and not any(divisor):
            return "metashape", [*radial, p2, p1]
        case BrownLens(radial, divisor, (0.0, 0.0)) if len(radial) <= _MOST_TERMS and not any(divisor):
            return "radial", list(radial)
    raise CameraError(
        f"{lens} is of no model that a capture file names",
        f"one of {', '.join(LENS_MODELS)}",
        "Straighten the pictures",
    )


def _listed(counts: Sequence[int]) -> str:
    head = ", ".join(map(str, counts[:-1]))
    return f"{head} or {counts[-1]}" if head else str(counts[0])
