"""Skin, hair, lips and eyes of simulated subjects: colours fixed to canonical space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.errors import InputError
from datagen.heads.regions import REGIONS

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Linear RGB of the palest skin, and log absorption per unit of melanin and haemoglobin. Fitted by eye to the span of
# measured skin tones between very light and very dark (sRGB about 236,197,176 to 84,50,37).
PALE_SKIN = np.array([0.82, 0.60, 0.47])
MELANIN_ABSORPTION = np.array([2.0, 2.65, 3.0])
HAEMOGLOBIN_ABSORPTION = np.array([0.06, 0.42, 0.34])
# Blood near the surface, on top of the subject's own level.
REGION_HAEMOGLOBIN = {
    "cheeks": 0.2,
    "nose": 0.3,
    "right_ear": 0.4,
    "left_ear": 0.4,
    "right_eye": 0.2,
    "left_eye": 0.2,
    "chin": 0.1,
    "upper_lip": 1.3,
    "lower_lip": 1.15,
}
EYEBALLS = ("right_eyeball", "left_eyeball")
HARD_REGIONS = (*EYEBALLS, "mouth_interior")
UNKNOWN_GREY = 0.35
GLOSS = {"skin": 0.22, "lips": 0.5, "hair": 0.12, "eyeball": 1.0, "mouth": 0.75}
# Share of the eyeball's radius: iris 12 mm and pupil 4 mm across on an eyeball of 24 mm.
IRIS_RADIUS, PUPIL_RADIUS = 0.5, 0.19
# Half the free space between the brows, normalised units (about 6 mm).
BROW_GAP = 0.05


@dataclass(frozen=True)
class _Look:
    """What is drawn once per subject."""

    melanin: float
    haemoglobin: float
    hair: F64
    hair_cover: float
    stubble: float
    iris: F64
    freckles: float


def skin_albedo(canonical: npt.NDArray[np.floating], regions: npt.NDArray[np.integer], rng: np.random.Generator) -> F32:
    """Colour a subject's surface.

    Every colour is a function of canonical position, region and ``rng`` alone, and the number of draws does not
    depend on the points: the same generator state gives the same person on every frame and every sampling of the
    surface (up to the width of region borders).

    Parameters
    ----------
    canonical : (N, 3) float
        Normalised canonical coordinates; NaN where unknown (coloured grey).
    regions : (N,) int
        Labels of :data:`datagen.heads.regions.REGIONS`.
    rng : numpy Generator
        Seeded by the subject.

    Returns
    -------
    (N, 3) float32
        Linear RGB in [0, 1].

    Raises
    ------
    datagen.errors.InputError
        If the arrays disagree in length.
    """
    c, labels = np.asarray(canonical, np.float64), np.asarray(regions)
    if c.ndim != 2 or c.shape[1] != 3 or labels.shape != (len(c),):
        raise InputError(
            f"canonical has shape {c.shape} and regions {labels.shape}",
            "(N, 3) and (N,)",
            "Pass one label per canonical coordinate",
        )
    look, noise = _draw_look(rng), _NoiseBands(rng)
    known = np.isfinite(c).all(axis=1)
    albedo = np.full((len(c), 3), UNKNOWN_GREY, np.float32)
    if known.any():
        albedo[known] = _colour(c[known], labels[known], look, noise)
    return albedo


def skin_gloss(regions: npt.NDArray[np.integer]) -> F32:
    """Return how wet each vertex shines, (N,) float32: 0 matt to 1 wet."""
    gloss = np.full(len(regions), GLOSS["skin"], np.float32)
    for names, value in (
        (("upper_lip", "lower_lip"), GLOSS["lips"]),
        (("scalp", "brows"), GLOSS["hair"]),
        (EYEBALLS, GLOSS["eyeball"]),
        (("mouth_interior",), GLOSS["mouth"]),
    ):
        gloss[np.isin(regions, [REGIONS[name] for name in names])] = value
    return gloss


def _draw_look(rng: np.random.Generator) -> _Look:
    melanin = float(rng.beta(1.1, 1.5))
    # Fair hair and light eyes go with fair skin; dark skin almost always has dark hair and brown eyes.
    lightness = float(rng.uniform(0, 1)) ** 2 * max(0.0, 1 - 2.2 * melanin)
    dark, fair = np.array([0.018, 0.012, 0.009]), np.array([0.42, 0.27, 0.13])
    red = float(rng.uniform(0, 1)) ** 4 * max(0.0, 1 - 2.2 * melanin)
    hair = dark * (1 - lightness) + fair * lightness + red * np.array([0.16, 0.03, 0.0])
    brown, blue, green = np.array([0.09, 0.04, 0.018]), np.array([0.16, 0.27, 0.38]), np.array([0.17, 0.22, 0.11])
    draw = float(rng.uniform(0, 1))
    iris = brown if draw < 0.3 + 2 * melanin else (blue if rng.uniform() < 0.6 else green)
    bald, bearded = rng.uniform() < 0.12, rng.uniform() < 0.35
    return _Look(
        melanin=melanin,
        haemoglobin=float(rng.uniform(0.05, 0.6)),
        hair=hair,
        hair_cover=float(rng.uniform(0.15, 0.4)) if bald else float(rng.uniform(0.85, 1.0)),
        stubble=float(rng.uniform(0.15, 0.6)) if bearded else 0.0,
        iris=np.asarray(iris) * rng.uniform(0.7, 1.3),
        freckles=float(rng.uniform(0, 1)) ** 3 * max(0.0, 1 - 1.6 * melanin),
    )


class _NoiseBands:
    """Smooth random fields of canonical position: sums of random plane waves, one band per wavelength."""

    WAVES = 24
    # Wavelengths in normalised units; a head is about two units high, so 0.05 is roughly 7 mm.
    BANDS = (("broad", 0.5), ("blotch", 0.14), ("fine", 0.04), ("hair", 0.022))

    def __init__(self, rng: np.random.Generator) -> None:
        self._waves: dict[str, tuple[F32, F32]] = {}
        for name, wavelength in self.BANDS:
            direction = rng.normal(size=(3, self.WAVES))
            direction /= np.linalg.norm(direction, axis=0)
            frequency = 2 * np.pi / wavelength * rng.uniform(0.7, 1.4, self.WAVES)
            phase = rng.uniform(0, 2 * np.pi, self.WAVES)
            self._waves[name] = ((direction * frequency).astype(np.float32), phase.astype(np.float32))

    def __call__(self, name: str, points: npt.NDArray[np.floating]) -> F32:
        """Return noise of unit variance at points (N, 3), (N,) float32."""
        vectors, phase = self._waves[name]
        field = np.cos(points.astype(np.float32) @ vectors + phase).sum(axis=1)
        return np.asarray(field * np.sqrt(np.float32(2 / self.WAVES)), np.float32)


def _colour(c: F64, labels: npt.NDArray[np.integer], look: _Look, noise: _NoiseBands) -> F64:
    share = _soft_regions(c, labels)
    broad, blotch, fine = noise("broad", c), noise("blotch", c), noise("fine", c)
    melanin = look.melanin * (1 + 0.05 * broad + 0.025 * blotch) + 0.012 * np.abs(fine)
    melanin += 0.08 * look.melanin * (share["right_eye"] + share["left_eye"])
    haemoglobin = look.haemoglobin * (1 + 0.1 * blotch) + 0.05 * fine
    for name, extra in REGION_HAEMOGLOBIN.items():
        haemoglobin = haemoglobin + extra * share[name]
    lips = share["upper_lip"] + share["lower_lip"]
    melanin = melanin + lips * (0.06 + 0.1 * look.melanin)
    spots = np.clip(noise("hair", c) + 0.5 * blotch - 1.8, 0, 1) * (share["cheeks"] + share["nose"])
    melanin = melanin + 0.3 * look.freckles * spots
    skin = PALE_SKIN * np.exp(
        -np.maximum(melanin, 0)[:, None] * MELANIN_ABSORPTION
        - np.maximum(haemoglobin, 0)[:, None] * HAEMOGLOBIN_ABSORPTION
    )
    strands = noise("hair", c * [1.0, 0.6, 1.0])
    hair = look.hair * np.exp(0.35 * strands)[:, None]
    # Head models label the bridge of the nose with the brows; hair leaves it free.
    apart = np.clip((np.abs(c[:, 0]) - BROW_GAP) / BROW_GAP, 0, 1)
    brow = np.clip(1.3 * apart * share["brows"] * (0.7 + 0.3 * noise("hair", c * [0.4, 1.0, 0.6])), 0, 0.9)
    hairline = np.clip(1.4 * share["scalp"] - 0.3 + 0.12 * (blotch + strands) * (share["scalp"] < 0.95), 0, 1)
    cover = np.maximum(brow, look.hair_cover * hairline)
    cover = np.maximum(cover, look.stubble * _beard(c, labels, share) * (0.8 + 0.25 * strands).clip(0, 1))
    colour = skin * (1 - cover)[:, None] + hair * cover[:, None]
    for name in EYEBALLS:
        member = labels == REGIONS[name]
        if member.any():
            colour[member] = _eyeball(c[member], look, fine[member])
    inside = labels == REGIONS["mouth_interior"]
    colour[inside] = np.array([0.22, 0.055, 0.05]) * np.exp(0.15 * blotch[inside])[:, None]
    return np.clip(colour, 0.002, 0.95)


def _soft_regions(c: F64, labels: npt.NDArray[np.integer]) -> dict[str, F64]:
    """Return the share of each region around each point, softened over a few millimetres of skin."""
    skin = np.flatnonzero(~np.isin(labels, [REGIONS[name] for name in HARD_REGIONS]))
    # About 5 mm around, whatever the sampling: a head of 40,000 points has 24 of them there.
    k = min(max(4, len(c) // 1600), 24, len(skin))
    around = labels[:, None]
    if k > 1:
        around = np.repeat(labels[:, None], k, axis=1)
        around[skin] = labels[skin][cKDTree(c[skin]).query(c[skin], k=k)[1]]
    return {name: (around == label).mean(axis=1) for name, label in REGIONS.items()}


def _beard(c: F64, labels: npt.NDArray[np.integer], share: dict[str, F64]) -> F64:
    """Return where a beard grows: chin and cheeks below the nose, softly, never on the lips."""
    nose, chin = labels == REGIONS["nose"], labels == REGIONS["chin"]
    if not (nose.any() and chin.any()):
        return np.zeros(len(c))
    top, bottom = c[nose, 1].min(), c[chin, 1].min()
    height = max(top - bottom, 1e-3)
    below = 1 / (1 + np.exp((c[:, 1] - top) / (0.08 * height)))
    return np.asarray(below * np.clip(share["chin"] + share["cheeks"], 0, 1))


def _eyeball(c: F64, look: _Look, fine: F32) -> F64:
    """Colour one eyeball: sclera, and an iris around its frontmost point."""
    low, high = c.min(axis=0), c.max(axis=0)
    radius = max(float((high - low)[:2].max()) / 2, 1e-6)
    pole_xy = (low + high)[:2] / 2
    distance = np.linalg.norm(c[:, :2] - pole_xy, axis=1) / radius
    distance = np.where(c[:, 2] > high[2] - radius, distance, 2.0)
    sclera = np.array([0.62, 0.59, 0.56]) * (1 - 0.25 * np.clip(distance - 0.5, 0, 1))[:, None]
    limbus = np.clip((IRIS_RADIUS + 0.04 - distance) / 0.08, 0, 1)[:, None]
    ring = 1 - 0.55 * np.clip((distance - 0.8 * IRIS_RADIUS) / (0.2 * IRIS_RADIUS), 0, 1)[:, None]
    iris = look.iris * ring * np.exp(0.15 * fine)[:, None]
    pupil = np.clip((PUPIL_RADIUS + 0.03 - distance) / 0.06, 0, 1)[:, None]
    return np.asarray((sclera * (1 - limbus) + iris * limbus) * (1 - pupil) + 0.004 * pupil)
