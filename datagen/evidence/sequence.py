"""How the person of a sequence looks, learnt from its keyframes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datagen.common.arrays import F64
from datagen.common.errors import InputError, raise_if_passing
from datagen.evidence.look import TextureLook
from datagen.evidence.texture import Appearance, learn_appearance
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel
from datagen.manifest import WarpConfig
from datagen.sources.frame import Frame
from datagen.warp.engine import register_frame
from datagen.warp.personal import SequencePrior

# The second look sees keyframes where the first has put them, which makes the average sharper.
LOOKS = 2


def fit_appearance(
    look: TextureLook,
    head: HeadModel,
    prior: SequencePrior,
    frames: Sequence[int],
    read: Callable[[int], Frame],
    config: WarpConfig,
) -> Appearance | None:
    """Learn how a person looks from the keyframes that the person was learnt from.

    Keyframes are registered as the person, unwrapped and averaged; registered again with what that says of each, and
    averaged once more. Their registrations err apart, so that the average is nearer the truth than each.

    Parameters
    ----------
    frames : sequence of int
        Keyframes.
    read : function of a frame number
        Raises :class:`datagen.common.errors.InputError` for a broken frame, which is passed over.

    Returns
    -------
    Appearance or None
        None if no keyframe has pictures of the face.
    """
    shown: list[Frame] = []
    pixels: list[Sequence[PixelEvidence]] = []
    for index in frames:
        try:
            frame = read(index)
            given = frame.evidence
        except InputError as error:
            raise_if_passing(error)
            continue
        if frame.images:
            shown.append(frame)
            pixels.append(given)
    appearance = None
    for last in range(LOOKS):
        placed = []
        for frame, seen in zip(shown, pixels, strict=True):
            try:
                placed.append((frame, template_vertices(frame, head, config, prior, seen)))
            except InputError as error:
                raise_if_passing(error)
                continue
        appearance = learn_appearance(
            picture for frame, vertices in placed for picture in look.pictures(frame, vertices)
        )
        if not appearance.textures:
            return None
        if last + 1 < LOOKS:
            shown = [frame for frame, _ in placed]
            pixels = [(*frame.evidence, *look.evidence(frame, vertices, appearance)) for frame, vertices in placed]
    return appearance


def template_vertices(
    frame: Frame,
    head: HeadModel,
    config: WarpConfig,
    prior: SequencePrior | None,
    pixels: Sequence[PixelEvidence],
) -> F64:
    """Return where a frame's registration puts the template's own vertices, (V, 3) float64 world metres.

    Raises
    ------
    InputError
        As :func:`datagen.warp.engine.register_frame`.
    """
    found = register_frame(
        frame.scan,
        head,
        config,
        registration=frame.registration,
        landmarks=frame.landmarks,
        prior=prior,
        pixels=pixels,
    )
    return found.vertices[: len(head.template.vertices)]
