"""What the depth head's number means in metres.

One image does not tell how far away a head is: a larger head further away looks the same. The head therefore predicts
depth relative to a unit taken from the training set and kept in the checkpoint. ``dataset``: the unit is the median
depth, right for one rig. ``focal``: depth × width / focal length takes the place of depth (the canonical camera of
Metric3D, Yin et al., ICCV 2023), right for rigs of several focal lengths and distances; intrinsics must then be known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DepthUnit:
    """Depth in metres is ``unit × exp(spread × x)``, times focal / width if ``kind`` is "focal".

    Attributes
    ----------
    kind : "dataset" or "focal"
    unit : float
        Median over the surface pixels looked at, metres.
    spread : float
        Robust standard deviation of log(depth / unit) there.
    focal_over_width : float
        Median of the training set; stands in where an image comes without intrinsics.
    """

    kind: Literal["dataset", "focal"]
    unit: float
    spread: float
    focal_over_width: float

    @classmethod
    def measure(
        cls,
        kind: Literal["dataset", "focal"],
        depth_m: npt.NDArray[np.float32],
        intrinsics: npt.NDArray[np.float32],
    ) -> DepthUnit:
        """Measure the unit on training maps, (N, H, W) metres with 0 = none and (N, 3, 3) pixels."""
        focal = intrinsics[:, 0, 0].astype(np.float64) / depth_m.shape[-1]
        values = depth_m.astype(np.float64)
        if kind == "focal":
            values = values / focal[:, None, None]
        values = values[depth_m > 0]
        if not values.size:
            return cls(kind, 1.0, 0.1, float(np.median(focal)))
        unit = float(np.median(values))
        # 1.4826 × the median absolute deviation is the standard deviation of a normal distribution.
        spread = 1.4826 * float(np.median(np.abs(np.log(values / unit))))
        return cls(kind, unit, max(spread, 1e-3), float(np.median(focal)))

    def to_metres(self, x: torch.Tensor, intrinsics: torch.Tensor, width: int) -> torch.Tensor:
        """Turn the head's numbers (B, S, H, W) into planar metres; intrinsics (B, S, 3, 3) in pixels."""
        return (self.spread * x).clamp(-4, 4).exp() * self.scale(intrinsics, width)

    def scale(self, intrinsics: torch.Tensor, width: int) -> torch.Tensor:
        """Return the metres that x = 0 stands for, (B, S, 1, 1)."""
        focal = intrinsics[..., 0, 0, None, None] / width
        return self.unit * (focal if self.kind == "focal" else focal.new_ones(focal.shape))

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers a checkpoint keeps."""
        return asdict(self)
