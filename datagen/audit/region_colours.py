"""Labels and colours of the regions, for legends of pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from datagen.audit import pictures
from datagen.heads.regions import REGIONS


def region_colours() -> dict[str, list[Any]]:
    """Return label, red, green and blue (0 to 255) of each region, by its name in words."""
    labels = np.array(list(REGIONS.values()))
    colours = np.nan_to_num(pictures.label_colours(labels), nan=0.6)
    return {
        name.replace("_", " "): [int(label), *(round(255 * float(c)) for c in rgb)]
        for (name, label), rgb in zip(REGIONS.items(), colours, strict=True)
    }
