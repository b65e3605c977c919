"""Pages made of hostile names show them and obey nothing: in a parser always, in a browser where there is one."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from benchmarks.browser import Browser, find_browser
from datagen.audit.browse_export import export_page
from datagen.audit.browsing import KINDS
from datagen.audit.compare import compare
from datagen.audit.compare_page import write_comparison
from datagen.audit.demo_page import DemoSummary, write_demo_page
from datagen.audit.report import write_report
from datagen.common.files import atomic_write_bytes
from datagen.common.pages import render_page
from datagen.flows.check_page import SequencePictures, ViewPicture, write_check_page
from datagen.heads.registry import load_head
from datagen.warp.storage import write_warp
from tests.datagen.audit.test_audit import a_warp
from tests.support.page_checks import check_page as check_in_browser
from trainer.evaluation import charts
from trainer.evaluation import report as evaluation
from trainer.evaluation.comparison import Compared
from trainer.evaluation.comparison import write_comparison as write_evaluations
from trainer.evaluation.report import Result
from trainer.evaluation.worst import WorstSamples
from trainer.prediction.shown import Ranges
from trainer.prediction.viewer import Viewer

TAME = "anna"
# Without separators they may be the name of a folder; the others stand in texts that files bring along.
NAMES = (
    "<script>alert(1)<!--<script>",
    '" onmouseover=alert(1) x="',
    "' onfocus=alert(1) autofocus '",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "a#b?c=d&e %41;{{ 7*7 }}${alert(1)}",
    "}</style><style>*{display:none}".replace("/", ""),
)
TEXTS = (
    *NAMES,
    "</script><script>alert(1)</script>",
    "</title></style><svg onload=alert(1)>",
    "\u202egnp.exe",
    "\udcff",
)
# Pages that load data say when they have it.
READY = "!document.getElementById('page') || document.documentElement.dataset.ready === 'yes'"
# Before all else on a page: what it would do if a name were obeyed is noted where the dump of the page shows it.
LISTENER = (
    "<script>const caught = what => document.documentElement.setAttribute('data-caught', what);"
    "for (const f of ['alert', 'confirm', 'prompt']) window[f] = () => caught(f);"
    "console.error = text => caught('error ' + text);"
    "addEventListener('error', e => caught('error ' + e.message));"
    "addEventListener('load', () => document.querySelectorAll('*').forEach(e => {"
    " e.dispatchEvent(new MouseEvent('mouseover')); e.focus && e.focus(); }));"
    "addEventListener('load', () => document.documentElement.setAttribute('data-opened', 'yes'));</script>"
)


def audit_page(folder: Path, name: str, text: str) -> Path:
    template = load_head("anny").template
    sequence = folder / "build" / "warps" / name / name
    write_warp(sequence / "000000", a_warp(template))
    verdict = {"verdict": text, "reasons": [text], "figures": {text: 1.0}}
    atomic_write_bytes(sequence / "000001" / "verdict.json", json.dumps({**verdict, "verdict": "fail"}).encode())
    return write_report(folder / "build", worst=2, random=0)


def comparison_page(folder: Path, name: str, text: str) -> Path:
    template = load_head("anny").template
    builds = folder / "one", folder / "two"
    for build, off_mm in zip(builds, (0.0, 0.5), strict=True):
        write_warp(build / "warps" / name / name / "000000", a_warp(template, off_mm=off_mm))
        content = {"verdict": "fail" if off_mm else "pass", "reasons": [text], "figures": {text: 1.0}}
        atomic_write_bytes(build / "warps" / name / name / "000001" / "verdict.json", json.dumps(content).encode())
    return write_comparison(folder / "difference", *builds, compare(*builds))


def browse_page(folder: Path, name: str, text: str) -> Path:
    kept = {"url": text, "uuid": text, "resolution": 2, "cameras": [name], "samples": 1, "kinds": list(KINDS)}
    kept["sequences"] = [{"subject": name, "sequence": name, "split": "train", "frames": 1}]
    rows = SimpleNamespace(views=lambda: [[0]])
    browsing: Any = SimpleNamespace(
        dataset=StandIn({"train": rows}, SimpleNamespace(cameras=(name,))),
        contents=lambda: dict(kept),
        name=lambda *_: f"{name}/{name}/000003/{name}",
        history=lambda *_: {text: text},
        picture=lambda *_: np.zeros((2, 2, 3), np.uint8),
    )
    return export_page(browsing, folder / "few", 1)


class StandIn(dict[str, Any]):
    """Splits by name, and a plan."""

    def __init__(self, splits: dict[str, Any], plan: Any) -> None:
        super().__init__(splits)
        self.plan = plan


def demo_page(folder: Path, name: str, text: str) -> Path:
    (folder / "report").mkdir()
    (folder / "report/index.html").touch()
    numbers = "subjects frames views samples_train samples_val samples_test warp_median_mm warp_p95_mm seconds peak_gib"
    metrics = dict.fromkeys([*numbers.split(), "residual_median_mm", "views_per_s", "dataset_mib"], 1.0)
    measured = {"canonical_mean_mm", "depth_mean_mm", "depth_aligned_mean_mm"}
    ours = {**dict.fromkeys(measured, 1.0), **{f"mean_map_{key}": 2.0 for key in measured}}
    return write_demo_page(folder, DemoSummary(metrics, {"pass": 1}, {text: 1.0}, {name: ours}))


def evaluation_page(folder: Path, name: str, text: str) -> Path:
    curves: dict[str, Any] = dict.fromkeys(["ssme", "pck", "pck_shares", "canonical_confidence", "depth_confidence"])
    run = SimpleNamespace(name=f"#1 {name}/{name}/{name} frame 3")
    showcase: Any = SimpleNamespace(views=[], best=[run], worst=[run], half_extent_m=0.1)
    with pytest.MonkeyPatch.context() as patch:
        for chart in ("track_picture", "motion_chart", "pck_chart", "confidence_chart"):
            patch.setattr(charts, chart, lambda *_: b"a picture")
        result = Result(split=name, samples=1, step=1, metrics={text: 1.0}, curves=curves)
        return evaluation.write_report(folder, result, showcase, WorstSamples({}), folder, {text: text})


def evaluations_page(folder: Path, name: str, text: str) -> Path:
    result = Result(split=name, samples=1, step=1, metrics={"canonical_mean_mm": 1.0}, curves={})
    for own in (name, "b"):
        (folder / own).mkdir(parents=True)
        (folder / own / "index.html").touch()
    return write_evaluations(
        folder, [Compared(name, result, {text: text}), Compared("b", result, {text: f"{text} too"})]
    )


def viewer_page(folder: Path, name: str, text: str) -> Path:
    path = folder / "viewer.html"
    ranges = Ranges((0.1, 1.0), (0.0, 1.0))
    colours, tracks = np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.float32)
    viewer = Viewer(path, text, 1, 25.0, np.zeros(3), 0.1, colours, tracks, ranges)
    maps = np.full((3, 2, 2), 0.5, np.float32)
    frame = SimpleNamespace(
        valid=np.ones((2, 2), bool),
        canonical=maps,
        canonical_confidence=np.ones((2, 2), np.float32),
        intrinsics=np.eye(3),
        image=np.zeros((3, 2, 2), np.uint8),
        normal=maps,
    )
    camera = SimpleNamespace(world_to_camera=np.eye(4))
    shown: Any = SimpleNamespace(
        number=0, name=name, frame=frame, points=maps, camera=camera, camera_to_world=np.eye(4), tracks=None
    )
    viewer.add(shown)
    viewer.close()
    return path


def check_page(folder: Path, name: str, text: str) -> Path:
    view = ViewPicture(name, "poor", text, text, text, b"a picture")
    sequences = [SequencePictures(f"{name}/{name}", 3, (view, view))]
    told = [{"where": name, "problem": text}]
    said = {"counted": text, "fits": [text], "problems": told, "notes": told, "more": 3}
    return write_check_page(folder / "check.html", Path(name), sequences, said)


PAGES: dict[str, Callable[[Path, str, str], Path]] = {
    "audit report": audit_page,
    "comparison": comparison_page,
    "dataset": browse_page,
    "page of a check": check_page,
    "demo page": demo_page,
    "evaluation report": evaluation_page,
    "comparison of evaluations": evaluations_page,
    "prediction viewer": viewer_page,
}


class Outline(html.parser.HTMLParser):
    """A page without its texts: tags with the names of their attributes, where it leads, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.targets: list[str] = []
        self.scripts: list[str] = []
        self.texts = ""
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
        self.texts += data

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._in_script = False

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))


