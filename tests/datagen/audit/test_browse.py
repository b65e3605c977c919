"""Walking through a dataset: a point is found where it is, the server answers nobody else, marks make a dataset."""

from __future__ import annotations

import http.client
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from benchmarks.browser import Browser, find_browser
from datagen.audit import pictures
from datagen.audit.browse_export import export_page
from datagen.audit.browse_server import BrowseServer, Marks
from datagen.audit.browsing import KINDS, Browsing
from datagen.audit.rerun_export import export_recording
from datagen.common.errors import DependencyError, InputError, StorageError
from datagen.shards import open_dataset
from datagen.shards.tools.combine import Selection, subset
from datagen.shards.tools.publish import publish
from datagen.warp.storage import read_warp
from tests.support.page_checks import check_page

if TYPE_CHECKING:
    from datagen.flows.build import BuildResult


@pytest.fixture(scope="module")
def browsing(pristine: Path) -> Iterator[Browsing]:
    with open_dataset(pristine) as dataset:
        yield Browsing(dataset)


@pytest.fixture
def served(browsing: Browsing, tmp_path: Path) -> Iterator[tuple[str, Marks]]:
    """The address of a server, and its marks."""
    marks = Marks(tmp_path / "marks.txt")
    server = BrowseServer(browsing, marks, {"use": "datagen subset"})
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server.url, marks
    server.stop()
    thread.join()


def asked(
    url: str, path: str = "", *, host: str | None = None, body: str | None = None, kind: str = "application/json"
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    headers = {"Host": host or parts.netloc} | ({"Content-Type": kind} if body else {})
    connection.request("POST" if body else "GET", parts.path + path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_pixel_is_found_again_and_in_other_cameras_where_the_skin_is(browsing: Browsing) -> None:
    split = browsing.dataset["train"]
    sample = split.sample(0)
    rows, columns = np.nonzero(sample.confidence > 0)
    k = len(rows) // 2
    point = browsing.point("train", 0, columns[k] + 0.5, rows[k] + 0.5)
    (itself,) = browsing.find("train", [0], point["canonical_mm"])
    assert itself is not None
    assert (itself["x"], itself["y"]) == (columns[k], rows[k])
    assert itself["mm"] < 0.1
    far = [value + 500 for value in point["canonical_mm"]]
    assert browsing.find("train", [0, 1], far) == [None, None]
    off = np.argwhere(sample.depth == 0)[0]
    assert browsing.point("train", 0, off[1], off[0])["canonical_mm"] is None


def test_every_map_is_drawn_and_unknown_pixels_are_the_plate(browsing: Browsing) -> None:
    sample = browsing.dataset["train"].sample(0)
    np.testing.assert_array_equal(browsing.picture("train", 0, "image"), np.moveaxis(sample.image, 0, -1))
    for kind in KINDS:
        assert browsing.picture("train", 0, kind).shape == (*sample.depth.shape, 3)
    for kind in ("depth", "canonical", "normal", "region"):
        assert (browsing.picture("train", 0, kind)[sample.depth == 0] == pictures.BACKGROUND).all()
    for wrong in (("train", 0, "nothing"), ("train", 10**6, "image"), ("else", 0, "image")):
        with pytest.raises(InputError):
            browsing.picture(*wrong)


def test_the_server_answers_only_with_its_token_and_under_its_own_name(served: tuple[str, Marks]) -> None:
    url, marks = served
    assert urlsplit(url).hostname == "127.0.0.1"
    assert asked(url)[0] == 200
    root = url[: url.index("/", 8)]
    for other, host in ((f"{root}/", None), (f"{root}/{'x' * 24}/", None), (url, "evil.example:80")):
        assert asked(other, host=host)[0] == 403
    mark = json.dumps({"split": "train", "sample": 0, "on": True})
    assert asked(url, "mark", body=mark, kind="text/plain")[0] == 400  # what a form of another page can send
    assert marks.names() == []
    assert asked(url, "nothing")[0] == 404
    for wrong in (
        "picture?split=train&sample=99999&kind=image",
        "picture?split=train",
        "find?split=train&samples=0&mm=1",
    ):
        status, body = asked(url, wrong)
        assert status == 400
        assert "error" in json.loads(body)


def test_pictures_and_points_come_over_the_wire(served: tuple[str, Marks], browsing: Browsing) -> None:
    url, _ = served
    status, body = asked(url, "picture?split=train&sample=1&kind=depth")
    assert status == 200
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(body))), browsing.picture("train", 1, "depth"))
    first = browsing.contents()["sequences"][0]
    status, body = asked(url, f"sequence?subject={first['subject']}&sequence={first['sequence']}")
    assert json.loads(body) == browsing.sequence(first["subject"], first["sequence"])
    assert "content key" in json.loads(asked(url, "history?split=train&sample=0")[1])["shard"]


