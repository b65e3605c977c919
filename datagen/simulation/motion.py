"""Motion of simulated faces: smooth random expressions and poses, or recorded ARKit blendshapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.common.files import read_npz

# Groups of ARKit actions that go together; a name without side stands for both sides. Heads lacking a name pass
# over it. Mouth and brow groups follow one another on two tracks, so that no face smiles and puckers at once.
MOUTH_TRACK: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.7},
    {"mouthSmile": 0.85, "cheekSquint": 0.6},
    {"mouthSmile": 0.7, "jawOpen": 0.35, "mouthUpperUp": 0.3, "cheekSquint": 0.5},
    {"mouthPucker": 0.8},
    {"mouthFunnel": 0.7, "jawOpen": 0.25},
    {"mouthFrown": 0.7, "mouthShrugLower": 0.4},
    {"mouthStretch": 0.6, "jawOpen": 0.2},
    {"mouthUpperUp": 0.6, "mouthLowerDown": 0.6, "noseSneer": 0.4},
    {"cheekPuff": 0.6, "mouthPress": 0.4},
    {"mouthRollLower": 0.6, "mouthRollUpper": 0.4},
    {"mouthDimple": 0.6, "mouthPress": 0.3},
    {"jawLeft": 0.5, "jawOpen": 0.25},
    {"jawRight": 0.5, "mouthRight": 0.4},
)
BROW_TRACK: tuple[dict[str, float], ...] = (
    {"browInnerUp": 0.8, "browOuterUp": 0.8, "eyeWide": 0.4},
    {"browInnerUp": 0.7},
    {"browDown": 0.8, "eyeSquint": 0.4},
    {"eyeSquint": 0.7, "cheekSquint": 0.3},
    {"noseSneer": 0.6, "browDown": 0.5},
)
BLINK: dict[str, float] = {"eyeBlink": 1.0}
EVENT_SPACING_S = 0.5
BLINK_SPACING_S = 1.8
MAX_ROTATION_DEG = 15.0
MAX_TRANSLATION_M = 0.02


def plain_name(name: str) -> str:
    """Return an expression's name in one spelling: ``mouthSmile_L``, ``mouthSmileLeft`` → ``mouthsmileleft``."""
    spelt = re.sub(r"_L$", "Left", name)
    return re.sub(r"_R$", "Right", spelt).replace("_", "").lower()


def expression_curves(names: Sequence[str], times_s: F64, rng: np.random.Generator) -> F64:
    """Draw smooth expression weights.

    Parameters
    ----------
    names : sequence of str
        The head's expression names.
    times_s : (T,) float64
    rng : numpy Generator

    Returns
    -------
    (T, len(names)) float64 in [0, 1]
        A continuous function of time: the same generator state gives the same curve however it is sampled, if the
        span of time is the same.
    """
    columns = {plain_name(name): k for k, name in enumerate(names)}
    rest = np.ones((len(times_s), len(names)))
    start, end = float(times_s[0]) - EVENT_SPACING_S, float(times_s[-1]) + EVENT_SPACING_S
    for track, spacing, width in (
        (MOUTH_TRACK, EVENT_SPACING_S, (0.16, 0.26)),
        (BROW_TRACK, 1.5 * EVENT_SPACING_S, (0.16, 0.3)),
        ((BLINK,), BLINK_SPACING_S, (0.07, 0.09)),
    ):
        centre = start + float(rng.uniform(0, spacing))
        while centre < end:
            group = track[int(rng.integers(len(track)))]
            strength = float(rng.uniform(0.55, 1.0))
            lean = float(np.clip(rng.normal(0, 0.12), -0.3, 0.3))  # nobody is quite symmetric
            bump = np.exp(-0.5 * ((times_s - centre) / float(rng.uniform(*width))) ** 2)
            for action, weight in group.items():
                for side, share in (("", 1.0), ("left", 1 + min(lean, 0)), ("right", 1 - max(lean, 0))):
                    column = columns.get(action.lower() + side)
                    if column is not None:
                        rest[:, column] *= 1 - weight * strength * share * bump
            centre += spacing * float(rng.uniform(0.8, 1.3))
    # Overlapping bumps of one action saturate instead of adding up beyond 1.
    return 1 - rest


