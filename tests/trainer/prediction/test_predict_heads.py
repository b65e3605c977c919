"""Heads in pictures of any framing: boxes that are given, faces that a detector finds, several of them, over time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from PIL import Image

import trainer.cli
from datagen.common.errors import InputError
from tests.support.predict_scene import clip, write_video
from tests.support.stand_in_detector import stand_in_python
from tests.support.trainer_scene import build_scene
from trainer.predict import PredictOptions, predict
from trainer.prediction.frames import ImageFiles, SourceFrame
from trainer.prediction.heads import LOOK_PX, Head, choose, find_heads, given_heads, head_of_face, overlap

PLAIN = ("maps", "ply", "videos", "viewer")
SIDE = 56


def scene(*places: tuple[int, int], size: tuple[int, int] = (200, 120), subject: int = 3) -> np.ndarray:
    """A picture of (width, height) with an ellipsoid's square at each place."""
    picture = np.full((size[1], size[0], 3), 90, np.uint8)
    view = clip(subject, 1, SIDE)[0]["image"].transpose(1, 2, 0)
    for left, top in places:
        picture[top : top + SIDE, left : left + SIDE] = view
    return picture


def test_given_boxes_are_the_heads_with_a_margin() -> None:
    (head,) = given_heads(["100,40,56,40"])
    left, top, right, bottom = head("f1", 0, (200, 120))  # type: ignore[misc]
    assert (left + right, top + bottom) == (256, 120)
    assert right - left == bottom - top == pytest.approx(1.15 * 56)
    with pytest.raises(InputError, match="--box lies outside f1, which is 80 × 60"):
        head("f1", 0, (80, 60))
    for text in ("1,2,3", "1,2,0,4", "a,b,c,d", "1,2,inf,4", "1,2,-3,4"):
        with pytest.raises(InputError, match=f"--box {text}"):
            given_heads([text])


def face(left: float, top: float, width: float, height: float) -> np.ndarray:
    """Points (1, 4, 3) of a face whose box is this."""
    corners = np.array([[left, top], [left + width, top], [left, top + height], [left + width, top + height]])
    return np.concatenate([corners, np.zeros((4, 1))], 1)[None]


def test_the_square_of_a_head_lies_about_its_face() -> None:
    left, top, right, bottom = head_of_face(face(10, 20, 80, 100)[0, :, :2])
    assert right - left == bottom - top == pytest.approx(170)
    assert (left + right) / 2 == pytest.approx(50)
    assert (top + bottom) / 2 == pytest.approx(70 - 8)


def frames_of(*pictures: tuple[int, int]) -> list[tuple[int, SourceFrame]]:
    """Frames of pictures of (width, height), as they are looked at."""
    made = []
    for number, (width, height) in enumerate(pictures):
        scale = LOOK_PX / max(width, height)
        content = (0, 0, round(width * scale), round(height * scale))
        image = np.zeros((3, LOOK_PX, LOOK_PX), np.uint8)
        region = (0.0, 0.0, float(width), float(height))
        made.append((number, SourceFrame(f"f{number}", image, content, (width, height), region)))
    return made


