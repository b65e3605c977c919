"""``datagen init`` of pictures alone: no scans anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datagen.sources.capture_draft import Answers
from datagen.sources.capture_folders import draft_captures
from tests.support.draft_folders import POSE, K, only, write


@pytest.mark.parametrize("unit", ["m", "mm"])
@pytest.mark.parametrize(
    ("paths", "images"),
    [
        ([f"anna/take/{c}/{f}.png" for c in "lr" for f in (3, 4)], "{camera}/{frame}.png"),
        ([f"{c}/IMG_{f:04d}.png" for c in "lr" for f in (3, 4)], "{camera}/IMG_{frame:04d}.png"),
        ([f"{f:03d}/{c}.png" for c in "lr" for f in (3, 4)], "{frame:03d}/{camera}.png"),
        ([f"ben/{c}_{f}.png" for c in "lr" for f in (3, 4)], "{camera}_{frame}.png"),
    ],
)
def test_pictures_of_several_cameras_are_taken_alone(tmp_path: Path, paths: list[str], images: str, unit: str) -> None:
    """Two cameras a metre from where they look, 90 degrees apart."""
    metre = 1 if unit == "m" else 1000
    write(tmp_path, *paths)
    poses = {"l": POSE, "r": [[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 1], [0, 0, 0, 1]]}
    cameras = {
        name: {"K": K, "world_to_camera": [[*row[:3], row[3] * metre] for row in pose[:3]] + [pose[3]]}
        for name, pose in poses.items()
    }
    (tmp_path / "calibration.json").write_text(json.dumps({"cameras": cameras}))
    found = only(draft_captures(tmp_path, Answers(fps=25, pixel_center=0.5)))
    assert (found["surface"], found["images"], found["frames"], found["unit"]) == ("none", images, [3, 4], "?")
    assert "scan" not in found
    assert [name for name in ("m", "cm", "mm") if f'"{name}", which makes it 1.00 m' in found["_unit"]] == [unit]
    found = only(draft_captures(tmp_path, Answers(unit=unit)))
    assert "?" not in json.dumps({key: value for key, value in found.items() if not key.startswith("_")})
