"""People of a head model's topology but not of its shapes: the proportions of real faces, expressions of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.population import population_modes_m
from datagen.heads.regions import mask_of
from datagen.heads.typical import MIRROR, typical_offset_m

# Fields are sums of so many waves.
WAVES = 96
# How far people go along the components of real faces, and what these lack: length, standard deviation of each
# coordinate on either side by itself, and of what is its own mirror image, metres. In these sizes the warp finds in
# simulated people what it finds in a family of scanned ones (docs/warp.md).
COMPONENT_SIGMA = 0.6
BEYOND_COMPONENTS_M = (
    (0.01, 0.30e-3, 0.77e-3),
    (0.02, 0.39e-3, 1.16e-3),
    (0.04, 0.60e-3, 1.50e-3),
    (0.08, 0.86e-3, 2.15e-3),
    (0.16, 1.29e-3, 2.58e-3),
)
LOG_SIZE = 0.04
# How far a person's expression differs from the model's, as a share of its motion, and how smoothly. Eyeballs turn as
# they are, and lids have to meet: the share grows from nothing at an eyeball to all of it this far away.
OWN_SHARE, OWN_LENGTH_M = 0.3, 0.03
FROM_EYES_M = 0.02
EYEBALLS = ("right_eyeball", "left_eyeball")


@dataclass(frozen=True, eq=False)
class RealPerson:
    """One person.

    Attributes
    ----------
    head : HeadModel
    neutral : (V, 3) float64
        Template's vertices, metres, template axes.
    gain : (V, E) float64
        How far each vertex moves with each expression, as a multiple of the model's.
    """

    head: HeadModel
    neutral: F64
    gain: F64

    @classmethod
    def draw(cls, head: HeadModel, rng: np.random.Generator) -> RealPerson:
        """Draw a person: the typical face, components of real faces, what these lack, and a size.

        Raises
        ------
        InputError
            If nothing is known of real people in the head model's topology.
        """
        template = head.template
        components = population_modes_m(template)
        if not len(components):
            raise InputError(
                f"how real people differ is not known of the head model {template.name}",
                "one of which it is: anny",
                "Set source.head to anny, or source.people to model",
            )
        along = COMPONENT_SIGMA * rng.normal(size=len(components))
        offset = typical_offset_m(template) + np.tensordot(along, components, 1) + _beyond(template, rng)
        size = float(np.exp(LOG_SIZE * rng.normal()))
        return cls(head, size * (template.vertices + offset), _own_gain(head, rng))

    @cached_property
    def _model_neutral(self) -> F64:
        return self.head.vertices(np.zeros(self.head.identity_size), np.zeros(len(self.head.expression_names)))

    def shape(self, expression: F64) -> F64:
        """Return the template's vertices under expression weights (E,), (V, 3) float64 metres in template axes.

        The model's displacement of its mean, each vertex's times the mean of this person's gains, which count as the
        expressions' weights do.
        """
        moved = self.head.vertices(np.zeros(self.head.identity_size), expression) - self._model_neutral
        weight = np.abs(expression)
        gain = self.gain @ (weight / max(float(weight.sum()), 1e-12)) if weight.any() else 1.0
        return np.asarray(self.neutral + np.reshape(gain, (-1, 1)) * moved)


def smooth_field(points: npt.NDArray[np.floating], length_m: float, rng: np.random.Generator, channels: int) -> F64:
    """Return a draw (N, C) float64 of a Gaussian process of unit variance with a squared-exponential covariance.

    A sum of waves whose vectors are drawn from the covariance's spectrum (A. Rahimi, B. Recht, "Random features for
    large-scale kernel machines", NeurIPS 2007, section 3).

    Parameters
    ----------
    points : (N, 3) float
        Metres.
    length_m : float
        Of the covariance ``exp(-d² / 2 length²)``.
    """
    vectors = rng.normal(size=(3, WAVES)) / length_m
    phases, weights = rng.uniform(0, 2 * np.pi, WAVES), rng.normal(size=(WAVES, channels))
    return np.asarray(np.cos(points @ vectors + phases) @ weights * np.sqrt(2 / WAVES))


def _beyond(template: HeadTemplate, rng: np.random.Generator) -> F64:
    """Draw what components of real faces lack, (V, 3) metres: most of it is its own mirror image."""
    points = template.vertices
    total = np.zeros_like(points)
    for length_m, alone_m, mirrored_m in BEYOND_COMPONENTS_M:
        total += alone_m * smooth_field(points, length_m, rng, 3)
        both = smooth_field(np.concatenate([points, points * MIRROR]), length_m, rng, 3)
        total += mirrored_m / np.sqrt(2) * (both[: len(points)] + MIRROR * both[len(points) :])
    return total


def _own_gain(head: HeadModel, rng: np.random.Generator) -> F64:
    template = head.template
    field = smooth_field(template.vertices, OWN_LENGTH_M, rng, len(head.expression_names))
    eyes = template.vertices[mask_of(template.regions, EYEBALLS)]
    away_m, _ = cKDTree(eyes).query(template.vertices) if len(eyes) else (np.full(len(field), FROM_EYES_M), None)
    share = OWN_SHARE * np.clip(away_m / FROM_EYES_M, 0, 1)
    return np.asarray(1 + share[:, None] * field)
