"""What the frames of one sequence share: a person, learnt once from a few of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from datagen.common.blas import one_blas_thread
from datagen.common.errors import InputError
from datagen.heads.base import HeadModel
from datagen.manifest import WarpConfig
from datagen.sources.frame import Frame
from datagen.warp.engine import register_frame
from datagen.warp.personal import Keyframe, SequencePrior, learn_neutral
from datagen.warp.template import prepare_template

KEYFRAMES = 10
# With fewer there is nothing to average, and no time to be consistent over.
FEWEST_FRAMES = 3


@one_blas_thread()
def fit_sequence(
    head: HeadModel, frames: Sequence[int], read: Callable[[int], Frame], config: WarpConfig
) -> SequencePrior | None:
    """Learn a person from keyframes spread evenly over a sequence.

    Each keyframe is registered by itself; what they agree on is the person's neutral shape. It does not depend on the
    order in which frames are warped later, so a build that is killed and resumed ends in the same bytes.

    Parameters
    ----------
    frames : sequence of int
        Frame numbers in order of time.
    read : function of a frame number
        Raises :class:`datagen.common.errors.InputError` for a broken frame, which is passed over.

    Returns
    -------
    SequencePrior or None
        None if fewer than three frames can be registered.
    """
    if len(frames) < FEWEST_FRAMES:
        return None
    template = prepare_template(head.template, config.subdivisions)
    keyframes = []
    for index in keyframes_of(frames):
        try:
            frame = read(index)
            found = register_frame(frame.scan, head, config, registration=frame.registration, landmarks=frame.landmarks)
        except InputError:
            continue
        keyframes.append(Keyframe(index, found.vertices, found.anchored))
    return learn_neutral(head, template, keyframes) if len(keyframes) >= FEWEST_FRAMES else None


def keyframes_of(frames: Sequence[int]) -> tuple[int, ...]:
    """Return at most :data:`KEYFRAMES` frame numbers spread evenly, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(KEYFRAMES, len(frames))).round().astype(int))
    return tuple(frames[k] for k in chosen)
