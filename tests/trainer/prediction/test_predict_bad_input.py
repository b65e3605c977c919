"""What `trainer predict` refuses: each time a clear error, and nothing written."""

from __future__ import annotations

import json
import os
import re
import resource
import struct
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen.common.errors import CanonfaceError, InputError, StorageError
from datagen.common.files import write_owned_bytes
from datagen.common.ownership import LISTING
from datagen.common.pages import render_page
from tests.support.predict_scene import SIDE, clip, write_photos, write_video
from tests.support.trainer_scene import build_scene
from trainer.evaluate import evaluate
from trainer.predict import PredictOptions, predict
from trainer.prediction.cameras import FrameCamera, GivenCameras
from trainer.prediction.foreground import FixedCrop
from trainer.prediction.video import VideoFile

av = pytest.importorskip("av")
QUICK = ("ply", "videos", "viewer", "tracks")  # left out where they are not what is tested


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "talk.mp4"
    write_video(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


def leaves_nothing(folder: Path, *known: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(known)


@pytest.fixture(scope="module")
def bad_videos(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    content = video.read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) * 7 // 10])
    (folder / "text.mp4").write_bytes(b"no video " * 99)
    (folder / "empty.mp4").write_bytes(b"")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])
    with av.open(str(folder / "whole.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 56
        for view in clip(0, 12, 56):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(view["image"].transpose(1, 2, 0)), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    content = (folder / "whole.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(content[: len(content) * 3 // 4])
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.mp4", r"cut\.mp4 is damaged or cut off after \d+ frames"),
        ("cut.mkv", r"cut off after \d+ frames: the file goes on"),
        ("text.mp4", "cannot be opened"),
        ("empty.mp4", "cannot be opened"),
        ("sound.mp4", "no video stream"),
    ],
)
def test_damaged_videos_are_named_and_leave_nothing(
    bad_videos: Path, learnt_model: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predict(learnt_model, bad_videos / name, tmp_path / "out", PredictOptions(without=QUICK), device_name="cpu")
    assert leaves_nothing(tmp_path)


def test_the_good_part_of_a_damaged_video_can_be_predicted(
    bad_videos: Path, learnt_model: Path, tmp_path: Path
) -> None:
    options = PredictOptions(start=0, stop=3, step=2, without=QUICK)
    assert predict(learnt_model, bad_videos / "cut.mp4", tmp_path / "out", options, device_name="cpu")["frames"] == 2
    assert len(list(VideoFile(bad_videos / "whole.mkv", SIDE))) == 12


def damaged_input(kind: str, photos: Path) -> PredictOptions:
    masks = photos.parent / "masks"
    masks.mkdir()
    for k in range(8, 11):
        size = (30, 30) if kind == "mask of another size" and k == 9 else (SIDE, SIDE)
        Image.new("L", size, 0 if kind == "empty masks" else 255).save(masks / f"f{k}.png")
    if kind == "unreadable":
        (photos / "f9.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    elif kind == "cut off":
        (photos / "f9.png").write_bytes((photos / "f9.png").read_bytes()[:-400])
    elif kind == "one pixel":
        Image.new("RGB", (1, 1)).save(photos / "f9.png")
    elif kind == "missing mask":
        (masks / "f10.png").unlink()
    elif kind == "foreign":
        (photos.parent / "out").mkdir()
        (photos.parent / "out" / "thesis.tex").write_text("years")
    elif kind == "file":
        (photos.parent / "out").write_text("years")
    extra = {"size": {"size": 30}, "overlap": {"overlap": 4}, "part": {"without": ("strips",)}, "none": {"start": 9}}
    options: dict = {"without": QUICK, "masks": masks if "mask" in kind else None} | extra.get(kind, {})
    return PredictOptions(**options)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unreadable", r"f9\.png cannot be read"),
        ("cut off", r"f9\.png cannot be read"),
        ("one pixel", r"f9\.png is 1 × 1 pixels"),
        ("empty masks", "all masks in .* are empty"),
        ("mask of another size", r"f9\.png is 30 × 30 pixels\. Expected 28 × 28"),
        ("missing mask", r"no mask for f10\.png; .* has f8\.png, f9\.png"),
        ("foreign", r"thesis\.tex: in the way"),
        ("file", "is a file"),
        ("size", "multiple of the model's patch, 14"),
        ("overlap", "shorter than the window"),
        ("part", "--without strips"),
        ("none", "leave no frame"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    kind: str, message: str, photos: Path, learnt_model: Path, tmp_path: Path
) -> None:
    options = damaged_input(kind, photos)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises((InputError, StorageError), match=message):
        predict(learnt_model, photos, tmp_path / "out", options, device_name="cpu")
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


CAMERA = {
    "width": SIDE,
    "height": SIDE,
    "intrinsics": [[70, 0, 14], [0, 70, 14], [0, 0, 1]],
    "world_to_camera": np.eye(4).tolist(),
}


def pose(**changes: float) -> list[list[float]]:
    rows = np.eye(4)
    for place, value in changes.items():
        rows[int(place[1]), int(place[2])] = value
    return rows.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world_to_camera": pose(_03=np.nan)}, "world_to_camera"),
        ({"world_to_camera": pose(_03=1e300)}, "world_to_camera"),
        ({"world_to_camera": pose(_00=2, _11=0.5)}, "world_to_camera"),
        ({"world_to_camera": pose(_32=5)}, "world_to_camera"),
        ({"world_to_camera": pose(_00=np.nan, _11=np.nan)}, "world_to_camera"),
        ({"intrinsics": [[70, 0, 14], [0, 70, 14], [0, 0, 0]]}, "intrinsics are not"),
        ({"intrinsics": [[10**400, 0, 14], [0, 70, 14], [0, 0, 1]]}, "is too large"),
        ({"height": np.nan}, "(width|height)"),
        ({"width": np.inf}, "(width|height)"),
    ],
)
def test_unusable_cameras_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text(json.dumps({"frames": [CAMERA]}))
    GivenCameras(tmp_path / "cameras.json")
    (tmp_path / "cameras.json").write_text(json.dumps({"frames": [CAMERA | change]}))
    with pytest.raises(InputError, match=message):
        GivenCameras(tmp_path / "cameras.json")


def test_endless_nesting_is_not_a_cameras_file(tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        GivenCameras(tmp_path / "cameras.json")


@pytest.mark.parametrize("text", ["0,0,inf,inf", "nan,0,28,28", "-inf,-inf,28,28"])
def test_infinite_crops_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--crop"):
        FixedCrop(text)


def test_videos_have_a_rate(photos: Path, learnt_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--rate inf"):
        predict(learnt_model, photos, tmp_path / "out", PredictOptions(rate=float("inf")), device_name="cpu")


class _Page(HTMLParser):
    """What a browser would find in a page: its elements, and the texts of its scripts and its title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - HTMLParser's
        self._in = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._in] = self.texts.get(self._in, "") + data


HOSTILE = [
    "長" * 83,
    "</script><script>alert(1)</script> \n".replace("/", "∕"),
    "<!--<script>",
    "__TITLE__ __HEAD__ __BODY__",
    "<img src=x onerror=alert(1)>",
    "\x1b[31m\x07\r\n",
    "x\\..\\..\\y",
    "{{7*7}}{%x%}",
    "'\";$(x)`x`",
    "-rf",
]


def test_names_of_any_length_and_alphabet_are_names_and_nothing_else(
    photos: Path, learnt_model: Path, tmp_path: Path
) -> None:
    (tmp_path / HOSTILE[1]).mkdir()
    for k, name in enumerate(HOSTILE):
        Image.new("RGB", (SIDE, SIDE), (k, k, k)).save(tmp_path / HOSTILE[1] / f"{name}.png")
    (photos / "f8.png").rename(os.fsdecode(os.fsencode(tmp_path / HOSTILE[1]) + b"/\xff\xfe.png"))
    for source in (tmp_path / HOSTILE[1], tmp_path / HOSTILE[1] / f"{HOSTILE[2]}.png"):
        options = PredictOptions(without=("videos", "tracks"), foreground="all")
        summary = predict(learnt_model, source, tmp_path / "out", options, device_name="cpu")
        assert summary["frames"] == (len(HOSTILE) + 1 if source.is_dir() else 1)
        page = _Page((tmp_path / "out" / "viewer.html").read_text())
        plain = _Page(render_page("trainer.prediction", ".", "viewer.html", title="x", head={}, body="").decode())
        assert page.tags == plain.tags
        assert page.texts["title"].strip() == source.name.strip()
        assert page.texts["script"] == plain.texts["script"]
        names = {frame["name"] for frame in json.loads(page.texts["head"])["frames"]}
        assert names >= (set(HOSTILE) if source.is_dir() else {HOSTILE[2]})
    files = [path.name for path in (tmp_path / "out").rglob("*")]
    assert all(name.isprintable() for name in files)
    assert leaves_nothing(tmp_path, "photos", "out", HOSTILE[1])


@given(st.text(max_size=300), st.integers(0, 999_999))
@settings(max_examples=300, deadline=None)
def test_any_name_makes_one_file_name(name: str, number: int) -> None:
    eye = np.eye(4, dtype=np.float32)
    camera = FrameCamera(name, eye[:3, :3], eye, (0, 0, 1, 1), (1, 1), (0, 0, 1, 1), None, "assumed", "assumed")
    stem = camera.stem(number)
    assert stem.isprintable()
    assert not set(stem) & set("/\\\0")
    assert len(stem.encode()) <= 210
    assert stem.startswith(f"{number:06d}_")


def test_sizes_that_are_declared_and_not_there_are_refused(photos: Path, learnt_model: Path, tmp_path: Path) -> None:
    """A picture of 200,000 pixels a side that takes 57 bytes, and one of no bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    for content in (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""), b""):
        (photos / "f9.png").write_bytes(content)
        with pytest.raises(InputError, match=r"f9\.png cannot be read"):
            predict(learnt_model, photos, tmp_path / "out", PredictOptions(without=QUICK), device_name="cpu")
    assert leaves_nothing(tmp_path, "photos")


def test_each_kind_of_input_in_the_place_of_another_is_named(photos: Path, learnt_model: Path, tmp_path: Path) -> None:
    dataset = build_scene(tmp_path / "build" / "dataset.zarr", subjects={"train": 1, "val": 1}, frames=1, cameras=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes(learnt_model.read_bytes())
    run, build = tmp_path / "run", Path(dataset.path).parent
    cases: list[tuple[Path, Path, str]] = [
        (photos, photos, f"{photos} holds no best.pt"),
        (build, photos, f"{build} is a dataset"),
        (photos / "f8.png", photos, "f8.png"),
        (tmp_path / "none", photos, "none does not exist"),
        (run, run, f"{run} is a run of `trainer fit`"),
        (run, run / "best.pt", "best.pt is a checkpoint"),
        (run, tmp_path / "none", "none does not exist"),
    ]
    for model, source, words in cases:
        with pytest.raises(CanonfaceError, match=re.escape(words)):
            predict(model, source, tmp_path / "out", PredictOptions(without=QUICK), device_name="cpu")
    for dataset_path in (photos, run, photos / "f8.png", run / "best.pt"):
        with pytest.raises(CanonfaceError, match=re.escape(str(dataset_path))):
            evaluate(run, dataset_path, device_name="cpu")
    options: list[tuple[Path, dict[str, Any], str]] = [
        (build, {"orientation": "stored"}, "--orientation with a dataset"),
        (photos, {"split": "val"}, "without a dataset"),
        (photos, {"index": 0}, "without a dataset"),
        (photos, {"masks": photos, "foreground": "all"}, "both --masks and --foreground"),
    ]
    for source, given_options, words in options:
        with pytest.raises(InputError, match=words):
            predict(run, source, tmp_path / "out", PredictOptions(without=QUICK, **given_options), device_name="cpu")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20 kB: the nearest to a full disk that a test may make."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("without", [QUICK, ("maps", "raw", "viewer", "tracks", "ply")])
def test_a_disk_that_refuses_leaves_the_earlier_prediction(
    small_files: None, without: tuple[str, ...], photos: Path, learnt_model: Path, tmp_path: Path
) -> None:
    write_owned_bytes(tmp_path / "out" / "prediction.json", b"{}")
    size = 56 if "raw" in without else 112
    with pytest.raises(StorageError, match=r"writing .* failed"):
        predict(learnt_model, photos, tmp_path / "out", PredictOptions(size=size, without=without), device_name="cpu")
    assert leaves_nothing(tmp_path, "photos", "out")
    assert leaves_nothing(tmp_path / "out", "prediction.json", LISTING)
