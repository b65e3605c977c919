"""What the frames of one sequence share: a person, learnt once from a few of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datagen.common.arrays import F64
from datagen.common.blas import one_blas_thread
from datagen.common.errors import InputError, raise_if_passing
from datagen.heads.base import HeadModel
from datagen.manifest import WarpConfig
from datagen.sources.frame import Frame
from datagen.warp.engine import Registered, register_frame
from datagen.warp.personal import Keyframe, SequencePrior, learn_neutral
from datagen.warp.personal_fit import disagreement_m, fit_person, score
from datagen.warp.personal_marks import learn_places
from datagen.warp.posterior import ShapeFit
from datagen.warp.similarity import fit_similarity_robust
from datagen.warp.template import WarpTemplate, prepare_template

KEYFRAMES = 10
# With fewer there is nothing to average, and no time to be consistent over.
FEWEST_FRAMES = 3
# How often amplitude and landmarks' scatter are learnt from a fit that used the last ones.
SECOND_LOOKS = 2
AMPLITUDE_RANGE = (0.2, 2.0)
# Scans that agree better than this are below their own noise.
LEAST_USUAL_M = 0.1e-3


@dataclass(frozen=True, eq=False)
class _Seen:
    """A keyframe as it was given, and registered by itself."""

    frame: Frame
    alone: Registered


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
    looks = (_registered(head, index, read, config) for index in keyframes_of(frames))
    seen = [look for look in looks if look is not None]
    if len(seen) < FEWEST_FRAMES:
        return None
    return _learn(head, template, seen)


@one_blas_thread()
def fit_keyframe(head: HeadModel, index: int, read: Callable[[int], Frame], config: WarpConfig) -> SequencePrior | None:
    """Do with one keyframe, taken several times over, all that :func:`fit_sequence` does with each.

    What comes of it is nobody's neutral shape: it shows whether the keyframe can be learnt from at all.
    """
    seen = _registered(head, index, read, config)
    if seen is None:
        return None
    return _learn(head, prepare_template(head.template, config.subdivisions), [seen] * FEWEST_FRAMES)


def _registered(head: HeadModel, index: int, read: Callable[[int], Frame], config: WarpConfig) -> _Seen | None:
    """Register a keyframe by itself; None if it is broken."""
    try:
        frame = read(index)
        found = register_frame(
            frame.scan,
            head,
            config,
            registration=frame.registration,
            landmarks=frame.landmarks,
            pixels=frame.evidence,
        )
    except InputError as error:
        raise_if_passing(error)
        return None
    return _Seen(frame if config.use_registration else replace(frame, registration=None), found)


def _learn(head: HeadModel, template: WarpTemplate, seen: Sequence[_Seen]) -> SequencePrior | None:
    """Learn a person from keyframes, or None if they agree better with shapes of their own."""
    keyframes = [Keyframe(k.frame.index, k.alone.vertices, k.alone.anchored) for k in seen]
    marked = [(k.alone.vertices, k.frame.landmarks) for k in seen if k.frame.landmarks is not None]
    prior = replace(learn_neutral(head, template, keyframes), marks=learn_places(template, marked))
    for _ in range(SECOND_LOOKS):
        fits = [_fit(head, template, prior, k) for k in seen]
        prior = _looked_again(template, prior, seen, fits)
    return prior if _helps(template, prior, seen, fits) else None


def _fit(head: HeadModel, template: WarpTemplate, prior: SequencePrior, seen: _Seen) -> ShapeFit | None:
    given = seen.frame.registration
    tracked = None if given is None else np.asarray(given.vertices, np.float64)
    trust = None if given is None else given.trust
    return fit_person(
        head,
        template,
        prior,
        seen.alone.surface,
        tracked,
        trust,
        seen.frame.landmarks,
        pixels=seen.frame.evidence,
        pose=fit_similarity_robust(head.template.vertices, seen.alone.start.vertices),
        weigh=True,
    )


def _looked_again(
    template: WarpTemplate, prior: SequencePrior, seen: Sequence[_Seen], fits: Sequence[ShapeFit | None]
) -> SequencePrior:
    """Return the prior with what keyframes say of it: how far the face moves, and how far landmarks scatter."""
    known = [(k, fit) for k, fit in zip(seen, fits, strict=True) if fit is not None]
    if not known:
        return prior
    moved = sum(float((fit.coefficients**2).sum()) for _, fit in known)
    determined = sum(fit.determined for _, fit in known)
    # MacKay's fixed point for the scale of a prior.
    amplitude = float(np.clip(prior.amplitude * np.sqrt(moved / max(determined, 1.0)), *AMPLITUDE_RANGE))
    marks = prior.marks
    if marks is not None:
        marked = [(k.frame.landmarks, fit) for k, fit in known if k.frame.landmarks is not None]
        marks = marks.seen_again(template, marked)
    apart = np.array([_apart(template, replace(prior, marks=marks), k, fit.vertices) for k, fit in known])
    return replace(prior, amplitude=amplitude, marks=marks, usual_m=np.maximum(_typical(apart), LEAST_USUAL_M))


def _helps(
    template: WarpTemplate, prior: SequencePrior, seen: Sequence[_Seen], fits: Sequence[ShapeFit | None]
) -> bool:
    """Whether keyframes agree with the person, fitted to them, at least as well as with starts of their own.

    Each side is allowed its own constant offsets between places and landmarks.
    """
    alone = prior
    if prior.marks is not None:
        given = [(k.frame.landmarks, _as_fit(prior, k)) for k in seen if k.frame.landmarks is not None]
        alone = replace(prior, marks=prior.marks.seen_again(template, given))
    ours, own = [], []
    for k, fit in zip(seen, fits, strict=True):
        if fit is not None:
            ours.append(score(_apart(template, prior, k, fit.vertices), prior.usual_m))
            own.append(score(_apart(template, alone, k, k.alone.start.vertices), prior.usual_m))
    return not ours or float(np.median(ours)) <= float(np.median(own))


def _as_fit(prior: SequencePrior, seen: _Seen) -> ShapeFit:
    """Return the start that a keyframe had by itself, as a fit of the person without parameters."""
    start = seen.alone.start
    pose = fit_similarity_robust(prior.neutral, start.vertices, with_scale=False)
    return ShapeFit(pose, np.zeros(0), np.zeros((0, 3)), start.vertices, start.spread_m)


def _apart(template: WarpTemplate, prior: SequencePrior, seen: _Seen, vertices: F64) -> F64:
    return disagreement_m(template, prior, vertices, seen.alone.surface, seen.frame.landmarks)


def _typical(apart: F64) -> F64:
    """Return the median (2,) over frames (T, 2) of what is known."""
    known = [column[np.isfinite(column)] for column in apart.T]
    return np.array([np.median(column) if len(column) else np.nan for column in known])


def keyframes_of(frames: Sequence[int]) -> tuple[int, ...]:
    """Return at most :data:`KEYFRAMES` frame numbers spread evenly, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(KEYFRAMES, len(frames))).round().astype(int))
    return tuple(frames[k] for k in chosen)
