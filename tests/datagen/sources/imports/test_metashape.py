"""Metashape's cameras: the chunk's world with its scale, p1 and p2 its way, fisheyes, what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datagen.sources.imports.test_imports import assert_same_studio, imported, only_frame, run
from tests.layouts.metashape import write_metashape


@pytest.mark.parametrize("component", [True, False])
@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV", "OPENCV_FISHEYE"])
def test_a_workspace_comes_back(tmp_path: Path, model: str, component: bool) -> None:
    found = write_metashape(tmp_path / "work", model, component=component)
    out, said = imported("metashape", tmp_path / "work")
    assert "left out: 1 of 4 cameras" in said
    assert_same_studio(only_frame(out), found)


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    write_metashape(tmp_path / "work")
    (tmp_path / "work/images/c2.png").unlink()
    out, said = imported("metashape", tmp_path / "work")
    assert "1 of 3 pictures: c2" in said
    assert sorted(only_frame(out).images) == ["c0", "c1"]


def _replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-40], "cameras.xml cannot be read"),
        (lambda _: "<!DOCTYPE x [<!ENTITY a 'b'>]><document/>", "it defines entities"),
        (lambda _: "<document/>", "has 0 chunks"),
        (_replaced('class="adjusted"', 'class="other"'), "no adjusted calibration"),
        (_replaced('type="frame" class="adjusted"', 'type="spherical" class="adjusted"'), "the type 'spherical'"),
        (_replaced("<k1>", "<p3>1</p3><k1>"), "p3, p4"),
        (_replaced("<k1>", "<k1>x"), "k1 of sensor 0"),
        (_replaced('<resolution width="96"', '<resolution width="0"'), "has no width"),
        (_replaced("<scale>3.7", "<scale>nan"), "a scale of"),
        (_replaced('label="c1"', 'label="c0"'), "two cameras 'c0'"),
        (_replaced('label="c1"', 'label="../c0"'), "cannot be the name of a camera"),
        (_replaced('label="c', 'label="d'), "has none of the 3 pictures"),
        (_replaced("<transform>", "<moved>"), "cannot be read"),
        (_replaced('sensor_id="1"', 'sensor_id="8"'), "sensor 8 has no adjusted"),
    ],
)
def test_a_bad_export_is_one_message(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    write_metashape(tmp_path / "work")
    path = tmp_path / "work/cameras.xml"
    path.write_text(change(path.read_text()))
    code, said = run("import", "metashape", tmp_path / "work", "--out", tmp_path / "captures", "--unit", "mm")
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))
