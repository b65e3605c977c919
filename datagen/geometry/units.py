"""Length units a user may declare."""

from __future__ import annotations

from datagen.common.errors import InputError

METRES_PER_UNIT = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "in": 0.0254}


def metres_per(unit: str, name: str) -> float:
    """Return the length of ``unit`` in metres; ``name`` says what declared it.

    Raises
    ------
    InputError
        If the unit is unknown.
    """
    if unit not in METRES_PER_UNIT:
        raise InputError(
            f"{name} declares the unit {unit!r}",
            f"one of {', '.join(METRES_PER_UNIT)}",
            "Declare the unit its coordinates are in",
        )
    return METRES_PER_UNIT[unit]
