"""Keeps the registered template one-to-one: triangles turned over or passing through each other, and their repair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from datagen.common.arrays import F64, Bools
from datagen.geometry.mesh import face_normals, vertex_normals
from datagen.geometry.space import MM_PER_M
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.clearance import inside_nostrils
from datagen.warp.folds import lid_skin, lip_overlap_m, mouth_skin, self_crossing
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, once_per_template

HELD_WEIGHT = 0.1
# Parts that touch at rest (closed lips) are let off, with this many rings of triangles around them.
CONTACT_RINGS = 2
# Rings by which a failing patch grows over skin that the scan holds, one attempt after another, and whether of two
# triangles that cross only the one that the scan holds less is to yield.
ATTEMPTS = ((1, True), (0, True), (3, False), (8, False), (12, False))
# What is left lies where the neutral shape itself is folded tightly, mostly at the lids' edges: there small patches are
# stretched over their rims like a membrane, which has no folds and no detail either.
MEMBRANE_RINGS = (0, 1, 2, 3, 4, 6)
# A pocket that the scan does not show (a nostril) is freed as a whole, up to this many rings.
POCKET_RINGS = 16
BLENDS = (1.0, 0.5, 0.25)
# What seems to hold a fold, or the rim of a nostril, is as wrong as they are.
FOLD_RINGS = 1
WING_RINGS = 3
# A repair is for a fold, not for a face: more vertices than this outside the nostrils, a held one moved further than
# the scan's own robust kernel, or a surface further from the scan, and the fold is left to the verdict.
MOST_VERTICES = 300
FIRM_WEIGHT = 0.5
MOST_MOVED_M = 1e-3
MOST_RESIDUAL_M = 0.5e-3


@dataclass(frozen=True)
class Defects:
    """Where a deformed template is not one-to-one in the face region.

    Attributes
    ----------
    flipped : (G,) bool
        Of the fine triangles.
    pairs : (P, 2) int64
        Triangles that pass through each other.
    contacts : (Q, 2) int64
        The same at the mouth or the lids: heads press lips and shut lids into each other, true ones of a head model
        too, so this is counted but no defect.
    """

    flipped: Bools
    pairs: npt.NDArray[np.int64]
    contacts: npt.NDArray[np.int64]

    @property
    def crossing(self) -> Bools:
        """Triangles that pass through another, (G,) bool."""
        mask = np.zeros(len(self.flipped), bool)
        mask[self.pairs.ravel()] = True
        return mask

    @property
    def any(self) -> Bools:
        """Triangles with either defect, (G,) bool."""
        return self.flipped | self.crossing


@dataclass(frozen=True)
class RepairReport:
    """What a repair found, did and left.

    Attributes
    ----------
    lip_overlap_m : float
        How deep one lip lies in the other after it.
    lid_contacts : int
        Triangles of ``after.contacts`` around the eyes.
    moved : (M,) bool
        Fine vertices whose place is no longer what the scan said. They must not count as held by it.
    """

    before: Defects
    after: Defects
    lip_overlap_m: float
    lid_contacts: int
    moved: Bools
    face_triangles: int

    def metrics(self) -> dict[str, float]:
        """Return the counts for the verdict."""
        return {
            "flipped_triangles": float(self.after.flipped.sum()),
            "crossing_triangles": float(self.after.crossing.sum()),
            "crossing_fraction": float(self.after.crossing.sum() / max(self.face_triangles, 1)),
            "lip_contact_triangles": float(len(np.unique(self.after.contacts)) - self.lid_contacts),
            "lip_overlap_mm": self.lip_overlap_m * MM_PER_M,
            "lid_contact_triangles": float(self.lid_contacts),
            "flipped_before_repair": float(self.before.flipped.sum()),
            "crossing_before_repair": float(self.before.crossing.sum()),
            "repaired_vertices": float(self.moved.sum()),
        }


def flipped_triangles(vertices: F64, faces: npt.NDArray[np.int32], rest: F64) -> Bools:
    """Return (F,) bool: triangles turned against the surface around them that were not so on the rest shape."""
    return _against(vertices, faces) & ~_against(rest, faces)


def _against(vertices: F64, faces: npt.NDArray[np.int32]) -> Bools:
    around = vertex_normals(vertices, faces)[faces].mean(axis=1)
    return np.asarray(np.einsum("fd,fd->f", face_normals(vertices, faces), around) < 0)


class _Prepared:
    """What the test needs of a template, which never changes: face triangles, contacts at rest, adjacency."""

    def __init__(self, template: WarpTemplate) -> None:
        n, faces = len(template.canonical_m), template.faces
        self.face: Bools = np.asarray(mask_of(template.regions, FACE_REGIONS)[faces].all(axis=1))
        self.upright: Bools = self.face & ~_against(template.canonical_m, faces)
        mouth = mouth_skin(template.canonical_m, faces, template.regions)
        self.lip: Bools = np.asarray(mask_of(template.regions, ("upper_lip", "lower_lip"))[faces].any(axis=1))
        self.lid: Bools = np.asarray(lid_skin(template.canonical_m, template.regions)[faces].any(axis=1))
        self.meeting: Bools = self.lid | np.asarray(mouth[faces].any(axis=1))
        meeting = lid_skin(template.canonical_m, template.regions) | mouth
        self.incidence = sp.csr_matrix(
            (np.ones(faces.size), (np.repeat(np.arange(len(faces)), 3), faces.ravel())), shape=(len(faces), n)
        )
        self.adjacency = (self.incidence.T @ self.incidence).tocsr()
        self.resting: Bools = np.zeros(len(faces), bool)
        self.resting[self_crossing(template.canonical_m, faces, self.face).ravel()] = True
        for _ in range(CONTACT_RINGS):
            touched = self.incidence.T @ self.resting > 0
            self.resting = self.incidence @ touched > 0
        self.nostril = inside_nostrils(template.canonical_m, faces, template.canonical_normals, template.regions)
        self.pocket: Bools = np.asarray(self.nostril[faces].any(axis=1))
        self.wings: Bools = _spread(self, self.nostril, WING_RINGS)
        # What the scan does not show of lids and lips is a fold that belongs there.
        self.closed: Bools = meeting & ~self.nostril
        self.skin = np.zeros(n, bool)
        self.skin[template.skin] = True
        self.local = np.full(n, -1)
        self.local[template.skin] = np.arange(len(template.skin))


def _spread(prepared: _Prepared, vertices: Bools, rings: int) -> Bools:
    """Return (M,) bool: the vertices, and so many rings around them."""
    for _ in range(rings):
        vertices = prepared.adjacency @ vertices > 0
    return vertices


@once_per_template
def _prepared(template: WarpTemplate) -> _Prepared:
    return _Prepared(template)


def find_defects(template: WarpTemplate, vertices: F64) -> Defects:
    """Return where the face of a deformed fine template, vertices (M, 3) metres, is not one-to-one.

    Parts that pass through each other on the template itself, such as closed lips, are not counted.
    """
    prepared = _prepared(template)
    flipped = _against(vertices, template.faces) & prepared.upright
    pairs = self_crossing(vertices, template.faces, prepared.face)
    pairs = pairs[~prepared.resting[pairs].all(axis=1)]
    # What crosses into a nostril is a fold of the nose, however near the lip.
    pocket = prepared.pocket[pairs].any(axis=1)
    contact = prepared.lip[pairs].any(axis=1) | (prepared.meeting[pairs].any(axis=1) & ~pocket)
    return Defects(flipped, pairs[~contact], pairs[contact])


def repair(
    template: WarpTemplate,
    vertices: F64,
    anchored: npt.NDArray[np.float64],
    surface: Surface | None = None,
) -> tuple[F64, RepairReport]:
    """Undo flips and crossings in failing patches of the face, and say what was done.

    A patch is what fails, the pocket it belongs to if the scan does not show it, and a few rings of skin, more with
    every attempt. Inside, the neutral shape is put in place by the similarity of the patch's rim, and the rim's
    displacement from there is filled in harmonically. A harmonic fill with positive weights never leaves the range of
    its boundary, so it cannot overshoot as the thin plate does. What still fails is filled in harmonically without the
    neutral shape, a few rings wide at most. Between the patch as it was and the patch filled in,
    the smallest step is taken that leaves fewest failing triangles, and only if they are fewer than before, and only
    if the scan allows it: a patch of too many vertices, one that moves firmly held ones beside the fold by more
    than a millimetre, and one that leaves the scan stay as they are, for the verdict.

    Parameters
    ----------
    vertices : (M, 3) float64
        Deformed fine template, metres.
    anchored : (M,) float64
        Weight of each vertex's last target.
    surface : Surface, optional
        The scan.

    Returns
    -------
    vertices : (M, 3) float64
        Equal to the input outside the patches.
    report : RepairReport
    """
    prepared = _prepared(template)
    before = find_defects(template, vertices)
    current, defects = vertices, before
    trust = np.where(prepared.nostril, 0.0, anchored)
    for rings, one_yields, detail in (
        *((rings, one_yields, True) for rings, one_yields in ATTEMPTS),
        *((rings, False, False) for rings in MEMBRANE_RINGS),
    ):
        if not defects.any.any():
            break
        held_by = trust[template.faces].mean(axis=1) if one_yields else None
        seeds = _seeds(defects, held_by)
        labels = _bounded(_patches(prepared, seeds, trust > HELD_WEIGHT, rings), ~prepared.nostril)
        if labels.max() < 0:
            continue
        filled = _fill(template, prepared, current, labels, detail)
        folded = _spread(prepared, prepared.incidence.T @ before.any > 0, FOLD_RINGS) | prepared.wings
        current, defects = _search(
            template, current, filled, labels, defects, _Scan(vertices, trust, folded, surface, labels)
        )
    moved = (current != vertices).any(axis=1)
    contacts = np.unique(defects.contacts)
    overlap = lip_overlap_m(current, template.faces, template.regions) if prepared.lip[contacts].any() else 0.0
    lids = int(prepared.lid[contacts].sum())
    return current, RepairReport(before, defects, overlap, lids, moved, int(prepared.face.sum()))


class _Scan:
    """What the scan says of patches: which of them a repair would harm."""

    def __init__(
        self,
        vertices: F64,
        trust: F64,
        folded: Bools,
        surface: Surface | None,
        labels: npt.NDArray[np.int64],
    ) -> None:
        self.vertices, self.labels, self.surface = vertices, labels, surface
        self.count = int(labels.max()) + 1
        self.held = np.flatnonzero((labels >= 0) & (trust > HELD_WEIGHT) & ~folded)
        self.firm = np.flatnonzero((labels >= 0) & (trust > FIRM_WEIGHT) & ~folded)
        self.residual = self._residual(vertices)

    def _residual(self, vertices: F64) -> F64:
        """Mean distance of each patch's held vertices to the scan, metres."""
        if self.surface is None or not len(self.held):
            return np.zeros(self.count)
        points = vertices[self.held]
        distance = np.linalg.norm(self.surface.closest(points).position - points, axis=1)
        owner = self.labels[self.held]
        members = np.bincount(owner, minlength=self.count)
        return np.bincount(owner, distance, self.count) / np.maximum(members, 1)

    def harmed(self, vertices: F64) -> Bools:
        """Return (count,) bool: patches that would do worse than their folds."""
        far = np.linalg.norm(vertices[self.firm] - self.vertices[self.firm], axis=1) > MOST_MOVED_M
        torn = np.bincount(self.labels[self.firm][far], minlength=self.count) > 0
        return np.asarray(torn | (self._residual(vertices) > self.residual + MOST_RESIDUAL_M))