def test_marks_are_kept_and_make_a_dataset(served: tuple[str, Marks], browsing: Browsing, tmp_path: Path) -> None:
    url, marks = served
    for sample in (0, 3):
        assert asked(url, "mark", body=json.dumps({"split": "train", "sample": sample, "on": True}))[0] == 200
    assert asked(url, "mark", body=json.dumps({"split": "train", "sample": 3, "on": False}))[0] == 200
    wanted = [browsing.name("train", 0)]
    assert marks.path.read_text().splitlines() == Marks(marks.path).names() == wanted
    chosen = subset(browsing.dataset.url, tmp_path / "marked", Selection.parse([f"name=@{marks.path}"]))
    assert dict(chosen.plan.counts)["train"] == 1
    assert Browsing(chosen).name("train", 0) == wanted[0]
    # A whole frame, and nothing that is not there.
    frame = wanted[0].rpartition("/")[0]
    assert len(Selection.parse([f"name={frame}"]).chosen(browsing.dataset, "train")) >= 1
    for wrong in ("name=a/b", "name=a/b/c", "name=nobody/b/1", f"name=@{tmp_path}/none"):
        with pytest.raises(InputError):
            Selection.parse([wrong]).chosen(browsing.dataset, "train")


def test_a_pixel_is_followed_back_to_the_triangle_it_shows(tiny_build: BuildResult) -> None:
    with open_dataset(tiny_build.dataset) as dataset:
        browsing = Browsing(dataset, tiny_build.root)
        sample = dataset["train"].sample(0)
        rows, columns = np.nonzero((sample.confidence > 0) & ~sample.edge)
        k = len(rows) // 2
        told = dict(browsing.trace("train", 0, columns[k] + 0.5, rows[k] + 0.5))
        assert {"triangle", "scan", "registration", "verdict", "warp", "input", "recipe", "code"} <= told.keys()
        # The triangle's own coordinates are the pixel's.
        subject, sequence, frame, _ = dataset["train"].sample_name(0).split("/")
        warp = read_warp(tiny_build.root / "warps" / subject / sequence / frame)
        face = warp.scan_faces[int(told["triangle"].split()[0])]
        assert ", ".join(map(str, face.tolist())) in told["triangle"]
        apart = np.linalg.norm(warp.canonical[face] - sample.canonical[:, rows[k], columns[k]], axis=1).min()
        assert apart * warp.space.half_extent < 0.012  # a triangle of this coarse scan is some millimetres wide
        off = np.argwhere(sample.depth == 0)[0]
        assert "no triangle" in dict(browsing.trace("train", 0, off[1] + 0.5, off[0] + 0.5))["scan"]
        assert Browsing(dataset).trace("train", 0, 1, 1) == []
        captures = browsing.history("train", 0)["captures"]
        assert "simulated" in captures
        assert not set("{}[]") & set(captures)


