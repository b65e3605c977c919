"""The most probable person, expressions and poses, given what was seen in pictures: Gauss-Newton on all frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.linalg.blas
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64
from datagen.common.blas import one_blas_thread
from datagen.common.errors import InputError
from datagen.fit.block_band import BlockBand
from datagen.fit.head_shape import ShapeRows, shape_rows
from datagen.fit.neutral import NeutralPrior, neutral_prior
from datagen.fit.pixels import SKIN, SeenFrames, Told, source_of, told
from datagen.fit.problem import DEFAULTS, Fit, FitFrame, FitSettings, FittedFrame
from datagen.fit.rigid import turn_and_shift
from datagen.fit.start import Placed, place
from datagen.fit.system import Bounds, Equations, Reduced
from datagen.fit.temporal import acceleration, following
from datagen.heads.base import HeadModel
from datagen.warp.box_quadratic import Held
from datagen.warp.pixel_rows import SeenInPictures
from datagen.warp.posterior import FOLLOWED_M, MAX_STRETCH_STEP, uncertainty_points
from datagen.warp.shape_model import MorphableShape, model_shape, observed_vertices
from datagen.warp.similarity import Similarity
from datagen.warp.template import WarpTemplate

# Of the logarithm of a focal length that is unknown.
FOCAL_SIGMA = 0.5
MAX_FOCAL_STEP = 0.2
# A step of the pose at most; only what moves less than a tenth of a degree and 0.1 mm is not seen by the prior.
POSE_SIGMA = np.array([1.0] * 3 + [1.0] * 3)
# Steps end where no vertex of any frame moves farther.
STILL_M = 5e-6
# Of the first steps' state the departure from the usual face is not yet that of the person.
FIRST_ROUNDS = 3
# How much is known of it before: as much as so many parameters tell, and within these factors.
AMPLITUDE_COUNT = 20.0
LEAST_AMPLITUDE, MOST_AMPLITUDE = 0.4, 2.5
STEADY = 0.02


def fit_frames(
    head: HeadModel,
    template: WarpTemplate,
    frames: Sequence[FitFrame],
    settings: FitSettings = DEFAULTS,
    *,
    neutral: F64 | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Fit:
    """Fit one person to what cameras saw of some frames.

    ``½ Σ ‖π(x) − u‖²_C + priors``: identity, personal displacement (a Gaussian process) and size are shared by all
    frames, expression weights (0 to 1) and pose are each frame's; with a prior on accelerations where frames follow
    each other, and one on the face at rest where it is known.

    Parameters
    ----------
    template : WarpTemplate
        Of the same head.
    frames : sequence of FitFrame
        By increasing time, each with evidence of one camera or more.
    neutral : (V, 3) float64, optional
        The face at rest, metres, wherever it stands.
    advance : function of int
        Called with 1 after each round.

    Raises
    ------
    InputError
        If a frame has no evidence, too little to place the head by, or some of another template.
    """
    with one_blas_thread():
        return FrameFit(head, template, frames, settings, neutral).run(advance)


class FrameFit:
    """Where a fit stands, and its steps; see :func:`fit_frames`."""

    def __init__(
        self,
        head: HeadModel,
        template: WarpTemplate,
        frames: Sequence[FitFrame],
        settings: FitSettings,
        neutral: F64 | None,
    ) -> None:
        if not frames:
            raise InputError("there are no frames to fit", "one or more with evidence", "Look at the pictures first")
        self.template, self.frames, self.settings = template, frames, settings
        self.shape: MorphableShape = model_shape(head, template)
        self.seen = SeenFrames(template, frames)
        self.rows: ShapeRows = shape_rows(self.shape, self.seen.operator)
        self.neutral: NeutralPrior | None = None
        if neutral is not None:
            self.neutral = neutral_prior(template, self.shape, neutral, settings.neutral_error_m)
        n, modes = self.shape.n_identity, self.shape.modes.shape[2]
        self.n_identity, self.n_shape = n, n + 3 * modes
        self.n_expression = len(self.shape.blend) - n
        self.centre = self.shape.base[template.coarse_skin].mean(axis=0)
        self.focal_names = self.seen.cameras if settings.focal else ()
        # Identity and modes, the logarithm of the size, those of focal lengths.
        self.shared = np.zeros(self.n_shape)
        self.log_scale = 0.0
        # The head model's own identity, how people differ, and what neither has.
        self.parts = (slice(0, head.identity_size), slice(head.identity_size, n), slice(n, self.n_shape))
        self.amplitudes = np.ones(len(self.parts))
        self.shared_precision = np.concatenate(
            [
                1 / self.shape.sigma[:n] ** 2,
                np.ones(3 * modes),
                [1 / self.shape.stretch**2],
                np.full(len(self.focal_names), 1 / FOCAL_SIGMA**2),
            ]
        )
        T = len(frames)
        self.expression = np.zeros((T, self.n_expression))
        placed = place(self.seen, self.rows.base, self.centre, frames, settings.focal)
        self._take(placed)
        self.sources = sorted({(source_of(label)) for seen in self.seen.frames for label in seen.sources})
        self.factors = {
            name: max(
                len(one.factors)
                for seen in self.seen.frames
                for label, one in seen.sources.items()
                if source_of(label) == name
            )
            for name in self.sources
        }
        self.held: Held = np.zeros(n + T * self.n_expression, np.int8)
        self.triples = following([frame.time_s for frame in frames]) if settings.temporal else []
        self.energy = float("nan")

    def _take(self, placed: Placed) -> None:
        self.rotations, self.centres = placed.rotations, placed.centres
        self.log_scale = placed.log_scale
        self.first_log_focal = {name: float(np.log(f)) for name, f in placed.focal_px.items()}
        self.log_focal = dict(self.first_log_focal)
        if self.focal_names:
            self.seen.with_focal(placed.focal_px)

    def go_on_from(self, other: FrameFit) -> None:
        """Begin where another fit of the same frames stands, of which something else was seen."""
        self.shared, self.shared_precision = other.shared.copy(), other.shared_precision.copy()
        self.amplitudes, self.expression = other.amplitudes.copy(), other.expression.copy()
        self.log_scale, self.rotations, self.centres = other.log_scale, other.rotations, other.centres
        self.held = other.held.copy()
        for seen, before in zip(self.seen.frames, other.seen.frames, strict=True):
            for label, source in seen.sources.items():
                source.factors[:] = before.sources[label].factors

    def run(self, advance: Callable[[int], object]) -> Fit:
        """Take the steps."""
        rounds = 0
        for _ in range(self.settings.rounds):
            changed = self._find_amplitudes() if self.settings.amplitudes and rounds >= FIRST_ROUNDS else 0.0
            moved = self._step()
            rounds += 1
            advance(1)
            if moved < STILL_M and changed < STEADY:
                break
        return self.result(rounds)

    def _find_amplitudes(self) -> float:
        """Find how far the person departs from the usual face; return by what share that changed.

        D. MacKay, "Bayesian interpolation", 1992: squared departures over the number of parameters that are determined.
        """
        equations = self.equations()
        S, N = len(self.shared_precision), self.n_shape
        reduced = equations.reduced(np.zeros(S + equations.own_pull.size, bool))
        variance = reduced.variance(0, np.eye(S)[:N], np.zeros((N, equations.own_pull.shape[1])))
        before = self.amplitudes.copy()
        for k, part in enumerate(self.parts):
            precision = self.shared_precision[part]
            if not len(precision):
                continue
            determined = len(precision) - float(variance[part] @ precision)
            departure = float(self.shared[part] ** 2 @ precision) * self.amplitudes[k] ** 2
            squared = (departure + AMPLITUDE_COUNT) / (determined + AMPLITUDE_COUNT)
            amplitude = float(np.clip(np.sqrt(squared), LEAST_AMPLITUDE, MOST_AMPLITUDE))
            self.shared_precision[part] = precision * (self.amplitudes[k] / amplitude) ** 2
            self.amplitudes[k] = amplitude
        return float(np.abs(self.amplitudes / before - 1).max())

    def pose(self, t: int) -> Similarity:
        """Return the similarity from template axes to the world."""
        scale = float(np.exp(self.log_scale))
        return Similarity(scale, self.rotations[t], self.centres[t] - scale * self.rotations[t] @ self.centre)

    def _step(self) -> float:
        """Take a step; return the farthest that a point of any frame moved, metres."""
        equations = self.equations()
        self._add_volume(equations)
        bounds = self._bounds()
        shared, own, self.held = equations.least(bounds, self.held)
        E = self.n_expression
        stretch = float(shared[self.n_shape])
        focal = shared[self.n_shape + 1 :]
        limit = min(
            1.0,
            MAX_STRETCH_STEP / max(abs(stretch), 1e-12),
            MAX_FOCAL_STEP / max(float(np.abs(focal).max(initial=0.0)), 1e-12),
            1.0 / max(float(np.abs(own[:, E : E + 3]).max()), 1e-12),
        )
        before = [self.pose(t).apply(self.points(t)) for t in range(len(self.frames))]
        shared, own, focal = limit * shared, limit * own, limit * focal
        scale = float(np.exp(self.log_scale))
        n_id = self.n_identity
        self.shared += shared[: self.n_shape]
        self.shared[:n_id] = np.clip(self.shared[:n_id], self.shape.lower[:n_id], self.shape.upper[:n_id])
        self.log_scale += limit * stretch
        self.expression = np.clip(self.expression + own[:, :E], self.shape.lower[n_id:], self.shape.upper[n_id:])
        self.centres = self.centres + scale * np.einsum("tij,tj->ti", self.rotations, own[:, E + 3 : E + 6])
        self.rotations = self.rotations @ Rotation.from_rotvec(own[:, E : E + 3]).as_matrix()
        self._take_factors(own[:, E + 6 :])
        if self.focal_names:
            for name, change in zip(self.focal_names, focal.tolist(), strict=True):
                self.log_focal[name] += change
            self.seen.with_focal({name: float(np.exp(f)) for name, f in self.log_focal.items()})
        after = [self.pose(t).apply(self.points(t)) for t in range(len(self.frames))]
        return max(float(np.linalg.norm(b - a, axis=1).max()) for a, b in zip(before, after, strict=True))

    def _add_volume(self, equations: Equations) -> None:
        """Add what the most probable depth and size owe to the shapes they leave possible.

        One picture alone hardly tells depth. Of faces that look the same the smaller, nearer one departs fewer
        millimetres from the usual face, so that the most probable shape is far too small: by 13 % on simulated people.
        But as many more shapes are possible where a pixel is more millimetres: the volume of the shape's posterior
        distribution grows with depth over size to the power of the number of parameters that pictures determine. How
        far people depart from the usual face being known no better, that number is the one at which departures say
        nothing of size: their squared length in standard deviations.
        """
        E, N = self.n_expression, self.n_shape
        alone = [t for t, seen in enumerate(self.seen.frames) if len({view.camera.name for view in seen.views}) == 1]
        departure = float(self.shared**2 @ self.shared_precision[:N])
        precision = 1 / self.shape.sigma[self.n_identity :] ** 2
        told = np.trace(equations.own.diagonal[:, E + 3 : E + 6, E + 3 : E + 6], axis1=1, axis2=2)
        scale = float(np.exp(self.log_scale))
        for t in alone:
            count = departure * float(told[t] / told.sum()) + float(self.expression[t] ** 2 @ precision)
            camera = self.seen.frames[t].views[0].camera
            axis = camera.world_to_camera[2, :3]
            depth = float(camera.to_camera(self.centres[t][None])[0, 2])
            equations.own_pull[t, E + 3 : E + 6] += count / depth * scale * (self.rotations[t].T @ axis)
            equations.shared_pull[N] -= count
            if self.focal_names:
                equations.shared_pull[N + 1 + self.focal_names.index(camera.name)] -= count

    def _take_factors(self, own: F64) -> None:
        for seen, steps in zip(self.seen.frames, own, strict=True):
            for label, source in seen.sources.items():
                at = self._factor_columns(source_of(label))
                source.factors += steps[at][: len(source.factors)]

    def _factor_columns(self, name: str) -> slice:
        start = sum(count for other, count in self.factors.items() if other < name)
        return slice(start, start + self.factors[name])

    def points(self, t: int) -> F64:
        """Return the distinct points (u, 3) that were seen, template axes."""
        return self.rows.at(self.shared, self.expression[t])

    def _bounds(self) -> Bounds:
        n_id, E, S = self.n_identity, self.n_expression, len(self.shared_precision)
        n = E + 6 + sum(self.factors.values())
        T = len(self.frames)
        own = S + np.arange(T)[:, None] * n + np.arange(E)
        lower = np.concatenate(
            [self.shape.lower[:n_id] - self.shared[:n_id], (self.shape.lower[n_id:] - self.expression).ravel()]
        )
        upper = np.concatenate(
            [self.shape.upper[:n_id] - self.shared[:n_id], (self.shape.upper[n_id:] - self.expression).ravel()]
        )
        return Bounds(np.concatenate([np.arange(n_id), own.ravel()]), lower, upper)

    def equations(self) -> Equations:
        """Return the normal equations where the fit stands; sets the energy there."""
        T, S, E = len(self.frames), len(self.shared_precision), self.n_expression
        k = sum(self.factors.values())
        n = E + 6 + k
        N, C = self.n_shape, len(self.focal_names)
        A, b = np.zeros((S, S)), np.zeros(S)
        own, coupling, own_pull = np.zeros((T, n, n)), np.zeros((T, n, S)), np.zeros((T, n))
        count = len(self.rows.base)
        total = np.zeros((count, 3, 3))
        # What meets the shape's rows once for all frames: the pull, the size's column, those of focal lengths.
        sums = np.zeros((3 * count, 2 + C))
        energy = 0.0
        for t, seen in enumerate(self.seen.frames):
            points = self.points(t)
            found = told(
                seen,
                self.seen.skins[t],
                self.pose(t),
                points,
                robust=self.settings.robust,
                focal=self.settings.focal,
            )
            energy += found.energy
            local = points - self.centre
            white = np.zeros((count, 3, n))
            for information, pull, J in self._groups(seen, found, self._own_rows(local, k)):
                by_source = information @ J
                white += by_source
                own[t] += J.reshape(-1, n).T @ by_source.reshape(-1, n)
                own_pull[t] += J.reshape(-1, n).T @ pull.ravel()
                total += information
                sums[:, 0] += pull.ravel()
                grown = np.einsum("uij,uj->ui", information, local).ravel()
                sums[:, 1] += grown
                A[N, N] += local.ravel() @ grown
                b[N] += local.ravel() @ pull.ravel()
            flat = white.reshape(-1, n)
            coupling[t, :, :N] = (self.rows.shared.T @ flat.astype(np.float32)).T
            coupling[t, :, N] = flat.T @ local.ravel()
            for c, name in enumerate(self.focal_names):
                if name not in found.focal:
                    continue
                beside, (mine, mine_pull) = found.focal[name][:-2], found.focal[name][-2:]
                sums[:, 2 + c] += beside
                coupling[t, :, N + 1 + c] = self._own_rows(local, k).reshape(-1, n).T @ beside
                A[N, N + 1 + c] += local.ravel() @ beside
                A[N + 1 + c, N + 1 + c] += mine
                b[N + 1 + c] += mine_pull
        self._add_shape(A, b, total, sums)
        energy += self._add_priors(A, b, own, own_pull)
        first, second, more = self._add_temporal(own, own_pull)
        self.energy = energy + more
        return Equations(A, BlockBand(own, first, second), coupling, b, own_pull)

    def _own_rows(self, local: F64, factors: int) -> F64:
        """Return the derivative (u, 3, n) of points by a frame's expression, turn, shift, and 0 by the rest."""
        E = self.n_expression
        rows = np.zeros((len(local), 3, E + 6 + factors))
        rows[:, :, :E] = self.rows.own
        rows[:, :, E : E + 6] = turn_and_shift(local)
        return rows

    def _groups(self, seen: SeenInPictures, found: Told, rows: F64) -> Iterator[tuple[F64, F64, F64]]:
        """Yield information, pull and the derivative of what is seen; apart where sources share displacements."""
        E = self.n_expression
        plain = [SKIN] if SKIN in found.information else []
        plain += [label for label, source in seen.sources.items() if not len(source.factors)]
        if plain:
            information = np.sum([found.information[label] for label in plain], axis=0)
            yield information, np.sum([found.pull[label] for label in plain], axis=0), rows
        for label, source in seen.sources.items():
            if len(source.factors):
                start = E + 6 + self._factor_columns(source_of(label)).start
                own = rows.copy()
                own[:, :, start : start + len(source.factors)] = source.shared_m.transpose(1, 2, 0)
                yield found.information[label], found.pull[label], own

    def _add_shape(self, A: F64, b: F64, total: F64, sums: F64) -> None:
        """Add what all frames say of the shape they share."""
        N = self.n_shape
        add_products(A[:N, :N], self.rows, total)
        with_rows = (self.rows.shared.T @ sums.astype(np.float32)).astype(np.float64)
        b[:N] += with_rows[:, 0]
        A[:N, N:] += with_rows[:, 1:]
        if self.neutral is not None:
            scale = float(np.exp(self.log_scale))
            residual, local = self.neutral.residual_m(self.shared, scale, self.centre)
            weight = scale**2 / self.neutral.sigma_m**2
            rows = self.neutral.rows.shared
            A[:N, :N] += weight * (rows.T @ rows)
            beside = rows.T @ np.column_stack([residual.ravel() / scale, local.ravel()]).astype(np.float32)
            b[:N] += weight * beside[:, 0]
            A[:N, N] += weight * beside[:, 1]
            A[N, N] += weight * float(local.ravel() @ local.ravel())
            b[N] += weight * float(local.ravel() @ residual.ravel()) / scale
        lower = np.tril_indices(len(A), -1)
        A[lower] = A.T[lower]

    def _add_priors(self, A: F64, b: F64, own: F64, own_pull: F64) -> float:
        """Add the priors; return the energy of what they hold."""
        E, n_id = self.n_expression, self.n_identity
        focal = np.array([self.log_focal[name] - self.first_log_focal[name] for name in self.focal_names])
        state = np.concatenate([self.shared, [self.log_scale], focal])
        A[np.diag_indices(len(A))] += self.shared_precision
        b -= self.shared_precision * state
        precision = np.concatenate([1 / self.shape.sigma[n_id:] ** 2, 1 / POSE_SIGMA**2, np.ones(own.shape[1] - E - 6)])
        at = np.arange(own.shape[1])
        own[:, at, at] += precision
        own_pull[:, :E] -= precision[:E] * self.expression
        energy = 0.5 * float(self.shared_precision @ state**2) + 0.5 * float((self.expression**2 @ precision[:E]).sum())
        for t, seen in enumerate(self.seen.frames):
            for label, source in seen.sources.items():
                start = E + 6 + self._factor_columns(source_of(label)).start
                own_pull[t, start : start + len(source.factors)] -= source.factors
                energy += 0.5 * float((source.factors**2).sum())
        if self.neutral is not None:
            residual, _ = self.neutral.residual_m(self.shared, float(np.exp(self.log_scale)), self.centre)
            energy += 0.5 * float((residual**2).sum()) / self.neutral.sigma_m**2
        return energy

    def _add_temporal(self, own: F64, own_pull: F64) -> tuple[F64, F64, float]:
        """Add accelerations; return what they couple of neighbours, and of those next to these."""
        T, n, m = len(own), own.shape[1], self.n_expression + 6
        if not self.triples:
            return np.zeros((0, n, n)), np.zeros((0, n, n)), 0.0
        first, second = np.zeros((T - 1, n, n)), np.zeros((T - 2, n, n))
        energy, scale = 0.0, float(np.exp(self.log_scale))
        for t, step_s in self.triples:
            parts, value = acceleration(t, step_s, self.expression, self.rotations, self.centres, scale)
            energy += 0.5 * float(value @ value)
            for k, part in enumerate(parts):
                own[t - 1 + k, :m, :m] += part.T @ part
                own_pull[t - 1 + k, :m] -= part.T @ value
            for k in range(2):
                first[t - 1 + k, :m, :m] += parts[k + 1].T @ parts[k]
            second[t - 1, :m, :m] += parts[2].T @ parts[0]
        return first, second, energy

    def result(self, rounds: int) -> Fit:
        """Return where the fit stands."""
        scale = float(np.exp(self.log_scale))
        equations = self.equations()
        reduced = equations.reduced(np.zeros(len(self.shared_precision) + equations.own_pull.size, bool))
        n_id = self.n_identity
        spreads = self._spreads(reduced)
        fitted = []
        for t, frame in enumerate(self.frames):
            pose = self.pose(t)
            parameters = np.concatenate([self.shared[:n_id], self.expression[t]])
            vertices = self.shape.vertices(parameters, self.shared[n_id:].reshape(-1, 3))
            seen = self.seen.frames[t]
            fitted.append(
                FittedFrame(
                    frame.index,
                    pose.apply(vertices),
                    spreads[t],
                    self.expression[t],
                    pose.rigid_matrix(self.centre),
                    {(source_of(label), camera): s for (label, camera), s in seen.scale.items()},
                )
            )
        still = np.concatenate([self.shared[:n_id], np.zeros(self.n_expression)])
        neutral = scale * self.shape.vertices(still, self.shared[n_id:].reshape(-1, 3))
        focal = {name: float(np.exp(self.log_focal[name])) for name in self.focal_names}
        found = tuple(map(float, self.amplitudes))
        identity = self.shared[self.parts[0]]
        return Fit(tuple(fitted), identity, neutral, scale, focal, self.energy, rounds, found)

    def _spreads(self, reduced: Reduced) -> list[F64]:
        """Return each frame's standard deviation (V,) of vertices' positions, by some of them."""
        template, N, E = self.template, self.n_shape, self.n_expression
        chosen, near, share = uncertainty_points(template)
        V = len(template.head.vertices)
        operator = template.subdivide[template.coarse_skin[observed_vertices(template)[chosen]]]
        rows = shape_rows(self.shape, operator)
        scale = float(np.exp(self.log_scale))
        spreads = []
        for t in range(len(self.frames)):
            local = rows.at(self.shared, self.expression[t]) - self.centre
            count = len(local)
            shared = np.zeros((count, 3, len(self.shared_precision)))
            shared[:, :, :N] = rows.shared.reshape(count, 3, -1)
            shared[:, :, N] = local
            own = np.zeros((count, 3, reduced.coupling.shape[1]))
            own[:, :, :E] = rows.own
            own[:, :, E : E + 6] = turn_and_shift(local)
            variance = reduced.variance(t, shared.reshape(3 * count, -1), own.reshape(3 * count, -1))
            spread = scale * np.sqrt(variance.reshape(count, 3).sum(axis=1))
            spreads.append(np.hypot((spread[near[:V]] * share[:V]).sum(axis=1), FOLLOWED_M))
        return spreads


def add_products(A: F64, rows: ShapeRows, information: F64) -> None:
    """Add the products of the shared rows with each other, weighed by information (u, 3, 3), to the upper triangle."""
    values, vectors = np.linalg.eigh(information)
    seen = values[:, 2] > 0
    half = (np.sqrt(np.maximum(values, 0))[:, :, None] * vectors.transpose(0, 2, 1)).astype(np.float32)
    count = len(values)
    scaled = (half @ rows.shared.reshape(count, 3, -1))[seen].reshape(-1, rows.shared.shape[1])
    # Of a symmetric product half the work is enough; the transpose of an array in C order is one in Fortran's.
    A += scipy.linalg.blas.ssyrk(1.0, scaled.T, lower=0)