def _bounded(labels: npt.NDArray[np.int64], counted: Bools) -> npt.NDArray[np.int64]:
    """Drop the patches with too many vertices that count, and number the others anew."""
    inside = labels >= 0
    small = np.bincount(labels[inside], counted[inside], int(labels.max()) + 1) <= MOST_VERTICES
    numbers = np.where(small, np.cumsum(small) - 1, -1)
    return np.where(inside, numbers[labels], -1)


def _seeds(defects: Defects, held_by: F64 | None) -> Bools:
    """Return (G,) bool: triangles that must move; given ``held_by`` (G,), of two that cross only the less held."""
    if held_by is None:
        return defects.any
    seeds = defects.flipped.copy()
    weight = held_by[defects.pairs]
    seeds[defects.pairs[weight <= weight.min(axis=1, keepdims=True)]] = True
    return seeds


def _patches(prepared: _Prepared, seeds: Bools, held: Bools, rings: int) -> npt.NDArray[np.int64]:
    """Return (M,) patch number of each vertex, -1 outside the patches."""
    inside = (prepared.incidence.T @ seeds > 0) & prepared.skin
    for _ in range(POCKET_RINGS):
        inside |= (prepared.adjacency @ inside > 0) & ~held & prepared.skin & ~prepared.closed
    for _ in range(rings):
        inside |= (prepared.adjacency @ inside > 0) & prepared.skin
    index = np.flatnonzero(inside)
    labels = np.full(len(inside), -1, np.int64)
    labels[index] = connected_components(prepared.adjacency[index][:, index], directed=False)[1]
    return labels


