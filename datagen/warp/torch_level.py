"""One resolution of the template on a torch device: its operators and its preconditioners."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from datagen.warp.template import REFERENCE_DATA_WEIGHT, Level

if TYPE_CHECKING:
    import torch

Operator = Callable[["torch.Tensor"], "torch.Tensor"]


def to_device(array: Any, device: torch.device) -> torch.Tensor:
    """Bring a NumPy array, or a SciPy matrix as sparse CSR of float64, to a device."""
    import torch

    if isinstance(array, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)
    csr = array.tocsr().astype(np.float64)
    csr.sum_duplicates()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(csr.indptr.astype(np.int64)),
            torch.from_numpy(csr.indices.astype(np.int64)),
            torch.from_numpy(csr.data),
            size=csr.shape,
            device=device,
            check_invariants=False,
        )


def spread(operator: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Apply a sparse (m, n) operator to (n, B, ...), giving (m, B, ...)."""
    return (operator @ x.flatten(1)).reshape(-1, *x.shape[1:])


class TorchLevel:
    """A :class:`datagen.warp.template.Level` on a device; fields of the same name hold the same.

    Parameters
    ----------
    dense : bool, optional
        Precondition with a dense Cholesky factor, whose triangular solves suit a graphics card: 8 n² bytes for each
        wavelength. Otherwise with the CPU's sparse factor, which gives the same. By default the former on CUDA only.
    """

    def __init__(self, level: Level, device: torch.device, *, dense: bool | None = None) -> None:
        n, faces = len(level.rest), len(level.faces)
        self._level, self._device = level, device
        self._dense = device.type == "cuda" if dense is None else dense
        self.rest, self.attract = to_device(level.rest, device), to_device(level.attract, device)
        self.laplacian, self.bending = to_device(level.laplacian, device), to_device(level.bending, device)
        self.laplacian_t = to_device(level.laplacian.T, device)
        self.inverse_mass = to_device(level.inverse_mass, device)
        self._faces = to_device(level.faces.astype(np.int64), device)
        # Sums over neighbours as sparse products: scattered additions would have no fixed order on a graphics card.
        corners = level.faces.T.ravel()
        self._of_faces = to_device(
            sp.csr_matrix((np.ones(len(corners)), (corners, np.tile(np.arange(faces), 3))), shape=(n, faces)), device
        )
        ends, edges = level.edges.T.ravel(), np.arange(len(level.edges))
        self._of_edges = to_device(
            sp.csr_matrix((np.tile(level.edge_weights, 2), (ends, np.tile(edges, 2))), shape=(n, len(edges))), device
        )
        self._edges = to_device(level.edges, device)
        self._preconditioners: dict[float, Operator] = {}

    def vertex_normals(self, vertices: torch.Tensor) -> torch.Tensor:
        """Return area-weighted unit normals (n, B, 3) of vertices (n, B, 3); an unused vertex has a zero normal."""
        import torch

        a, b, c = (vertices[self._faces[:, k]] for k in range(3))
        normals = spread(self._of_faces, torch.linalg.cross(b - a, c - a, dim=2))
        length = torch.linalg.norm(normals, dim=2, keepdim=True)
        return normals / torch.where(length > 0, length, 1.0)

    def vertex_rotations(self, rest: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Return the best rotation of each one-ring from rest to current (n, B, 3), as (n, B, 3, 3).

        See :func:`datagen.warp.template.vertex_rotations`.
        """
        import torch

        i, j = self._edges.T
        covariance = spread(self._of_edges, (rest[j] - rest[i])[..., :, None] * (current[j] - current[i])[..., None, :])
        U, _, Vt = torch.linalg.svd(covariance)
        V, Ut = Vt.transpose(2, 3).clone(), U.transpose(2, 3)
        V[..., 2] *= torch.sign(torch.linalg.det(V @ Ut))[..., None]
        return V @ Ut

    def preconditioner(self, stiffness: float) -> Operator:
        """Return the inverse of ``stiffness · bending + data`` as a function on (n, B, 3), made once per stiffness."""
        if stiffness not in self._preconditioners:
            self._preconditioners[stiffness] = (
                self._dense_inverse(stiffness) if self._dense else self._sparse(stiffness)
            )
        return self._preconditioners[stiffness]

    def _dense_inverse(self, stiffness: float) -> Operator:
        import torch

        system = (stiffness * self.bending).to_dense()
        data = torch.where(self.attract, REFERENCE_DATA_WEIGHT, 1e-3).to(system.dtype)
        system.diagonal().add_(data)
        torch.linalg.cholesky(system, out=system)
        return lambda x: torch.cholesky_solve(x.flatten(1), system).reshape(x.shape)

    def _sparse(self, stiffness: float) -> Operator:
        import torch

        factor = self._level.factor(stiffness)
        return lambda x: torch.from_numpy(factor.solve(x.flatten(1).cpu().numpy())).to(x.device).reshape(x.shape)
