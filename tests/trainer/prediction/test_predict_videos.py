"""Videos of every valid kind give all their frames with their times; damaged ones, and those not understood, do not."""

from __future__ import annotations

import io
import os
import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen.common.errors import InputError
from datagen.common.video_containers import fault_of
from tests.support.predict_scene import SIDE, clip
from trainer.predict import PredictOptions, predict
from trainer.prediction.video import VideoFile

av = pytest.importorskip("av")
QUICK = ("ply", "viewer", "tracks", "maps")
MS = Fraction(1, 1000)
CODECS = {".webm": "libvpx-vp9", ".gif": "gif"}


class _Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, as a connection."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += data
        return len(data)


def shade(k: int) -> int:
    """Brightness of a frame, by which it is known again."""
    return 30 + 15 * (k % 13)


def write(
    path: Path,
    times_ms: list[int],
    codec: str | None = None,
    *,
    size: tuple[int, int] = (64, 48),
    pixels: np.ndarray | None = None,
    live: bool = False,
    **how: Any,
) -> Path:
    """Write frames of growing brightness at these times; ``how`` goes to the codec."""
    file: Any = _Pipe() if live else str(path)
    kind = {".mkv": "matroska", ".webm": "webm"}.get(path.suffix) if live else None
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec or CODECS.get(path.suffix, "libx264"), rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = how.pop("pix_fmt", "yuv420p")
        matrix = how.pop("matrix", None)
        stream.codec_context.time_base = MS
        for name, value in how.items():
            setattr(stream.codec_context, name, value)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for k, time_ms in enumerate(times_ms):
            flat = np.full((size[1], size[0], 3), shade(k), np.uint8) if pixels is None else pixels
            picture = av.VideoFrame.from_ndarray(flat, format="rgb24" if flat.shape[2] == 3 else "rgba")
            picture.pts, picture.time_base = time_ms, MS
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    if live:
        path.write_bytes(file.content)
    return path