@pytest.fixture(scope="module", params=PAGES)
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """One kind of page: of tame names, and of each hostile one."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "tame").mkdir()
    tame = PAGES[request.param](folder / "tame", TAME, TAME)
    # The audit report draws pictures: two of them hold all there is to see.
    pairs = [("".join(NAMES)[:190], "".join(TEXTS)), (NAMES[0], TEXTS[-4])] + [(n, n) for n in NAMES]
    hostile = []
    for k, (name, text) in enumerate(pairs[: 2 if request.param in ("audit report", "comparison") else None]):
        (folder / str(k)).mkdir()
        hostile.append(PAGES[request.param](folder / str(k), name.rstrip(), text))
    return tame, hostile


def test_a_hostile_name_changes_nothing_but_texts(pages: tuple[Path, list[Path]]) -> None:
    tame, hostile = pages
    expected = Outline(tame.read_text())
    for page in hostile:
        found = Outline(page.read_text())
        assert found.tags == expected.tags
        for target in found.targets:
            if target.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
                continue
            parts = urlsplit(target)
            assert target == parts.path  # no scheme, host, query or fragment
            assert (page.parent / unquote(parts.path)).is_file()
        # Data in a script element: "<" in any form could end it, or open a comment that hides its end.
        assert not any("<" in script for script in found.scripts if "alert(1)" in script)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("there is no browser on this machine")
    with Browser() as found:
        yield found


def test_a_browser_obeys_no_name(pages: tuple[Path, list[Path]], browser: Browser) -> None:
    browser.look_like()
    for page in [pages[0], *pages[1]]:
        page.with_name("heard.html").write_text(LISTENER + page.read_text())
        browser.open(page.with_name("heard.html").as_uri(), ready=READY)
        assert browser.run("document.documentElement.dataset.opened") == "yes"
        # Once more, for what came after the page was loaded; and what opens at a click.
        browser.run("for (const e of document.querySelectorAll('[role=row].data')) e.click()")
        browser.run("document.querySelectorAll('*').forEach(e => { e.dispatchEvent(new MouseEvent('mouseover')); })")
        assert browser.run("document.documentElement.dataset.caught") is None
        assert not browser.complaints


def test_every_page_is_for_everybody(pages: tuple[Path, list[Path]], browser: Browser) -> None:
    check_in_browser(browser, pages[0], READY)


def test_every_template_is_filled_in_by_the_one_that_escapes() -> None:
    root = Path(__file__).parents[3]
    sources = [path for name in ("datagen", "trainer") for path in (root / name).rglob("*.py")]
    users = [path.relative_to(root).as_posix() for path in sources if "jinja2" in path.read_text()]
    assert users == ["datagen/common/pages.py"]
    templates = [path for name in ("datagen", "trainer") for path in (root / name).rglob("*.htm*")]
    assert len(templates) == len(PAGES)
    for path in templates:
        text = path.read_text()
        assert "| safe" not in text
        assert "autoescape" not in text
        for value in re.findall(r'(?:href|src)="\{\{(.*?)\}\}"', text):
            assert value.endswith("| link ") or value in {
                " picture.source ",
                " view.source ",
                " sample.source ",
                " sample.link ",
            }  # pictures of ours, as data, and addresses that are made of quoted names


def test_a_value_that_was_forgotten_is_an_error() -> None:
    with pytest.raises(Exception, match="is undefined"):
        render_page("datagen.audit", "templates", "demo.html", version="1")
