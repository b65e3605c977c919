"""Frames of videos: exactly the one that is asked for, in any order, decoded once each when read in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common import video_frames
from datagen.common.errors import DependencyError, InputError
from datagen.common.video_frames import frame_at, read_video_frame, read_video_mask, video_index, video_size
from tests.support.videos import shade, write_video

pytest.importorskip("av")

COUNT = 60
# Steps of 5 to 60 ms: no two neighbours alike.
TIMES = np.cumsum(np.r_[0, 5 + np.random.default_rng(0).permutation(56)[: COUNT - 1 - 3], [9, 33, 40]]).tolist()
ASK = "say which"


def _brightness(path: Path, number: int) -> float:
    return float(read_video_frame(path, number, orientation=None, ask=ASK).mean())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "closed": write_video(folder / "closed.mp4", TIMES, options={"bf": "3"}),
        "open": write_video(
            folder / "open.mkv", TIMES, options={"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3"}
        ),
        "one": write_video(folder / "one.mp4", TIMES, gop=1000),
        "intra": write_video(folder / "intra.avi", [40 * k for k in range(COUNT)], codec="mjpeg", pix_fmt="yuvj420p"),
        "transport": write_video(folder / "transport.ts", TIMES),
    }


@pytest.mark.parametrize("kind", ["closed", "open", "one", "intra", "transport"])
def test_each_frame_is_the_one_that_was_asked_for(clips: dict[str, Path], kind: str) -> None:
    path = clips[kind]
    assert len(video_index(path).times) == COUNT
    for number in [*np.random.default_rng(1).permutation(COUNT)[:25].tolist(), 0, COUNT - 1, *range(20, 30)]:
        assert abs(_brightness(path, number) - shade(number)) < 3, number
    assert video_size(path, orientation=None, ask=ASK) == (64, 48)


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_times_of_a_variable_rate_are_kept_and_no_neighbour_is_given(clips: dict[str, Path], kind: str) -> None:
    path = clips[kind]
    np.testing.assert_allclose(video_index(path).seconds * 1000, TIMES, atol=0.6)
    for number, time_ms in enumerate(TIMES):
        assert frame_at(path, time_ms / 1000) == number
    between = (TIMES[20] + TIMES[21]) / 2000
    with pytest.raises(InputError, match=r"has no frame at .* s: the nearest, number 2[01]"):
        frame_at(path, between)
    with pytest.raises(InputError, match=f"the nearest, number {COUNT - 1}"):
        frame_at(path, TIMES[-1] / 1000 + 0.5)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count files opened and frames decoded."""
    counted = {"opened": 0, "decoded": 0}
    real = video_frames.open_video

    class Counting:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def decode(self, stream: Any) -> Iterator[Any]:
            for picture in self._container.decode(stream):
                counted["decoded"] += 1
                yield picture

    def opening(av: Any, path: Path) -> Any:
        counted["opened"] += 1
        return Counting(real(av, path))

    monkeypatch.setattr(video_frames, "open_video", opening)
    video_frames._DECODERS.forget()
    yield counted
    video_frames._DECODERS.forget()


def test_frames_in_order_are_decoded_once_each(clips: dict[str, Path], work: dict[str, int]) -> None:
    video_index(clips["one"])
    before = dict(work)
    for number in range(COUNT):
        for _ in range(2):  # as a check and a build read it
            assert abs(_brightness(clips["one"], number) - shade(number)) < 3
    assert work["decoded"] - before["decoded"] == COUNT
    assert work["opened"] - before["opened"] == 1


def test_a_far_frame_is_decoded_from_the_key_before_it(clips: dict[str, Path], work: dict[str, int]) -> None:
    _brightness(clips["closed"], 0)
    before = work["decoded"]
    _brightness(clips["closed"], 50)
    # The keys are 12 apart.
    assert work["decoded"] - before <= 12


def test_few_videos_stay_open(clips: dict[str, Path], work: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_frames, "MOST_OPEN_PIXELS", 2 * 64 * 48)
    for number in range(3):
        for kind in ("closed", "open", "one"):
            assert abs(_brightness(clips[kind], number) - shade(number)) < 3
    assert len(video_frames._DECODERS._open) == 2


def test_masks_are_bright_or_not(tmp_path: Path) -> None:
    half = np.zeros((48, 64, 3), np.uint8)
    half[:, :32] = 255
    red, grey = np.full_like(half, (200, 30, 30)), np.full_like(half, 90)
    path = write_video(tmp_path / "masks.mp4", [0, 40, 80, 120], [half, red, grey, np.zeros_like(half)])
    mask = read_video_mask(path, 0, orientation=None, ask=ASK)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask[:, 2:-2], (half[..., 0] > 0)[:, 2:-2])
    assert not read_video_mask(path, 3, orientation=None, ask=ASK).any()
    with pytest.raises(InputError, match=r"frame 1 of the masks .* has colours"):
        read_video_mask(path, 1, orientation=None, ask=ASK)
    with pytest.raises(InputError, match=r"brightest value of frame 2 of the masks .* is"):
        read_video_mask(path, 2, orientation=None, ask=ASK)


def test_what_is_no_whole_video_is_refused(clips: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no frame 60: it holds 60, counted from 0"):
        read_video_frame(clips["one"], COUNT, orientation=None, ask=ASK)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clips["one"].read_bytes()[:-300])
    with pytest.raises(InputError, match=r"cut\.mp4 is damaged or cut off"):
        read_video_frame(cut, 0, orientation=None, ask=ASK)
    other = tmp_path / "other.mp4"
    other.write_bytes(b"no video at all" * 9)
    with pytest.raises(InputError, match=r"other\.mp4 cannot be opened"):
        video_index(other)
    with pytest.raises(InputError, match=r"gone\.mp4 cannot be read"):
        video_index(tmp_path / "gone.mp4")
    frames = write_video(tmp_path / "b.avi", [40 * k for k in range(9)], options={"bf": "2"})
    with pytest.raises(InputError, match="does not say when each of its frames is shown"):
        video_index(frames)


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile real.mp4\n", "#EXTM3U\n#EXTINF:9,\nreal.mp4\n#EXT-X-ENDLIST\n"]
)
def test_a_list_of_other_files_is_no_video_whatever_it_is_called(
    clips: dict[str, Path], tmp_path: Path, text: str
) -> None:
    (tmp_path / "real.mp4").write_bytes(clips["one"].read_bytes())
    path = tmp_path / "list.mp4"
    path.write_text(text)
    with pytest.raises(InputError, match=r"list\.mp4 cannot be opened"):
        video_index(path)


def test_a_changed_video_is_read_anew(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [0, 40])
    assert abs(_brightness(path, 1) - shade(1)) < 3
    path.unlink()
    write_video(path, [0, 40, 80], [np.full((48, 64, 3), 222, np.uint8)] * 3)
    assert len(video_index(path).times) == 3
    assert abs(_brightness(path, 1) - 222) < 3


def test_without_pyav_it_is_said(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clips["one"].read_bytes())
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DependencyError, match="extract the frames as pictures"):
        video_index(copy)
