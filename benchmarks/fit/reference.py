"""The same fit by FlowFace's optimiser, and with free displacements of vertices in place of smooth ones.

FlowFace (section 3.2, implementation): AdamW, rate 0.01, halved when the energy has not fallen for 30 steps. Both
minimise one energy: the alignment with its covariance (equation 13) and the priors, without robust weights; unknown
are the shared identity, displacement and size, and each frame's expression and pose. Rows are weighed as they are
where ours ends, so that both are measured by one quadratic form of the residuals.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.fit.run import TWO, FitBench
from datagen.common.arrays import F64
from datagen.fit.problem import FitFrame, FitSettings
from datagen.fit.solver import FrameFit
from datagen.geometry.camera import Camera
from datagen.warp.shape_model import linearise

RATE, PATIENCE = 0.01, 30
MOST_STEPS = 3000
LEAST_RATE = 1e-5
OURS = FitSettings(robust=False, amplitudes=False, temporal=False, rounds=20)
# Of each coordinate of a free displacement: as the people depart, a millimetre in all.
FREE_SIGMA_M = 1e-3 / np.sqrt(3)
T32 = torch.float32


@dataclass
class Minimised:
    """What an optimiser came to."""

    energy: float
    vertices: list[F64]
    seconds: float
    steps: int


def reference_figures(bench: FitBench) -> dict[str, float]:
    """Return energies and errors of the first person, by six cameras and by two."""
    figures: dict[str, float] = {}
    person = bench.people[0]
    for name, cameras in (("6", range(6)), ("2", TWO)):
        frames = bench.seen(0, cameras)
        began = time.process_time()
        ours = FrameFit(bench.head, bench.template, frames, OURS, None)
        ours.run(lambda _: None)
        seconds = time.process_time() - began
        problem = Problem(bench, ours, frames)
        mine, theirs, free = problem.ours(), problem.minimised(smooth=True), problem.minimised(smooth=False)
        figures |= {
            f"reference_{name}_energy_ours": mine.energy,
            f"reference_{name}_energy_adamw": theirs.energy,
            f"reference_{name}_energy_ratio": theirs.energy / mine.energy,
            f"reference_{name}_seconds_ours": seconds,
            f"reference_{name}_seconds_adamw": theirs.seconds,
            f"reference_{name}_steps_adamw": float(theirs.steps),
        }
        for kind, one in (("ours", mine), ("adamw", theirs), ("free", free)):
            figures[f"reference_{name}_median_mm_{kind}"] = float(np.median(bench.errors(one.vertices, person)[0]))
    return figures


class Problem:
    """One energy, as torch has it."""

    def __init__(self, bench: FitBench, ours: FrameFit, frames: list[FitFrame]) -> None:
        self.bench, self.ours_fit, self.frames = bench, ours, frames
        self.views: list[tuple[int, Camera, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for t, seen in enumerate(ours.seen.frames):
            for rows in seen.rows(ours.pose(t), ours.points(t), robust=False):
                view = rows.view
                given = torch.tensor(view.where), _tensor(view.pixels), _tensor(rows.root)
                self.views.append((t, view.camera, *given))

    def ours(self) -> Minimised:
        """Return where our fit ended."""
        fit = self.ours_fit
        state = {
            "shared": _tensor(fit.shared),
            "expression": _tensor(fit.expression),
            "log_scale": _tensor(np.array(fit.log_scale)),
            "rotation": _tensor(fit.rotations),
            "centre": _tensor(fit.centres),
        }
        energy = float(self._energy(state, state["rotation"], smooth=True))
        return Minimised(energy, self._vertices(state, fit.rotations, smooth=True), 0.0, 0)

    def minimised(self, *, smooth: bool) -> Minimised:
        """Minimise by AdamW from where ours began."""
        began = time.process_time()
        fit = FrameFit(self.bench.head, self.bench.template, self.frames, OURS, None)
        n, V, T = self._count(smooth), len(fit.shape.base), len(self.frames)
        shared = np.zeros(fit.n_shape) if smooth else np.zeros(n)
        state = {
            "shared": _tensor(shared),
            "expression": _tensor(fit.expression),
            "log_scale": _tensor(np.array(0.0)),
            "turn": torch.zeros(T, 3),
            "centre": _tensor(fit.centres),
            "free": torch.zeros(V, 3),
        }
        for value in state.values():
            value.requires_grad_()
        start = _tensor(fit.rotations)
        adam = torch.optim.AdamW(list(state.values()), lr=RATE, weight_decay=0.0)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=PATIENCE)
        lower, upper = _tensor(fit.shape.lower[:n]), _tensor(fit.shape.upper[:n])
        best, steps = float("inf"), 0
        kept: dict[str, torch.Tensor] = {}
        for _ in range(MOST_STEPS):
            adam.zero_grad()
            rotation = start @ torch.linalg.matrix_exp(_cross(state["turn"]))
            energy = self._energy(state, rotation, smooth=smooth)
            energy.backward()  # type: ignore[no-untyped-call]
            if float(energy.detach()) < best:
                best, kept = float(energy.detach()), {name: value.detach().clone() for name, value in state.items()}
            adam.step()
            plateau.step(float(energy.detach()))
            with torch.no_grad():
                state["shared"][:n].clamp_(lower, upper)
                state["expression"].clamp_(0, 1)
            steps += 1
            if adam.param_groups[0]["lr"] < LEAST_RATE:
                break
        rotations = (start @ torch.linalg.matrix_exp(_cross(kept["turn"]))).numpy().astype(np.float64)
        vertices = self._vertices(kept, rotations, smooth=smooth)
        return Minimised(best, vertices, time.process_time() - began, steps)

    def _count(self, smooth: bool) -> int:
        """Return how many parameters are a person's: the paper's fit has those of the head model alone."""
        return self.ours_fit.n_identity if smooth else self.bench.head.identity_size

    def _local(self, state: dict[str, torch.Tensor], *, smooth: bool) -> torch.Tensor:
        """Return the distinct points of all frames, (T, u, 3)."""
        rows = self._rows()
        moved = state["expression"] @ rows["own"].T
        if smooth:
            flat = rows["base"] + rows["shared"] @ state["shared"] + moved
            return flat.reshape(len(moved), -1, 3)
        n = self._count(smooth)
        flat = rows["mean"] + rows["shared"][:, :n] @ state["shared"] + moved
        return flat.reshape(len(moved), -1, 3) + torch.sparse.mm(rows["operator"], state["free"])

    def _rows(self) -> dict[str, torch.Tensor]:
        if not hasattr(self, "_kept"):
            fit = self.ours_fit
            operator = fit.seen.operator.tocoo()
            where = torch.tensor(np.stack([operator.row, operator.col]).astype(np.int64))
            mean = fit.seen.operator @ linearise(self.bench.head).mean
            self._kept = {
                "base": _tensor(fit.rows.base.ravel()),
                "mean": _tensor(np.asarray(mean).ravel()),
                "shared": torch.tensor(fit.rows.shared),
                "own": _tensor(fit.rows.own.reshape(-1, fit.n_expression)),
                "operator": torch.sparse_coo_tensor(
                    where, _tensor(operator.data), operator.shape, check_invariants=True
                ),
            }
        return self._kept

    def _energy(self, state: dict[str, torch.Tensor], rotation: torch.Tensor, *, smooth: bool) -> torch.Tensor:
        fit = self.ours_fit
        local = self._local(state, smooth=smooth) - _tensor(fit.centre)
        world = torch.exp(state["log_scale"]) * local @ rotation.transpose(1, 2) + state["centre"][:, None]
        total = torch.zeros(())
        for t, camera, where, pixels, root in self.views:
            at = world[t, where] @ _tensor(camera.world_to_camera[:3, :3].T) + _tensor(camera.world_to_camera[:3, 3])
            shown = at @ _tensor(camera.K.T)
            residual = torch.einsum("nij,nj->ni", root, pixels - shown[:, :2] / shown[:, 2:])
            total = total + 0.5 * (residual**2).sum()
        n, sigma = self._count(smooth), _tensor(fit.shape.sigma)
        # The paper's prior on identity is that of the model, which the people are drawn from.
        identity = sigma[:n] if smooth else torch.ones(n)
        total = total + 0.5 * ((state["shared"][:n] / identity) ** 2).sum()
        total = total + 0.5 * ((state["expression"] / sigma[fit.n_identity :]) ** 2).sum()
        total = total + 0.5 * (state["log_scale"] / fit.shape.stretch) ** 2
        if smooth:
            return total + 0.5 * (state["shared"][n:] ** 2).sum()
        return total + 0.5 * ((state["free"] / FREE_SIGMA_M) ** 2).sum()

    def _vertices(self, state: dict[str, torch.Tensor], rotations: F64, *, smooth: bool) -> list[F64]:
        """Return the control vertices of each frame, world metres."""
        fit, found = self.ours_fit, []
        values = {name: value.detach().numpy().astype(np.float64) for name, value in state.items()}
        scale = float(np.exp(values["log_scale"]))
        n = self._count(smooth)
        others = np.zeros(fit.n_identity - n)
        for t, rotation in enumerate(rotations):
            parameters = np.concatenate([values["shared"][:n], others, values["expression"][t]])
            if smooth:
                local = fit.shape.vertices(parameters, values["shared"][n:].reshape(-1, 3))
            else:
                mean = linearise(self.bench.head).mean
                local = mean + np.tensordot(parameters, fit.shape.blend, 1) + values["free"]
            found.append(values["centre"][t] + scale * (local - fit.centre) @ rotation.T)
        return found


def _tensor(array: F64) -> torch.Tensor:
    return torch.tensor(np.asarray(array), dtype=T32)


def _cross(turns: torch.Tensor) -> torch.Tensor:
    """Return the (T, 3, 3) matrices whose product with a vector is the cross product."""
    x, y, z = turns.unbind(1)
    none = torch.zeros_like(x)
    return torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=1).reshape(-1, 3, 3)
