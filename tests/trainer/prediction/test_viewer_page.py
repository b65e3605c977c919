"""The viewer of a prediction in a browser: points picked in cloud and image, beside their truth; WebGL or not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.browser import DESK_PX, PHONE_PX, Browser, find_browser
from tests.support.page_checks import check_page, judge
from tests.support.predict_scene import clip, truth
from trainer.prediction.cameras import FrameCamera
from trainer.prediction.shown import Ranges, Shown
from trainer.prediction.viewer import Viewer

SIDE, HALF_M, OFF_MM = 56, 0.15, 6.0
READY = "document.documentElement.dataset.drawn !== undefined && over.width > 0"
VIEWS = clip(1, 3, SIDE)


def true_maps(number: int) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    view = VIEWS[number]
    return view["depth"], np.where(view["confidence"] > 0, view["canonical"], np.nan)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames whose canonical coordinates are 6 mm beside the truth."""
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    colours, places = np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.float32)
    ranges = Ranges((0.6, 1.0), (0.0, 5.0))
    viewer = Viewer(path, "a clip", 3, 10.0, np.zeros(3), HALF_M, colours, places, ranges, true_maps)
    for number, view in enumerate(VIEWS):
        frame = truth(view)
        shift = np.array([OFF_MM / 1000 / HALF_M, 0, 0], np.float32)[:, None, None]
        frame = replace(frame, canonical=frame.canonical + shift)
        eye, box, region = np.eye(4, dtype=np.float32), (0, 0, SIDE, SIDE), (0.0, 0.0, float(SIDE), float(SIDE))
        camera = FrameCamera(f"f{number}", frame.intrinsics, eye, box, (SIDE, SIDE), region, None, "assumed", "assumed")
        viewer.add(Shown(number, f"f{number}", frame, camera, None))
    viewer.close()
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("there is no browser on this machine")
    with Browser() as found:
        yield found


def numbers(text: str) -> list[float]:
    return [float(value) for value in text.removesuffix(" mm").split(", ")]


def told(browser: Browser) -> dict[str, str]:
    rows = "[...document.querySelectorAll('#point dl div')].map(row => [...row.children].map(c => c.textContent))"
    return dict(browser.run(rows))


def test_the_page_is_quiet_offline_legible_and_for_keys_too(browser: Browser, page: Path) -> None:
    check_page(browser, page, READY)


@pytest.mark.parametrize("way", ["", "#flat=1"])
def test_a_picked_point_says_what_was_predicted_there_and_what_is_true(browser: Browser, page: Path, way: str) -> None:
    browser.look_like(DESK_PX)
    browser.open("about:blank")
    browser.open(page.as_uri() + way, ready=READY)
    drawn = browser.run("document.documentElement.dataset.drawn")
    assert drawn == "flat" if way else drawn in ("webgl", "flat")
    browser.run("canvas.focus()")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('#point dl div').length > 0")
    found = told(browser)
    column, row = (int(v) for v in found["pixel"].split(", "))
    view = VIEWS[0]
    mm = 1000 * HALF_M * view["canonical"][:, row, column]
    said = numbers(found["canonical"])
    np.testing.assert_allclose(numbers(found["true canonical"]), mm, atol=0.2)
    np.testing.assert_allclose(said, np.add(mm, [OFF_MM, 0, 0]), atol=0.2)
    assert found["canonical error"] == "6.0 mm"
    assert float(found["depth"].split()[0]) == pytest.approx(float(view["depth"][row, column]), abs=2e-4)
    assert float(found["depth error"].split()[0]) == pytest.approx(0, abs=0.2)
    # In the next frame the same skin is elsewhere, and is found there.
    browser.run("step(1)")
    browser.wait("state.frame === 1 && picked !== null")
    moved = told(browser)
    np.testing.assert_allclose([float(v) for v in moved["canonical"].removesuffix(" mm").split(", ")], said, atol=4)
    assert not browser.complaints


def test_a_pixel_of_the_image_is_picked_in_the_cloud(browser: Browser, page: Path) -> None:
    browser.look_like(DESK_PX)
    browser.open("about:blank")
    browser.open(page.as_uri(), ready=READY)
    browser.run("nearestInImage(20.5, 30.5)")
    assert told(browser)["pixel"] == "20, 30"
    browser.run("nearestInImage(0.5, 0.5)")  # nothing there
    assert told(browser) == {}


def test_a_phone_shows_cloud_image_and_point_beside_each_other(browser: Browser, page: Path) -> None:
    browser.look_like(PHONE_PX)
    browser.open("about:blank")
    browser.open(page.as_uri(), ready=READY)
    browser.run("document.getElementById('options').open = true; nearestInImage(28, 28)")
    judge(browser, "the viewer on a phone")
    box = "(b => [b.width, b.bottom])(by(id).getBoundingClientRect())"
    boxes = browser.run(f"['view', 'photo', 'point', 'time'].map(id => {box})")
    assert all(width > 60 and bottom <= PHONE_PX[1] for width, bottom in boxes)
    assert boxes[0][0] == PHONE_PX[0]


def test_a_frame_holds_its_image_and_no_other_page_is_asked(page: Path) -> None:
    head = json.loads(re.search(r'<script id="head"[^>]*>(.*?)</script>', page.read_text(), re.S)[1])
    assert head["truth"]
    assert all(frame["image"].startswith("data:image/jpeg;base64,") for frame in head["frames"])
    camera = np.array(head["frames"][0]["camera"]).reshape(3, 4)
    np.testing.assert_allclose(camera[:, :3], VIEWS[0]["intrinsics"], rtol=1e-6)
