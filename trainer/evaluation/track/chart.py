"""Which part of a template is its outer skin: the chart of its texture that holds the face."""

from __future__ import annotations

import numpy as np

from datagen.common.arrays import F64, Bools
from datagen.shards.faces import TemplateContents


def main_chart(template: TemplateContents, weight: F64) -> Bools:
    """Return which triangles lie on the chart of UV space that holds most of the weight."""
    chart = np.arange(len(template.uv))
    while True:  # every corner takes the least number of its triangle's, until none changes
        least = chart[template.uv_faces].min(1)
        new = chart.copy()
        for corner in range(3):
            np.minimum.at(new, template.uv_faces[:, corner], least)
        new = new[new]
        if (new == chart).all():
            break
        chart = new
    of_face = chart[template.uv_faces[:, 0]]
    heaviest = np.bincount(of_face, weight[template.faces].sum(1)).argmax()
    kept: Bools = of_face == heaviest
    return kept