def head_poses(times_s: F64, rng: np.random.Generator) -> F64:
    """Draw a smooth rigid motion about the origin, (T, 4, 4) float64 metres.

    Rotations stay within 15° (about the vertical axis most), translations within 2 cm.
    """
    share = np.array([0.45, 0.8, 0.3])  # nod, turn, tilt: their norm stays below 1
    rotation = np.stack([_wander(times_s, rng) for _ in range(3)], axis=1) * share * np.deg2rad(MAX_ROTATION_DEG)
    translation = np.stack([_wander(times_s, rng) for _ in range(3)], axis=1) * MAX_TRANSLATION_M / np.sqrt(3)
    poses = np.tile(np.eye(4), (len(times_s), 1, 1))
    poses[:, :3, :3] = _rotations(rotation)
    poses[:, :3, 3] = translation
    return poses


def _wander(times_s: F64, rng: np.random.Generator) -> F64:
    """Return a slow smooth function of time within [-1, 1]."""
    frequency_hz = rng.uniform([0.1, 0.3], [0.3, 0.7])
    phase = rng.uniform(0, 2 * np.pi, 2)
    weight = float(rng.uniform(0.6, 0.9))
    waves = np.sin(2 * np.pi * frequency_hz * times_s[:, None] + phase)
    return np.asarray(weight * waves[:, 0] + (1 - weight) * waves[:, 1])


def _rotations(vectors: F64) -> F64:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(vectors).as_matrix())


MOTION_FILE = Path("arkit_motion") / "motion.npz"
MOTION_ARRAYS = ("weights", "to_ict", "frame_numbers", "fps", "ict_expression_names")
# Golden-ratio steps spread the subjects' start times evenly, however many there are.
START_STEP = 0.6180339887498949


def arkit_curves(root: Path, names: Sequence[str], times_s: F64, subject: int) -> F64:
    """Return recorded expression weights for a head, (T, len(names)) float64 in [0, 1].

    The recording's time comes from its frame counter, which jumps where frames were lost; in between, weights are
    interpolated linearly. Time runs to and fro over the recording, from another start for each subject.

    Parameters
    ----------
    root : Path
        Folder that holds ``arkit_motion/motion.npz`` with ``weights`` (T, C), ``frame_numbers`` (T,), ``fps``,
        ``to_ict`` (C, E) and ``ict_expression_names`` (E,).
    names : sequence of str
        The head's expression names; those the recording lacks stay 0.
    times_s : (T,) float64
    subject : int
        Index of the subject.

    Raises
    ------
    InputError
        If the file is missing or is not such a recording.
    """
    path = Path(root) / MOTION_FILE
    if not path.exists():
        raise InputError(
            f"{path} does not exist",
            "the recorded motion",
            "Set source.root to the folder with arkit_motion/, or source.motion to procedural",
        )
    archive = read_npz(path, MOTION_ARRAYS, expected="a recorded ARKit motion", fix="Copy it again")
    try:
        weights = archive["weights"] @ archive["to_ict"]
        recorded = (archive["frame_numbers"] - archive["frame_numbers"][0]) / float(archive["fps"])
        columns = [plain_name(str(name)) for name in archive["ict_expression_names"]]
    except (ValueError, TypeError, IndexError) as error:  # arrays of other shapes or types
        raise InputError(f"{path} cannot be read ({error})", "a recorded ARKit motion", "Copy it again") from None
    span = float(recorded[-1])
    phase = (np.asarray(times_s) + START_STEP * span * subject * 2) % (2 * span)
    at = np.where(phase <= span, phase, 2 * span - phase)
    source = {name: k for k, name in enumerate(columns)}
    curves = np.zeros((len(times_s), len(names)))
    for k, name in enumerate(names):
        plain = plain_name(name)
        # Where the recording has two sides and the head has one, the head gets their mean.
        sides = [source[n] for n in ((plain,) if plain in source else (plain + "left", plain + "right")) if n in source]
        if sides:
            curves[:, k] = np.interp(at, recorded, weights[:, sides].mean(axis=1))
    return np.clip(curves, 0, 1)
