"""From a warp to its row of a dataset's frame table."""

from __future__ import annotations

import numpy as np

from datagen.common.errors import InputError
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.shards.faces import FrameRow
from datagen.warp.confidence import PERSON_SPREAD_MM
from datagen.warp.result import Warp


def frame_row(warp: Warp, head: HeadModel, *, subject: str, sequence: str, frame: int, time_s: float) -> FrameRow:
    """Return the row of the frame table for one warped frame.

    The vertices are the template's own, not those of the subdivided template that the warp moves: the first of these,
    which lie where subdivision takes the template's corners, on the skin. A sequence's person, from whom a frame may
    begin, is as wrong as a face moves beyond it, which the frame's own spread lacks and is added here.

    Parameters
    ----------
    head : HeadModel
        The model that the warp was made with.

    Raises
    ------
    InputError
        If the warp is of another head model, or holds no spread or parameters.
    """
    V = len(head.template.vertices)
    sizes = head.identity_size, len(head.expression_names)
    given = len(warp.parameters.identity), len(warp.parameters.expression)
    if len(warp.registered_vertices) < V or len(warp.spread_m) != len(warp.registered_vertices) or given != sizes:
        raise InputError(
            f"the warp of {subject}/{sequence}/{frame:06d} has {len(warp.registered_vertices)} registered vertices, "
            f"{len(warp.spread_m)} spreads, {given[0]} identity and {given[1]} expression parameters",
            f"at least {V} vertices with a spread each, {sizes[0]} and {sizes[1]} parameters of {head.template.name!r}",
            "Warp the frame again",
        )
    R, t = warp.head_to_world[:3, :3], warp.head_to_world[:3, 3]
    spread_m = warp.spread_m[:V]
    if warp.verdict.metrics.get("person_used"):
        spread_m = np.hypot(spread_m, PERSON_SPREAD_MM / MM_PER_M / np.sqrt(3))
    return FrameRow(
        vertices=((warp.registered_vertices[:V] - t) @ R).astype(np.float32),
        spread_m=spread_m.astype(np.float32),
        identity=warp.parameters.identity,
        expression=warp.parameters.expression,
        model_to_head=warp.parameters.model_to_head.astype(np.float32),
        parameter_rms_mm=warp.parameters.rms_mm,
        head_to_world=warp.head_to_world.astype(np.float32),
        subject=subject,
        sequence=sequence,
        frame=frame,
        time_s=time_s,
        verdict=warp.verdict.status,
    )