def test_a_dataset_in_a_bucket_is_walked_through_as_a_local_one(
    browsing: Browsing, pristine: Path, s3_url: str, tmp_path: Path
) -> None:
    publish(pristine, s3_url)
    with open_dataset(s3_url) as dataset:
        there = Browsing(dataset)
        assert there.contents() | {"url": ""} == browsing.contents() | {"url": ""}
        for kind in KINDS:
            np.testing.assert_array_equal(there.picture("train", 1, kind), browsing.picture("train", 1, kind))
        assert there.history("train", 0) == browsing.history("train", 0)
        page = export_page(there, tmp_path / "few", 2)
        assert s3_url not in page.read_text()


def test_a_sequence_is_recorded_for_rerun(browsing: Browsing, tmp_path: Path) -> None:
    chunks = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed (extra rerun)")
    first = browsing.contents()["sequences"][0]
    name = f"{first['subject']}/{first['sequence']}"
    count = export_recording(browsing.dataset, tmp_path / "view.rrd", name)
    assert count == sum(
        len(frame["samples"]) for frame in browsing.sequence(first["subject"], first["sequence"])["frames"]
    )
    assert (tmp_path / "view.rrd").read_bytes()[:3] == b"RRF"
    entities = {chunk.entity_path for chunk in chunks.RrdReader(tmp_path / "view.rrd").stream()}
    camera = browsing.dataset.plan.cameras[0]
    assert {f"/camera/{camera}/image", f"/points/{camera}", f"/canonical/{camera}"} <= entities
    for wrong in ((tmp_path / "view.rrd", "nobody/at"), (tmp_path / "view.txt", None)):
        with pytest.raises(InputError):
            export_recording(browsing.dataset, *wrong)


def test_without_rerun_it_is_said_what_to_install(browsing: Browsing, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rerun", None)
        with pytest.raises(DependencyError, match=r"canonface\[rerun\]"):
            export_recording(browsing.dataset, tmp_path / "view.rrd")
    assert not list(tmp_path.iterdir())


def test_somebodys_file_is_no_list_of_marks(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n")
    with pytest.raises(InputError, match="dear diary"):
        Marks(path)
    assert path.read_text() == "dear diary\n"


def test_a_list_without_marks_is_no_file(browsing: Browsing, tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks.txt")
    name = browsing.name("train", 0)
    marks.put(name, on=True)
    assert marks.put(name, on=False) == []
    assert not list(tmp_path.iterdir())


def test_an_export_holds_all_that_it_shows_and_no_path_of_this_machine(browsing: Browsing, tmp_path: Path) -> None:
    page = export_page(browsing, tmp_path / "few", 4)
    text = page.read_text()
    assert browsing.dataset.url not in text
    content = json.loads(text.split('id="page" type="application/json">')[1].split("</script>")[0])
    shown = [
        (info["split"], i)
        for info in content["static"]["sequences"].values()
        for entry in info["frames"]
        for i in entry["samples"].values()
    ]
    assert 1 <= len(shown) <= 4
    for split, i in shown:
        assert all((page.parent / "pictures" / f"{split}-{i}-{kind}.png").is_file() for kind in KINDS)
    (page.parent / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"mine\.txt"):
        export_page(browsing, tmp_path / "few", 4)


def test_a_point_is_followed_by_keys_alone(served: tuple[str, Marks]) -> None:
    if find_browser() is None:
        pytest.skip("there is no browser on this machine")
    url, marks = served
    ready = "document.documentElement.dataset.ready === 'yes'"
    with Browser() as browser:
        check_page(browser, url, ready)
        browser.open(url, ready=ready)
        browser.run("document.querySelector('.view').focus()")
        browser.press("ArrowDown", "Enter")
        browser.wait("document.querySelectorAll('#point dt').length > 0")
        assert browser.run("document.querySelector('#point').innerText").count("\n") > 3
        browser.run("document.getElementById('mark').focus()")
        browser.press("Enter")
        browser.wait("document.getElementById('mark').getAttribute('aria-pressed') === 'true'")
        assert not browser.complaints
    assert len(marks.names()) == 1