def in_order(answers: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    waiting = list(answers)
    return lambda _: waiting.pop(0) if waiting else NONE


NONE = np.zeros((0, 4, 3))


def test_faces_come_back_in_the_pixels_of_their_picture() -> None:
    (head,) = find_heads(frames_of((LOOK_PX // 2, LOOK_PX // 4)), in_order([face(100, 100, 160, 200)]), linked=False)
    # Looked at twice as large.
    assert head.regions[0] == pytest.approx((5, 7, 175, 177))
    assert head.found == 1


def test_a_face_too_small_for_the_whole_is_looked_for_in_parts_and_taken_once() -> None:
    side = LOOK_PX
    half, quarter = side // 2, side // 4
    # The last of nine halves; then the last two of 49 quarters, which overlap: the same face in both.
    (head,) = find_heads(frames_of((side, side)), in_order([NONE, *[NONE] * 8, face(200, 150, 30, 40)]), linked=False)
    left, top, right, _ = head.regions[0]
    middle = ((left + right) / 2, top + (right - left) / 2)
    assert middle == pytest.approx((half + 215, half + 170 - 3.2))
    step = (side - quarter) / 6
    answers = [*[NONE] * 10, *[NONE] * 47, face(100 + step, 150, 30, 40), face(100, 150, 30, 40)]
    (head,) = find_heads(frames_of((side, side)), in_order(answers), linked=False)
    assert (head.regions[0][0] + head.regions[0][2]) / 2 == pytest.approx(3 * quarter + 115, abs=1)


def test_over_time_a_head_is_where_it_was_and_missing_frames_are_filled() -> None:
    moving = [np.concatenate([face(100 + 8 * t, 100, 100, 120), face(600, 300, 150, 180)]) for t in range(9)]
    moving[4] = moving[4][1:]
    for number in (0, 1, 7):
        moving[number] = moving[number][::-1].copy()
    heads = find_heads(frames_of(*[(LOOK_PX, LOOK_PX)] * 9), in_order(moving), linked=True)
    assert [(head.found, len(head.regions)) for head in heads] == [(9, 9), (8, 9)]
    large, small = heads
    assert large.regions[0][2] - large.regions[0][0] == pytest.approx(1.7 * 180)
    middles = [(small.regions[t][0] + small.regions[t][2]) / 2 for t in range(9)]
    assert middles[4] == pytest.approx(150 + 8 * 4, abs=1)
    assert all(5 < step < 9 for step in np.diff(middles)[1:-1])
    assert overlap(large.regions[3], small.regions[3]) == 0


def test_of_photos_the_largest_is_the_first_of_each() -> None:
    answers = [np.concatenate([face(10, 10, 50, 60), face(300, 300, 200, 240)]), face(600, 40, 80, 90), NONE]
    heads = find_heads(frames_of(*[(LOOK_PX, LOOK_PX)] * 3), in_order(answers), linked=False)
    assert [sorted(head.regions) for head in heads] == [[0, 1], [0]]
    assert heads[0].regions[0][2] > 400
    assert heads[0]("f2", 2, (960, 960)) is None


def test_a_choice_is_said_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    heads = [Head({0: (0, 0, 5, 5), 1: (0, 0, 5, 5)}, None, 2), Head({0: (0, 0, 3, 3)}, None, 1)]
    assert choose(heads, None, 2) is heads[0]
    assert "2 heads (in 2, 1 of 2 frames): the first is taken" in capsys.readouterr().err
    assert choose(heads, 2, 2) is heads[1]
    assert "not found in 1 of 2 frames, where the whole is taken" in capsys.readouterr().err
    with pytest.raises(InputError, match="--head 3, and there are 2 heads"):
        choose(heads, 3, 2)
    with pytest.raises(InputError, match="no face was found in 2 frames"):
        find_heads(frames_of((90, 90), (90, 90)), lambda _: NONE, linked=True)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with two heads, at two places."""
    folder = tmp_path_factory.mktemp("wide")
    Image.fromarray(scene((20, 30), (130, 50))).save(folder / "f1.png")
    Image.fromarray(scene((20, 30), (130, 50), size=(210, 130))).save(folder / "f2.png")
    return folder


def test_a_box_is_predicted_as_the_square_it_is(learnt_model: Path, wide: Path, tmp_path: Path) -> None:
    # With the margin of 1.15 the crop is the ellipsoid's own square.
    side = SIDE / 1.15
    box = f"{130 + (SIDE - side) / 2},{50 + (SIDE - side) / 2},{side},{side}"
    options = PredictOptions(frames=1, boxes=(box,), without=PLAIN)
    predict(learnt_model, wide, tmp_path / "out", options, device_name="cpu")
    found = np.load(tmp_path / "out" / "raw_predictions.npz")
    np.testing.assert_allclose(found["image_region"][0], (130, 50, 186, 106), atol=0.01)
    plain = Path(tmp_path / "plain")
    plain.mkdir()
    Image.fromarray(clip(3, 1, SIDE)[0]["image"].transpose(1, 2, 0)).save(plain / "f1.png")
    predict(learnt_model, plain, tmp_path / "alone", PredictOptions(frames=1, without=PLAIN), device_name="cpu")
    alone = np.load(tmp_path / "alone" / "raw_predictions.npz")
    inside = alone["valid"][0] & found["valid"][0]
    assert inside.sum() > 100
    assert np.abs(found["depth"][0] - alone["depth"][0])[inside].mean() < 0.002


def test_every_head_gets_a_folder_of_its_own(
    learnt_model: Path, wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = ("20,30,56,56", "130,50,56,56")
    options = PredictOptions(frames=1, boxes=boxes, head="all", without=PLAIN)
    summary = predict(learnt_model, wide, tmp_path / "out", options, device_name="cpu")
    assert [one["out"] for one in summary["heads"]] == ["head1", "head2"]
    regions = [
        np.load(tmp_path / "out" / one["out"] / "raw_predictions.npz")["image_region"] for one in summary["heads"]
    ]
    assert [region[0, 0] for region in regions] == pytest.approx([20 - 4.2, 130 - 4.2], abs=0.2)
    one = PredictOptions(frames=1, boxes=boxes[:1], head="all", without=PLAIN)
    predict(learnt_model, wide, tmp_path / "out", one, device_name="cpu")
    assert "holds head2 of earlier" in capsys.readouterr().err
    (tmp_path / "out" / "head1" / "notes.txt").write_text("mine")
    with pytest.raises(Exception, match=r"notes\.txt"):
        predict(learnt_model, wide, tmp_path / "out", one, device_name="cpu")
    assert (tmp_path / "out" / "head1" / "notes.txt").read_text() == "mine"


def test_the_detector_s_heads_are_predicted(learnt_model: Path, tmp_path: Path) -> None:
    """The stand-in finds a face in the middle of whatever is not black."""
    python = stand_in_python(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in (1, 2):
        Image.fromarray(scene((72, 32))).save(folder / f"f{k}.png")
    out = tmp_path / "out"
    arguments = [str(learnt_model), str(folder), "--out", str(out), "--frames", "1", "--detector-python", str(python)]
    for part in PLAIN:
        arguments += ["--without", part]
    done = typer.testing.CliRunner().invoke(trainer.cli.app, ["predict", *arguments, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 2
    left, top, right, bottom = np.load(out / "raw_predictions.npz")["image_region"][0]
    assert (left + right) / 2 == pytest.approx(100, abs=3)
    assert right - left > 60
    assert bottom - top > 60
    write_video(tmp_path / "talk.mp4")
    options = PredictOptions(frames=4, detector_python=python, without=PLAIN, stop=5)
    assert predict(learnt_model, tmp_path / "talk.mp4", out, options, device_name="cpu")["frames"] == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boxes": ("1,2,3,4",), "crop": "1,2,3,4"}, "--crop and --box are given"),
        ({"boxes": ("1,2,3,4",), "detector_python": Path("python")}, "--box and --detector-python"),
        ({"head": 2}, "--head 2 without"),
        ({"boxes": ("1,2,30,40",), "head": 2}, "there are 1 heads"),
        ({"detector_python": Path("/nowhere/python")}, "is not a program"),
    ],
)
def test_what_does_not_go_together_is_refused(
    learnt_model: Path, wide: Path, tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        predict(learnt_model, wide, tmp_path / "out", PredictOptions(frames=1, **options), device_name="cpu")
    assert not (tmp_path / "out").exists()


def test_a_dataset_has_its_own_squares(learnt_model: Path, tmp_path: Path) -> None:
    build_scene(tmp_path / "dataset.zarr")
    for options in ({"boxes": ("1,2,3,4",)}, {"detector_python": stand_in_python(tmp_path)}):
        with pytest.raises(InputError, match="with a dataset"):
            predict(learnt_model, tmp_path / "dataset.zarr", tmp_path / "out", PredictOptions(**options))


def test_crops_of_files_are_told_their_numbers(wide: Path) -> None:
    asked: list[int] = []

    def crop(name: str, number: int, size: tuple[int, int]) -> None:
        asked.append(number)

    assert len(list(ImageFiles(sorted(wide.iterdir()), 28, crop))) == 2
    assert asked == [0, 1]
