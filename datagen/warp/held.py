"""How much each source of evidence held a fit: of its unknowns, and of what is left over."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg

from datagen.common.arrays import F64

PRIOR = "prior"
# That the prior's own size is right counts as much as so many unknowns.
EXPECTED_WORTH = 5.0


@dataclass(frozen=True)
class Held:
    """What the sources of a fit did at its last step.

    Attributes
    ----------
    share : dict of source to float
        Of the unknowns, how many it determines: sums to 1 with the prior's.
    energy : dict of source to float
        Half the sum of its squared residuals, each in its standard deviations, weighed.
    unknowns : int
        How many there are.
    """

    share: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    unknowns: int = 0

    @property
    def amplitude(self) -> float:
        """How large the unknowns are beside what the prior expects: the likeliest factor on its standard deviations.

        Their squares over how many of them are determined (D. MacKay, "Bayesian interpolation", 1992, section 4.3). A
        prior of one size for everybody is too wide for faces near the mean and too narrow for unusual ones.
        """
        determined = self.unknowns * (1.0 - self.share.get(PRIOR, 1.0))
        squares = 2.0 * self.energy.get(PRIOR, 0.0)
        return float(np.sqrt((squares + EXPECTED_WORTH) / (determined + EXPECTED_WORTH)))

    def metrics(self) -> dict[str, float]:
        """Return them as flat figures of a verdict."""
        shares = {f"held_{name}": value for name, value in self.share.items()}
        return shares | {f"energy_{name}": value for name, value in self.energy.items()}


@dataclass
class Ledger:
    """What each source adds to the normal equations of one step.

    Parameters
    ----------
    prior : (n,) float64
        Precision of the unknowns before anything is seen.
    prior_energy : float
    """

    prior: F64
    prior_energy: float
    told: dict[str, F64] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)

    def add(self, source: str, information: F64, energy: float) -> None:
        """Take note of the information (n, n) that a source brings, and of what is left over of it."""
        self.told[source] = self.told[source] + information if source in self.told else information
        self.energy[source] = self.energy.get(source, 0.0) + energy

    def held(self, information: F64) -> Held:
        """Return the shares of the whole (n, n), which is the prior's and all sources' together.

        A source determines ``tr(A⁻¹ Aₛ)`` of the unknowns (MacKay's count, split by who brought the information).
        """
        factor = scipy.linalg.cho_factor(information.T, lower=True, check_finite=False)
        inverse = scipy.linalg.cho_solve(factor, np.eye(len(information)), check_finite=False)
        count = len(self.prior)
        share = {name: float((inverse * told).sum()) / count for name, told in self.told.items()}
        share[PRIOR] = float(np.diag(inverse) @ self.prior) / count
        return Held(share, {**self.energy, PRIOR: self.prior_energy}, count)
