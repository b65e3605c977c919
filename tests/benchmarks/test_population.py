"""``python -m benchmarks population``: components of a model of people and of their mirror images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.marks import population
from datagen.heads.base import LinearHead
from datagen.heads.population import both_sides, spread
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head


def test_the_covariance_is_the_mean_of_the_model_s_and_its_mirror_image_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in Anny's own topology, turned and enlarged: one component on the left cheek, one on the whole face."""
    anny = load_head("anny")
    v, faces = anny.template.vertices, anny.template.faces
    foremost = v[v[:, 2].argmax()]
    left = v[(v[:, 0] - 0.03 - 1e3 * (np.abs(v[:, 1] - foremost[1]) > 0.01)).argmax()]

    def bump(at: np.ndarray, direction: list[float]) -> np.ndarray:
        return 2e-3 * np.exp(-0.5 * ((v - at) ** 2).sum(axis=1) / 0.04**2)[:, None] * np.array(direction)

    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    true = np.stack([bump(left, [1, 0.3, 0]), bump(foremost, [0, 0.5, 1])])
    template = SimpleNamespace(
        vertices=1.1 * v @ turn.T, faces=faces, regions=anny.template.regions, landmarks=lambda: v[:68] @ turn.T
    )
    people = LinearHead(template, np.float32(1.1 * true @ turn.T), np.zeros((0, *v.shape), np.float32), ())  # type: ignore[arg-type]
    monkeypatch.setattr(
        population, "register_frame", lambda mesh, *_args, **_given: SimpleNamespace(vertices=mesh.vertices)
    )
    content, figures = population.learn_population(anny, people)

    assert content["template"] == anny.template.digest
    assert figures["share_of_variance"] == pytest.approx(1.0, abs=1e-6)
    points = v[content["vertices"]]
    assert (points[:, 0] > -1e-6).all()
    modes = content["modes"] * content["step_m"][:, None, None].astype(np.float64)
    found = spread(v, *both_sides(points, modes, content["parity"]))
    twin = np.linalg.norm(v[:, None] * [-1, 1, 1] - v, axis=2).argmin(axis=0)
    both = np.concatenate([true, (true * [-1, 1, 1])[:, twin]]) / np.sqrt(2)
    face = np.flatnonzero(mask_of(anny.template.regions, FACE_REGIONS))[::20]
    a, b = (m[:, face].reshape(len(m), -1) for m in (found, both))
    off = np.abs(a.T @ a - b.T @ b).max()
    assert off < 0.05 * np.abs(b.T @ b).max()
