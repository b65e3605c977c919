"""A scan, landmarks and registration that are all too small or too large agree with each other: the verdict says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.heads.base import HeadModel
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.sources.frame import Registration
from datagen.warp.engine import warp_frame
from datagen.warp.result import Verdict
from tests.support.places import SHARED_DATA

QUICK = WarpConfig(subdivisions=0)
JAMES = SHARED_DATA / "scans" / "menpo_james"


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


def assert_said(verdict: Verdict, usual: bool, size: float, tolerance: float) -> None:
    assert verdict.metrics["head_size"] == pytest.approx(size, rel=tolerance)
    said = [reason for reason in verdict.reasons if "times the template's size" in reason]
    assert len(said) == (not usual)
    if not usual:
        assert verdict.status != "pass"
        assert f"{verdict.metrics['head_size']:.2f} times" in said[0]


@pytest.mark.parametrize(
    ("given", "factor"), [("landmarks", 0.75), ("landmarks", 1.0), ("registration", 0.75), ("registration", 1.3)]
)
def test_a_scale_that_is_not_metric_is_said(head: HeadModel, given: str, factor: float) -> None:
    template = head.template
    vertices = template.vertices * factor
    points = template.landmarks() * factor
    warp = warp_frame(
        Mesh.of(vertices, template.faces),
        head,
        QUICK,
        landmarks=Landmarks(np.arange(68), points) if given == "landmarks" else None,
        registration=Registration("anny", vertices) if given == "registration" else None,
    )
    assert_said(warp.verdict, factor == 1, factor, 0.02)


@pytest.mark.realdata
@pytest.mark.skipif(not JAMES.is_dir(), reason="needs the shared scan of a real person")
@pytest.mark.parametrize(("factor", "with_landmarks"), [(1.0, True), (1.3, True), (0.75, False)])
def test_a_real_head_of_a_wrong_scale_is_said(head: HeadModel, factor: float, with_landmarks: bool) -> None:
    scan = read_mesh(JAMES / "james.obj", "mm")
    table = json.loads((JAMES / "landmarks.json").read_text())
    points = np.array(table["points"])[table["ibug68_order"]] * 1e-3 * factor
    marks = Landmarks(np.arange(68), points) if with_landmarks else None
    warp = warp_frame(Mesh.of(scan.vertices * factor, scan.faces), head, QUICK, landmarks=marks)
    assert_said(warp.verdict, factor == 1, 1.08 * factor, 0.05)