def _fill(
    template: WarpTemplate, prepared: _Prepared, current: F64, labels: npt.NDArray[np.int64], detail: bool
) -> F64:
    """Return vertices (M, 3) with every patch replaced by the neutral shape bent to its rim, or else by a membrane."""
    filled = current.copy()
    level = template.fine
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        near = np.zeros(len(current), bool)
        near[members] = True
        near = (prepared.adjacency @ near > 0) & prepared.skin & (labels < 0)
        rim = np.flatnonzero(near)
        if len(rim) < 4:
            continue  # a whole component without a rim: nothing holds it
        home = np.zeros_like(current)
        if detail:
            wide = np.flatnonzero((prepared.adjacency @ near > 0) & prepared.skin & (labels < 0))
            home = fit_similarity(template.canonical_m[wide], current[wide]).apply(template.canonical_m)
        inner, outer = prepared.local[members], prepared.local[rim]
        rows = level.laplacian[inner]
        solved = splu(rows[:, inner].tocsc()).solve(-(rows[:, outer] @ (current[rim] - home[rim])))
        filled[members] = home[members] + solved
    return filled


def _search(
    template: WarpTemplate,
    current: F64,
    filled: F64,
    labels: npt.NDArray[np.int64],
    defects: Defects,
    scan: _Scan,
) -> tuple[F64, Defects]:
    """Step each patch towards its fill as little as leaves fewest defects, never to more, nor against the scan."""
    count = int(labels.max()) + 1
    owner = labels[template.faces].max(axis=1)

    def failing(found: Defects) -> npt.NDArray[np.int64]:
        # A crossing counts against every patch that has a part in it.
        owners = np.concatenate([owner[found.flipped], owner[found.pairs].ravel()])
        return np.bincount(owners[owners >= 0], minlength=count)

    best_step, best = np.zeros(count), failing(defects)
    for step in BLENDS:
        trial = np.where((best > 0) | (best_step > 0), step, 0.0)
        blended = _blend(current, filled, labels, trial)
        left = failing(find_defects(template, blended))
        left[scan.harmed(blended)] = len(template.faces)
        better = (left < best) | ((left == best) & (best_step > 0))
        best_step, best = np.where(better, trial, best_step), np.where(better, left, best)
    moved = _blend(current, filled, labels, best_step)
    after = find_defects(template, moved)
    if after.any.sum() >= defects.any.sum():
        return current, defects
    return moved, after


def _blend(current: F64, filled: F64, labels: npt.NDArray[np.int64], steps: npt.NDArray[np.float64]) -> F64:
    result = current.copy()
    inside = labels >= 0
    result[inside] += steps[labels[inside], None] * (filled[inside] - current[inside])
    return result
