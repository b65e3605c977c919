"""RealityCapture's cameras: matrices beside the pictures, angles in a table, what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datagen.sources.imports.realitycapture import rotation_of
from tests.datagen.sources.imports.test_imports import assert_same_studio, imported, only_frame, run
from tests.layouts.realitycapture import write_realitycapture


@pytest.mark.parametrize("model", ["SIMPLE_PINHOLE", "RADIAL", "OPENCV"])
def test_sidecars_come_back(tmp_path: Path, model: str) -> None:
    found = write_realitycapture(tmp_path / "work", model)
    out, _ = imported("realitycapture", tmp_path / "work")
    assert_same_studio(only_frame(out), found)


def test_a_table_comes_back(tmp_path: Path) -> None:
    found = write_realitycapture(tmp_path / "work", "RADIAL", table=True)
    out, said = imported("realitycapture", tmp_path / "work")
    assert ".xmp is safer" in said
    assert_same_studio(only_frame(out), found)


def test_angles_are_those_of_a_published_pair() -> None:
    # One camera that a user published in both forms; the last number of the matrix is cut off there.
    matrix = [
        0.982594073,
        0.185426734,
        -0.011216689,
        -0.032113633,
        0.110081027,
        -0.993403685,
        -0.182968856,
        0.976472782,
    ]
    found = rotation_of(163.736597399311, 83.4154313461628, 174.386496244756)
    np.testing.assert_allclose(found.ravel()[:8], matrix, atol=1e-6)


def test_missing_pictures_and_poses_are_named(tmp_path: Path) -> None:
    write_realitycapture(tmp_path / "work")
    (tmp_path / "work/images/c1.png").unlink()
    (tmp_path / "work/images/c9.xmp").write_text("<x/>")
    out, said = imported("realitycapture", tmp_path / "work")
    assert "1 of 3 pictures, and so their cameras: images/c1.xmp" in said
    assert "left out: c9.xmp, which has no pose" in said
    assert sorted(only_frame(out).images) == ["c0", "c2"]


def _replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "c1.xmp cannot be read"),
        (lambda text: "<!DOCTYPE x>" + text, "it defines entities"),
        (_replaced("brown3t2", "division"), "the distortion model 'division'"),
        (_replaced('Skew="0"', 'Skew="1"'), "a skew of 1"),
        (_replaced('FocalLength35mm="', 'FocalLength35mm="-'), "a focal length of -"),
        (_replaced('FocalLength35mm="', 'FocalLength35mm="x'), "FocalLength35mm is"),
        (_replaced("<xcr:Rotation>", "<xcr:Rotation>1 "), "Rotation is"),
        (_replaced("<xcr:Rotation>", "<xcr:Rotation>9"), "Rotation is no rotation"),
        (_replaced("<xcr:Position>", "<xcr:Position>nan "), "Position is"),
        (_replaced("<xcr:DistortionCoeficients>", "<xcr:DistortionCoeficients>99"), "can be filled"),
    ],
)
def test_a_bad_sidecar_is_one_message(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    write_realitycapture(tmp_path / "work")
    path = tmp_path / "work/images/c1.xmp"
    path.write_text(change(path.read_text()))
    code, said = run("import", "realitycapture", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_replaced("c1.png", "c0.png"), "'c0.png' twice"),
        (_replaced("c1.png", "../c1.png"), "lies outside"),
        (_replaced("alt", "z"), "has no alt"),
        (_replaced("c1.png,", "c1.png,x"), "x of c1.png is"),
        (_replaced(",k4,", ",k4"), "has no k4, t1"),
        (lambda _: "#name,x,y,\n", "has no picture that was aligned"),
    ],
)
def test_a_bad_table_is_one_message(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    write_realitycapture(tmp_path / "work", "RADIAL", table=True)
    path = tmp_path / "work/cameras.csv"
    path.write_text(change(path.read_text()))
    code, said = run("import", "realitycapture", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert message in said
