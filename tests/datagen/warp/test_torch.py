"""The dense stage in torch, against the CPU's and against Open3D's closest points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from datagen.common.errors import DependencyError
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import weld
from datagen.heads.registry import load_head
from datagen.simulation.plan import plan_sequences, simulate_sequence
from datagen.sources.folder import FolderCaptures
from datagen.sources.registry import SimulatedSource
from datagen.warp.deform import Start, deform
from datagen.warp.start import Given, begin
from datagen.warp.surface import PointSurface, Surface
from datagen.warp.template import REFERENCE_DATA_WEIGHT, WarpTemplate, prepare_template
from datagen.warp.torch_closest import TorchSurface, closest_on_triangles
from datagen.warp.torch_dense import deform_batch
from datagen.warp.torch_level import TorchLevel

CPU = torch.device("cpu")
# Half of the vertices must agree to this; rounding decides ties of gates, and a vertex more or less has its target.
MEDIAN_MM = 0.02


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Batch:
    template: WarpTemplate
    surfaces: list[Surface]
    starts: list[Start]
    landmarks: list[Landmarks | None]

    def torch(self, device: str, frames: slice = slice(None)) -> list[tuple[np.ndarray, np.ndarray]]:
        return deform_batch(
            self.template, self.surfaces[frames], self.starts[frames], self.landmarks[frames], device=device
        )


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Three frames with two schedules: from a registration without and with landmarks, and from landmarks alone."""
    root = tmp_path_factory.mktemp("captured")
    config = SimulatedSource(kind="simulated", subjects=1, frames=2, cameras=4, image_size=64, scan_vertices=5000)
    (plan,) = plan_sequences(config, seed=4)
    simulate_sequence(plan, root / "captures", root / "truth")
    source = FolderCaptures(Path(root / "captures"))
    head = load_head("anny")
    made = Batch(prepare_template(head.template, 0), [], [], [])
    for frame, tracked, marked in ((0, True, False), (1, True, True), (1, False, True)):
        content = source.frame(plan.key, frame)
        landmarks = content.landmarks if marked else None
        registration = content.registration if tracked else None
        surface, start, _ = begin(head, made.template, weld(content.scan)[0], Given(registration, landmarks))
        made.surfaces.append(surface)
        made.starts.append(start)
        made.landmarks.append(landmarks)
    return made


@pytest.fixture(scope="module")
def on_cpu(batch: Batch) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        deform(batch.template, surface, start, landmarks)
        for surface, start, landmarks in zip(batch.surfaces, batch.starts, batch.landmarks, strict=True)
    ]


@pytest.fixture(scope="module")
def in_torch(batch: Batch) -> list[tuple[np.ndarray, np.ndarray]]:
    return batch.torch("cpu")


def assert_same(
    found: list[tuple[np.ndarray, np.ndarray]], expected: list[tuple[np.ndarray, np.ndarray]], batch: Batch
) -> None:
    for (vertices, anchored), (right, right_anchored), start in zip(found, expected, batch.starts, strict=True):
        assert vertices.dtype == anchored.dtype == np.float64
        off_mm = np.linalg.norm(vertices - right, axis=1) * 1000
        travelled_mm = np.linalg.norm(right - batch.template.subdivide @ start.vertices, axis=1) * 1000
        assert np.median(off_mm) < MEDIAN_MM
        assert np.median(off_mm) < 0.05 * np.median(travelled_mm)
        assert np.median(np.abs(anchored - right_anchored)[right_anchored > 0]) < 0.01


def test_torch_gives_what_the_cpu_gives(
    batch: Batch, in_torch: list[tuple[np.ndarray, np.ndarray]], on_cpu: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    assert_same(in_torch, on_cpu, batch)


def test_a_frame_does_not_depend_on_the_others_of_its_batch(
    batch: Batch, in_torch: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    ((alone, _),) = batch.torch("cpu", slice(1, 2))
    assert np.median(np.linalg.norm(alone - in_torch[1][0], axis=1)) * 1000 < MEDIAN_MM


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives(batch: Batch, on_cpu: list[tuple[np.ndarray, np.ndarray]]) -> None:
    assert_same(batch.torch("cuda"), on_cpu, batch)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_asking_for_a_missing_device_says_what_to_do(batch: Batch) -> None:
    with pytest.raises(DependencyError, match="warp on the CPU"):
        batch.torch("cuda")


def test_both_preconditioners_invert_the_same_system(batch: Batch) -> None:
    level = prepare_template(batch.template.head, 0).fine
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(len(level.rest), 2, 3)))
    stiffness = 1e-9
    system = stiffness * level.bending + sp.diags(np.where(level.attract, REFERENCE_DATA_WEIGHT, 1e-3))
    size = float(abs(system).sum(axis=1).max())
    for dense in (True, False):
        z = TorchLevel(level, CPU, dense=dense).preconditioner(stiffness)(x)
        # Backward stable: the residual is of the size of rounding in the product.
        residual = system @ z.flatten(1).numpy() - x.flatten(1).numpy()
        assert np.abs(residual).max() < 1e-13 * size * float(z.abs().max())


@pytest.mark.parametrize("spread_m", [0.0, 0.003, 0.02])
def test_closest_points_are_open3ds(batch: Batch, spread_m: float) -> None:
    surface, rng = batch.surfaces[0], np.random.default_rng(2)
    query = batch.starts[0].vertices + spread_m * rng.normal(size=batch.starts[0].vertices.shape)
    hit = surface.closest(query)
    found = TorchSurface(surface, CPU).closest(torch.from_numpy(query), reach_m=0.04)
    right = np.linalg.norm(hit.position - query, axis=1)
    distance = np.linalg.norm(found.position.numpy() - query, axis=1)
    near = right < 0.04
    assert near.mean() > 0.5
    np.testing.assert_allclose(distance[near], right[near], atol=1e-7)
    assert (distance > right - 1e-6).all()
    assert (found.on_border.numpy() == hit.on_border)[near].mean() > 0.97
    same_place = near & (np.linalg.norm(found.position.numpy() - hit.position, axis=1) < 1e-6)
    assert same_place.sum() > 0.99 * near.sum()
    assert np.abs(found.normal.numpy() - hit.normal)[same_place].max() < 1e-3


def test_point_clouds_answer_with_tangent_discs(batch: Batch) -> None:
    cloud = PointSurface(batch.surfaces[0].vertices, batch.surfaces[0].vertices.mean(axis=0))
    query = batch.starts[0].vertices[::7]
    hit = cloud.closest(query)
    found = TorchSurface(cloud, CPU).closest(torch.from_numpy(query), reach_m=0.04)
    agree = np.linalg.norm(found.position.numpy() - hit.position, axis=1) < 1e-9
    assert agree.mean() > 0.999


def test_closest_point_on_a_triangle_is_exact_in_every_region_and_without_area() -> None:
    rng = np.random.default_rng(5)
    triangle = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]]).double()
    points = torch.from_numpy(rng.uniform(-1, 2, (200, 1, 3)))
    weights, distance = closest_on_triangles(points, triangle.expand(200, 2, 3, 3))
    # By sampling the triangles finely: no sample is nearer, and the nearest one is almost as near.
    u, v = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    inside = u + v <= 1 + 1e-12
    samples = np.stack([1 - u - v, u, v], axis=-1)[inside] @ triangle.numpy()
    sampled = np.linalg.norm(samples[:, None] - points.numpy()[None], axis=3).min(axis=2).T
    assert (distance.numpy() <= sampled + 1e-12).all()
    assert np.abs(distance.numpy() - sampled).max() < 0.05
    assert float(weights.min()) >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(distance))
