"""Fits that look at the pictures again: where the skin is about what was fitted, and another fit that knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from datagen.common.arrays import F64
from datagen.common.blas import one_blas_thread
from datagen.common.errors import CanonfaceError, raise_if_passing
from datagen.fit.figures import disagreeing_cameras
from datagen.fit.problem import DEFAULTS, Fit, FitFrame, FitSettings
from datagen.fit.solver import FrameFit
from datagen.fit.stereo import Stereo, StereoView
from datagen.heads.base import HeadModel
from datagen.render.registry import make_renderer
from datagen.sources.frame import Captures, SequenceKey
from datagen.warp.template import WarpTemplate

# How far to either side the skin is looked for (at first it may be millimetres off), and in how many texels at most.
LOOKS = ((8e-3, 160), (3e-3, 384))


def fit_pictures(
    head: HeadModel,
    template: WarpTemplate,
    frames: Sequence[FitFrame],
    views: Callable[[int], Sequence[StereoView]],
    settings: FitSettings = DEFAULTS,
    *,
    neutral: F64 | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[Fit, list[FitFrame]]:
    """Fit one person to what cameras saw; look where the skin is, and fit again, twice.

    Pictures are not looked at unless :attr:`FitSettings.compares`.

    Parameters
    ----------
    views : function of a frame's number
        Returns what its cameras show. Asked once for each look, so that one frame's pictures are in memory at a time.

    Returns
    -------
    fit : Fit
    frames : list of FitFrame
        With where the skin was found.

    Other parameters, and errors, are those of :func:`datagen.fit.solver.fit_frames`.
    """
    with one_blas_thread():
        solver = FrameFit(head, template, frames, settings, neutral)
        fit = solver.run(advance)
        known = list(frames)
        if not settings.compares:
            return fit, known
        stereo = Stereo(head.template, make_renderer("numba"))
        for reach_m, texels in LOOKS:
            wrong = disagreeing_cameras(fit)
            for k, fitted in enumerate(fit.frames):
                agreeing = [view for view in views(fitted.index) if view.camera.name not in wrong]
                skin = stereo.skin(fitted.vertices, agreeing, reach_m, texels)
                # Noise hides in fine textures what coarse ones show: what was found before stays.
                known[k] = replace(known[k], skin=skin or known[k].skin)
            if all(frame.skin is None for frame in known):
                break
            before, solver = solver, FrameFit(head, template, known, settings, neutral)
            solver.go_on_from(before)
            fit = solver.run(advance)
    return fit, known


def captured_views(
    captures: Captures, key: SequenceKey, tell: Callable[[str], object] = lambda _: None
) -> Callable[[int], list[StereoView]]:
    """Return what reads the pictures of a sequence's frames, with their masks.

    Parameters
    ----------
    tell : function of str
        Is told why a picture cannot be read, each time that it is asked for; it then says nothing of the skin.
    """

    def read(index: int) -> list[StereoView]:
        frame = captures.frame(key, index)
        found = []
        for camera in frame.cameras:
            if camera.name not in frame.images:
                continue
            try:
                mask = frame.masks[camera.name]() if camera.name in frame.masks else None
                found.append(StereoView(camera, frame.images[camera.name](), mask))
            except CanonfaceError as error:
                raise_if_passing(error)
                tell(str(error))
        return found

    return read