def frames_of(path: Path) -> tuple[list[int], list[float]]:
    """Which frames a video gives (by their brightness), and when."""
    found = list(VideoFile(path, SIDE))
    values = [int(frame.image[1, SIDE // 2, SIDE // 2]) for frame in found]
    which = [min(range(13), key=lambda k, value=value: abs(shade(k) - value)) for value in values]
    return which, [frame.time_s for frame in found if frame.time_s is not None]


GAPS_MS = st.lists(st.sampled_from([1, 17, 33, 40, 41, 250, 3000, 60_000]), min_size=1, max_size=11)
TIMES = GAPS_MS.map(lambda gaps: [sum(gaps[:k]) for k in range(len(gaps) + 1)])
KINDS = st.sampled_from([(".mp4", False), (".mov", False), (".mkv", False), (".webm", False), (".mkv", True)])


@given(TIMES, KINDS, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_video_of_any_rate_gives_all_its_frames_at_their_times(
    tmp_path_factory: pytest.TempPathFactory, times_ms: list[int], kind: tuple[str, bool], b_frames: int
) -> None:
    suffix, live = kind
    path = tmp_path_factory.mktemp("v") / f"a{suffix}"
    how: dict[str, Any] = {} if suffix == ".webm" else {"max_b_frames": b_frames}
    which, times = frames_of(write(path, times_ms, live=live, **how))
    assert which == list(range(len(times_ms)))
    np.testing.assert_allclose(times, np.array(times_ms) / 1000, atol=0.0011)
    assert VideoFile(path, SIDE).names(None) == [f"{k:06d}" for k in range(len(times_ms))]


@given(TIMES, KINDS.filter(lambda kind: not kind[1]), st.floats(0.02, 0.995))
@settings(max_examples=40, deadline=None)
def test_a_video_that_is_cut_off_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, times_ms: list[int], kind: tuple[str, bool], share: float
) -> None:
    path = write(tmp_path_factory.mktemp("v") / f"a{kind[0]}", times_ms)
    whole = path.read_bytes()
    assert fault_of(path) is None
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"damaged or cut off after \d+ frames|cannot be opened|holds no"):
        frames_of(path)
    path.write_bytes(whole + b"\x00\x00\x00\x2cSEFD of a phone")  # what follows the last part is nobody's
    assert frames_of(path)[0] == list(range(len(times_ms)))


@pytest.mark.parametrize("suffix", [".avi", ".ts", ".flv"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_older_kinds_of_video(suffix: str, b_frames: int, tmp_path: Path) -> None:
    codec = "flv1" if suffix == ".flv" else "libx264"
    how: dict[str, Any] = {} if codec == "flv1" else {"max_b_frames": b_frames}
    path = write(tmp_path / f"a{suffix}", list(range(0, 480, 40)), codec, **how)
    which, times = frames_of(path)
    assert which == list(range(12))
    np.testing.assert_allclose(np.diff(times), 0.04, atol=0.0011)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10 + 1])  # of a transport stream not between two packets
    with pytest.raises(InputError, match=r"damaged or cut off|cannot be opened"):
        frames_of(path)


@given(
    st.sampled_from([".mp4", ".mkv", ".webm", ".avi"]), st.sampled_from(["zero", "random"]), st.integers(0, 2**32 - 1)
)
@settings(max_examples=30, deadline=None)
def test_a_video_that_is_damaged_in_its_middle_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, how: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("v") / f"a{suffix}"
    noise = rng.integers(0, 256, (48, 64, 3), np.uint8)
    whole = write(path, list(range(0, 480, 40)), "mpeg4" if suffix == ".avi" else None, pixels=noise).read_bytes()
    frames = VideoFile(path, SIDE).names(None)
    start, length = int(len(whole) * rng.uniform(0.3, 0.4)), len(whole) // 3
    hole = bytes(length) if how == "zero" else rng.bytes(length)
    path.write_bytes(whole[:start] + hole + whole[start + length :])
    # What is lost is said; a decoder may take nonsense for a picture, but not fewer frames for all.
    with suppress(InputError):
        assert len(VideoFile(path, SIDE).names(None)) >= 0.9 * len(frames) - 1


def test_an_edit_list_chooses_the_frames(tmp_path: Path) -> None:
    """As a phone trims a video: the file keeps all frames and shows some."""
    path = write(tmp_path / "a.mp4", list(range(0, 480, 40)), max_b_frames=0)
    content = bytearray(path.read_bytes())
    at = content.index(b"elst")
    assert struct.unpack(">I", content[at + 8 : at + 12]) == (1,)
    length, start = struct.unpack(">Ii", content[at + 12 : at + 20])
    struct.pack_into(">Ii", content, at + 12, length // 3, start)
    path.write_bytes(content)
    which, times = frames_of(path)
    assert which == [0, 1, 2, 3]
    np.testing.assert_allclose(times, np.arange(4) * 0.04, atol=0.001)


def test_what_is_written_lasts_as_long_as_the_video(learnt_model: Path, tmp_path: Path) -> None:
    times_ms = [0, 500, 1000, 4000, 4040, 6000]
    write(tmp_path / "a.mkv", times_ms)
    options = PredictOptions(without=(*QUICK, "raw"))
    predict(learnt_model, tmp_path / "a.mkv", tmp_path / "out", options, device_name="cpu")
    with np.load(tmp_path / "out" / "cameras.npz") as cameras:
        np.testing.assert_allclose(cameras["time_s"], np.array(times_ms) / 1000, atol=0.001)
    with av.open(str(tmp_path / "out" / "videos" / "image.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(5 / 6, rel=0.01)


QUARTER: dict[str, tuple[tuple[float, ...], Any]] = {
    "mirrored": ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    "upside down": ((-1, 0, 0, -1), lambda a: a[::-1, ::-1]),
    "mirrored top to bottom": ((1, 0, 0, -1), lambda a: a[::-1]),
    "clockwise": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "anticlockwise": ((0, -1, 1, 0), np.rot90),
    "transposed": ((0, 1, 1, 0), lambda a: a.transpose(1, 0, 2)),
    "transverse": ((0, -1, -1, 0), lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
}


def with_matrix(path: Path, linear: tuple[float, ...], pixels: np.ndarray) -> Path:
    """Write a video and put a display matrix into its track header, as ISO/IEC 14496-12 defines it."""
    write(path, [0, 40], pixels=pixels, size=(pixels.shape[1], pixels.shape[0]), options={"crf": "1"})
    content = bytearray(path.read_bytes())
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    a, b, c, d = (round(value * 65536) for value in linear)
    struct.pack_into(">9i", content, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", sorted(QUARTER))
def test_a_turned_or_mirrored_video_is_shown_as_players_show_it(how: str, tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32] = (240, 30, 30), (30, 240, 30), (30, 30, 240)
    linear, turn = QUARTER[how]
    path = with_matrix(tmp_path / "a.mp4", linear, pixels)
    for orientation, expected in (("upright", turn(pixels)), ("stored", pixels)):
        frame = next(iter(VideoFile(path, 64, orientation=orientation)))  # type: ignore[arg-type]
        assert frame.original == (expected.shape[1], expected.shape[0])
        left, top, right, bottom = frame.content
        shown = frame.image.transpose(1, 2, 0)[top:bottom, left:right].astype(int)
        assert np.median(np.abs(shown - expected)) < 12
        assert np.abs(shown - expected).mean() < 25
    with pytest.raises(InputError, match=r"stored turned or mirrored.*--orientation stored or"):
        next(iter(VideoFile(path, 64, orientation=None)))


def test_a_turn_by_an_angle_is_refused_and_stretched_pixels_are_made_square(tmp_path: Path) -> None:
    flat = np.full((48, 64, 3), 90, np.uint8)
    for linear in ((0.8, 0.6, -0.6, 0.8), (0.5, 0, 0, 0.5)):
        with pytest.raises(InputError, match="turned by an angle, or scaled"):
            next(iter(VideoFile(with_matrix(tmp_path / "a.mp4", linear, flat), 64)))
    for ratio, shown in ((Fraction(4, 3), (85, 48)), (Fraction(1, 2), (64, 96)), (Fraction(1, 1), (64, 48))):
        path = write(tmp_path / "b.mkv", [0, 40], sample_aspect_ratio=ratio)
        assert next(iter(VideoFile(path, 64))).original == shown
        assert next(iter(VideoFile(path, 64, orientation="stored"))).original == (64, 48)
        if ratio != 1:
            with pytest.raises(InputError, match="stored stretched"):
                next(iter(VideoFile(path, 64, orientation=None)))


@pytest.mark.parametrize(("curve", "name"), [(16, r"PQ \(HDR\)"), (18, r"HLG \(HDR\)"), (8, "linear")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_high_dynamic_range_is_refused(curve: int, name: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"has {name} brightness"):
        frames_of(write(tmp_path / f"a{suffix}", [0, 40], color_trc=curve))
    assert len(frames_of(write(tmp_path / f"b{suffix}", [0, 40], color_trc=1))[0]) == 2


def test_transparency_shows_the_backdrop_or_is_refused(tmp_path: Path) -> None:
    pixels = np.full((48, 64, 4), (250, 0, 250, 0), np.uint8)
    pixels[:, 32:] = (10, 120, 30, 255)
    path = write(tmp_path / "a.mov", [0, 40], "png", pixels=pixels, pix_fmt="rgba")
    frame = next(iter(VideoFile(path, 64)))
    assert frame.image[:, 32, 10].tolist() == [124, 116, 104]
    assert frame.image[:, 32, 50].tolist() == [10, 120, 30]
    first = Image.fromarray(pixels)
    first.save(
        tmp_path / "a.gif", save_all=True, append_images=[first.transpose(Image.Transpose.ROTATE_180)], disposal=2
    )
    frames = list(VideoFile(tmp_path / "a.gif", 64))
    assert len(frames) == 2
    assert frames[0].image[:, 32, 10].tolist() == [124, 116, 104]
    (tmp_path / "a.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:-1])
    with pytest.raises(InputError, match="cut off after 2 frames"):
        list(VideoFile(tmp_path / "a.gif", 64))


def masks(folder: Path, count: int) -> Path:
    folder.mkdir()
    for k in range(count):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[:, 2 * k : 2 * k + 5] = 255
        Image.fromarray(mask).save(folder / f"mask_{k + 1}.png")
    return folder


def test_masks_of_a_video_come_in_order_and_are_as_many(learnt_model: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE
        for view in clip(1, 11):
            pixels = np.ascontiguousarray(view["image"].transpose(1, 2, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    for count, stop, fits in ((11, None, True), (10, None, False), (12, None, False), (11, 4, True), (4, 4, True)):
        options = PredictOptions(
            masks=masks(tmp_path / f"masks{count}{stop}", count), stop=stop, start=1, without=(*QUICK, "videos")
        )
        if not fits:
            with pytest.raises(InputError, match=f"has {count} masks without names of frames, and there are 11 frames"):
                predict(learnt_model, tmp_path / "a.mkv", tmp_path / "out", options, device_name="cpu")
            continue
        predict(learnt_model, tmp_path / "a.mkv", tmp_path / "out", options, device_name="cpu")
        with np.load(tmp_path / "out" / "raw_predictions.npz") as raw:
            first = [int(np.flatnonzero(valid.any(0))[0]) for valid in raw["valid"]]
        assert first == [2 * k for k in range(11)][1:stop]


def test_what_is_no_video_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("b.mp4")
    (tmp_path / "c.mp4").write_bytes(b"")
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            VideoFile(tmp_path / name, SIDE)
