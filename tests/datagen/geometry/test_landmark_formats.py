"""Landmark files of other programs: read with a unit and an order, or refused with what is missing."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import InputError, LandmarkError
from datagen.geometry.landmark_orders import ORDERS, parse_order
from datagen.geometry.landmarks import Landmarks, read_landmarks

THREE = np.array([[-45.1, 32.0, 40.2], [46.0, 31.2, 39.8], [0.4, -2.0, 92.3]])
NUMBERS = (36, 45, 30)
ALL = np.random.default_rng(0).normal(size=(68, 3)) * 40
MESHLAB = """<!DOCTYPE PickedPoints>
<PickedPoints>
 <point x="-45.1" y="32.0" z="40.2" active="1" name="36"/>
 <point x="46.0" y="31.2" z="39.8" active="1" name="45"/>
 <point x="0.4" y="-2.0" z="92.3" active="1" name="30"/>
</PickedPoints>
"""
PTS = "version: 1\nn_points: 3\n{\n-45.1 32.0 40.2\n46.0 31.2 39.8\n0.4 -2.0 92.3\n}\n"
FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = LPS
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
1,-45.1,32.0,40.2,0,0,0,1,1,1,0,R_exo,,
2,46.0,31.2,39.8,0,0,0,1,1,1,0,L_exo,,
3,0.4,-2.0,92.3,0,0,0,1,1,1,0,tip,,
"""
LJSON = {"version": 3, "groups": {"LJSON": {"landmarks": {"points": THREE.tolist(), "connectivity": []}, "labels": []}}}
TEXT = "-45.1 32.0 40.2\n46.0 31.2 39.8\n0.4 -2.0 92.3\n"


def _markups(system: str, points: np.ndarray) -> str:
    listed = [
        {"id": str(k), "label": f"F-{k}", "position": xyz, "positionStatus": "defined"}
        for k, xyz in enumerate(points.tolist(), 1)
    ]
    listed.append({"id": "9", "label": "F-9", "position": [0, 0, 0], "positionStatus": "undefined"})
    return json.dumps({"@schema": "x", "markups": [{"coordinateSystem": system, "controlPoints": listed}]})


def _npy(points: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, points)
    return buffer.getvalue()


def save(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meshlab.pp", MESHLAB),
        ("ibug.pts", PTS),
        ("slicer.fcsv", FCSV),
        (
            "old.fcsv",
            FCSV.replace("LPS", "RAS")
            .replace(",-45.1,32.0", ",45.1,-32.0")
            .replace(",46.0,31.2", ",-46.0,-31.2")
            .replace(",0.4,-2.0", ",-0.4,2.0"),
        ),
        ("menpo.ljson", json.dumps(LJSON)),
        (
            "first.ljson",
            json.dumps({"version": 1, "groups": {"a": {"landmarks": [{"point": p} for p in THREE.tolist()]}}}),
        ),
        ("xyz.txt", TEXT),
        ("counted.lmk", f"3\n{TEXT}"),
        ("named.txt", "# marks\nexo_r -45.1, 32.0, 40.2\nexo_l 46.0, 31.2, 39.8\ntip 0.4, -2.0, 92.3\n"),
        ("behind.lmk", "-45.1 32.0 40.2 exo_r\n46.0 31.2 39.8 exo_l\n0.4 -2.0 92.3 tip\n"),
        ("head.csv", "name;x;y;z\na;-45.1;32.0;40.2\nb;46.0;31.2;39.8\nc;0.4;-2.0;92.3\n"),
        ("array.npy", _npy(THREE)),
        ("list.json", json.dumps(THREE.tolist())),
        ("faces.json", json.dumps([THREE.tolist()])),
    ],
)
def test_points_are_what_the_user_says(tmp_path: Path, name: str, content: str | bytes) -> None:
    found = read_landmarks(save(tmp_path, name, content), unit="mm", order=NUMBERS)
    assert found.indices.tolist() == [30, 36, 45]
    np.testing.assert_allclose(found.points, THREE[[2, 0, 1]] / 1000)


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_markups_of_3d_slicer(tmp_path: Path, system: str) -> None:
    points = THREE * ([1, 1, 1] if system == "LPS" else [-1, -1, 1])
    path = save(tmp_path, "m.mrk.json", _markups(system, points))
    # The fourth was never placed.
    found = read_landmarks(path, unit="mm", order=(*NUMBERS, 8))
    np.testing.assert_allclose(found.points, THREE[[2, 0, 1]] / 1000)
    with pytest.raises(LandmarkError, match="has the coordinate system 'IJK'"):
        read_landmarks(save(tmp_path, "m.mrk.json", _markups("IJK", THREE)), unit="mm", order=(*NUMBERS, 8))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pp", MESHLAB),
        ("a.txt", "36 -45.1 32.0 40.2\n45 46.0 31.2 39.8\n30 0.4 -2.0 92.3\n"),
        ("a.csv", "index,x,y,z\n36,-45.1,32.0,40.2\n45,46.0,31.2,39.8\n30,0.4,-2.0,92.3\n"),
        ("a.json", json.dumps({"points": dict(zip(map(str, NUMBERS), THREE.tolist(), strict=True))})),
    ],
)
def test_numbers_of_the_file_are_used(tmp_path: Path, name: str, content: str) -> None:
    path = save(tmp_path, name, content)
    found = read_landmarks(path, unit="mm")
    assert found.indices.tolist() == [30, 36, 45]
    np.testing.assert_allclose(found.points[1], THREE[0] / 1000)
    assert read_landmarks(path, unit="mm", order="ibug68_from_1").indices.tolist() == [29, 35, 44]
    assert read_landmarks(path, unit="mm", order="flame51").indices.tolist() == [47, 53, 62]
    with pytest.raises(LandmarkError, match="states no unit"):
        read_landmarks(path)


def test_orders_by_number_of_points(tmp_path: Path) -> None:
    text = "\n".join(" ".join(map(str, xyz)) for xyz in ALL.tolist())
    path = save(tmp_path, "a.txt", text)
    np.testing.assert_allclose(read_landmarks(path, unit="mm").points, ALL / 1000)
    np.testing.assert_allclose(
        read_landmarks(save(tmp_path, "a.npy", _npy(ALL[17:])), unit="mm", order="ibug51").points, ALL[17:] / 1000
    )
    assert read_landmarks(save(tmp_path, "a.npy", _npy(ALL[17:])), unit="mm", order="flame51").indices[0] == 17
    unseen = np.where(np.arange(68)[:, None] == 4, np.nan, ALL)
    assert 4 not in read_landmarks(save(tmp_path, "a.npy", _npy(unseen)), unit="mm").indices
    mesh = np.random.default_rng(1).normal(size=(478, 3))
    found = read_landmarks(save(tmp_path, "m.npy", _npy(mesh)), unit="cm")
    assert len(found.indices) == 14
    # Corners of eyes and mouth, and the nose tip.
    for ours, theirs in ((36, 33), (39, 133), (42, 362), (45, 263), (48, 61), (54, 291), (30, 1)):
        np.testing.assert_allclose(found.points[found.indices.tolist().index(ours)], mesh[theirs] / 100)


@pytest.mark.parametrize(
    ("name", "content", "order", "message"),
    [
        ("a.fcsv", FCSV, None, "has 3 points without a number, called R_exo, L_exo, tip.*--landmark-order.*36,45,30"),
        ("a.txt", TEXT, None, "a plain table of numbers, has 3 points without a number"),
        ("a.txt", TEXT, (1, 2), "has 3 points, but 2 numbers"),
        ("a.txt", TEXT, "ibug68", "has 3 points. Expected all 68 of ibug68"),
        ("a.txt", TEXT + "1 2\n", NUMBERS, "for a point"),
        ("a.txt", TEXT.replace("46.0", "4x"), NUMBERS, "has a line"),
        ("a.txt", TEXT.replace("46.0 31.2 39.8", "0 0 0"), NUMBERS, "point 45 is exactly"),
        ("a.pp", MESHLAB.replace('name="36"', 'name="68"'), None, "has a point 68.*from 0 or from 1"),
        ("a.pp", MESHLAB.replace('name="36"', 'name="45"'), None, "names a point twice"),
        ("a.pp", MESHLAB.replace("</Picked", "<Picked"), None, "cannot be read"),
        ("a.pp", MESHLAB.replace('active="1" name="36"', 'active="0" name="36"'), None, "has 2 landmarks"),
        ("a.pts", PTS.replace("n_points: 3", "n_points: 4"), NUMBERS, "has 3 points"),
        ("a.npy", _npy(THREE[:, :2]), NUMBERS, "points in a picture.*2d"),
        ("a.npy", _npy(THREE[0]), NUMBERS, r"shape \(3,\)"),
        ("a.npy", _npy(THREE)[:-9], NUMBERS, "cannot be read"),
        ("a.ljson", json.dumps({"groups": {"a": {}, "b": {}}}), NUMBERS, "2 groups"),
        ("a.json", '{"pts": 3}', NUMBERS, r"lacks points, scheme, unit.*MeshLab"),
        ("a.dat", b"\x00\x01\x02", NUMBERS, "for a point"),
        ("a.bin", b"\x00\x01\x02", NUMBERS, "cannot be read: it is not"),
    ],
)
def test_what_is_not_known_is_asked_for(
    tmp_path: Path, name: str, content: str | bytes, order: str | tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(LandmarkError, match=message):
        read_landmarks(save(tmp_path, name, content), unit="mm", order=order)


def test_orders_of_the_command_line() -> None:
    assert parse_order("36, 45,30") == NUMBERS
    assert parse_order("flame51") == "flame51"
    assert "ibug68_from_1" in ORDERS
    for wrong in ("dlib", "36,36,45", "36,68", ""):
        with pytest.raises(LandmarkError, match="landmark order"):
            parse_order(wrong)


@settings(max_examples=120, deadline=None)
@given(
    base=st.sampled_from([MESHLAB, PTS, FCSV, TEXT, json.dumps(LJSON), _markups("LPS", THREE)]),
    name=st.sampled_from(["a.pp", "a.txt", "a.fcsv", "a.json", "a.xyz"]),
    start=st.integers(0, 400),
    length=st.integers(0, 40),
    put=st.binary(max_size=6),
)
def test_any_damage_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, base: str, name: str, start: int, length: int, put: bytes
) -> None:
    data = base.encode()
    path = save(tmp_path_factory.mktemp("marks"), name, data[:start] + put + data[start + length :])
    with suppress(InputError):
        assert isinstance(read_landmarks(path, unit="mm", order=NUMBERS), Landmarks)
