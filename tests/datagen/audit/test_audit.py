"""Audit: true errors, pictures, the report, explanations and comparisons."""

from __future__ import annotations

import html.parser
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from datagen.audit import pictures
from datagen.audit.compare import compare
from datagen.audit.compare_page import write_comparison
from datagen.audit.explain import explain
from datagen.audit.paired import moved_mm, sign_test
from datagen.audit.report import write_report
from datagen.audit.samples import sample_row, samples_picture
from datagen.audit.truth import by_region, calibration, error_metrics, true_error_mm
from datagen.audit.warp_pictures import canonical_picture, scan_distance_mm, write_warp_pictures
from datagen.common.errors import InputError, StorageError
from datagen.common.files import atomic_write_bytes
from datagen.geometry.mesh import vertex_normals
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.heads.registry import load_head
from datagen.shards import open_dataset
from datagen.warp.result import Verdict, Warp
from datagen.warp.storage import write_warp
from tests.support import shard_samples


@pytest.fixture(scope="module")
def template() -> HeadTemplate:
    return load_head("anny").template


def a_warp(
    template: HeadTemplate, *, off_mm: float = 0.0, shift_mm: float = 0.0, verdict: Verdict | None = None
) -> Warp:
    """The template as its own scan, posed; ``off_mm`` off the surface, its coordinates ``shift_mm`` off along x."""
    a = 0.4
    E = np.eye(4)
    E[:3, :3] = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    E[:3, 3] = [0.3, -0.2, 1.0]
    registered = template.vertices @ E[:3, :3].T + E[:3, 3]
    scan = registered + vertex_normals(registered, template.faces) * off_mm / 1000
    canonical = template.space.normalise(template.vertices + np.array([shift_mm / 1000, 0, 0])).astype(np.float32)
    return Warp(
        scan,
        template.faces,
        canonical,
        np.full(len(scan), 0.9, np.float32),
        template.regions,
        registered,
        template.faces,
        E,
        template.space,
        verdict or Verdict("pass", (), {"residual_median_mm": off_mm, "face_coverage": 1.0}),
    )


def truth_of(template: HeadTemplate) -> npt.NDArray[np.float32]:
    return template.space.normalise(template.vertices).astype(np.float32)


def a_build(folder: Path, template: HeadTemplate, *, with_truth: bool = True) -> Path:
    """Three frames that pass, one for review, and one that failed before there was a warp."""
    sequence = folder / "warps" / "s00" / "smile"
    for frame in range(3):
        write_warp(sequence / f"{frame:06d}", a_warp(template, off_mm=0.1 * frame, shift_mm=0.5))
    bad = Verdict("review", ("median surface residual is 0.8 mm, above the limit",), {"residual_median_mm": 0.8})
    write_warp(sequence / "000003", a_warp(template, off_mm=0.8, shift_mm=3.0, verdict=bad))
    failed = {"verdict": "fail", "reasons": ["MeshError: scan <b>7</b> is empty."], "figures": {}}
    atomic_write_bytes(sequence / "000004" / "verdict.json", json.dumps(failed).encode())
    if with_truth:
        truth = folder / "truth" / "s00" / "smile"
        truth.mkdir(parents=True)
        for frame in range(4):
            np.savez(truth / f"{frame:06d}.npz", canonical=truth_of(template))
    return folder


# True errors


def test_true_error_is_the_shift_in_mm(template: HeadTemplate):
    truth = truth_of(template)
    truth[:5] = np.nan
    error = true_error_mm(a_warp(template, shift_mm=2.5), truth)
    assert np.isnan(error[:5]).all()
    np.testing.assert_allclose(error[5:], 2.5, atol=1e-3)


def test_truth_of_another_scan_is_refused(template: HeadTemplate):
    with pytest.raises(InputError, match="shape"):
        true_error_mm(a_warp(template), truth_of(template)[:-1])


def test_error_metrics_judge_the_face_only():
    region = np.array([REGIONS["nose"]] * 4 + [REGIONS["scalp"]] * 4)
    error = np.array([0.2, 0.4, 2.0, np.nan, 50, 50, 50, 50])
    metrics = error_metrics(error, region)
    assert metrics["true_error_median_mm"] == pytest.approx(0.4)
    assert metrics["true_error_within_1mm"] == pytest.approx(2 / 3)
    assert error_metrics(np.full(8, np.nan), region) == {}


def test_by_region_counts_finite_values():
    table = by_region(np.array([1.0, 3.0, np.nan, 9.0]), np.array([3, 3, 3, 0]))
    assert table == {"nose": (2, 2.0, pytest.approx(2.9))}


def test_calibration_tells_honest_from_overconfident():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 40000)
    honest = np.where(rng.uniform(size=40000) < confidence, 0.5, 3.0)
    assert calibration(confidence, honest).expected_error < 0.02
    boastful = np.where(rng.uniform(size=40000) < confidence / 2, 0.5, 3.0)
    assert calibration(confidence, boastful).expected_error == pytest.approx(0.25, abs=0.02)
    assert calibration(confidence, honest).count.sum() == 40000
    assert calibration(confidence, np.full(40000, np.nan)).expected_error == 0


# Pictures


def sphere(radius: float = 0.1) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int32)


def drawn(
    v: npt.NDArray[np.float64], f: npt.NDArray[np.int32], colours: object, view: str, px: int
) -> pictures.Picture:
    """A mesh or points with vertex colours, light grey without."""
    given = np.full((len(v), 3), 0.82) if colours is None else np.asarray(colours)
    rendering = pictures.render_values(v, f, given, pictures.view_camera(view, v, px))
    return pictures.paint(rendering, rendering.values)


def redness(picture: pictures.Picture) -> float:
    """How much more red than blue the picture is, over its coloured pixels."""
    p = picture.astype(float)
    return float((p[..., 0] - p[..., 2]).mean())


def test_the_left_view_shows_the_subjects_left():
    v, f = sphere()
    colours = np.where(v[:, :1] > 0, [[1.0, 0, 0]], [[0, 0, 1.0]])
    shown = {view: redness(drawn(v, f, colours, view, 96)) for view in pictures.VIEWS}
    assert shown["left"] > 20 > -20 > shown["right"]
    assert abs(shown["front"]) < 5


def test_a_sphere_covers_its_disc():
    v, f = sphere()
    picture = drawn(v, f, None, "front", 200)
    covered = (picture != pictures.BACKGROUND).any(axis=-1).mean()
    # The frame is 1.25 times the middle 98 % of the vertices wide, so the disc fills about π / 4 / 1.25².
    assert covered == pytest.approx(np.pi / 4 / 1.25**2, rel=0.06)
    assert tuple(picture[0, 0]) == pictures.BACKGROUND


def test_points_without_faces_are_drawn_nearest_on_top():
    v, _ = sphere()
    colours = np.where(v[:, 2:] > 0, [[1.0, 0, 0]], [[0, 0, 1.0]])
    picture = drawn(v, np.zeros((0, 3), np.int32), colours, "front", 96)
    assert redness(picture) > 20


def test_unknown_values_are_grey():
    v, f = sphere()
    picture = drawn(v, f, np.full((len(v), 3), np.nan), "front", 64)
    middle = picture[32, 32].astype(int)
    assert np.abs(middle - pictures.UNKNOWN).max() < 8


def test_an_unknown_view_is_refused():
    with pytest.raises(InputError, match="front"):
        pictures.view_camera("above", np.zeros((3, 3)), 64)


def test_canonical_colours_span_the_cube():
    rgb = pictures.canonical_colours(np.array([[-1, 0, 1], [np.nan] * 3]))
    np.testing.assert_allclose(rgb[0], [0, 0.5, 1])
    assert np.isnan(rgb[1]).all()


def test_grid_lines_lie_on_multiples_of_the_spacing():
    x = np.linspace(-0.03, 0.03, 601)
    colours = pictures.grid_colours(np.stack([x, np.full_like(x, 0.005), x], -1))
    on_line = colours[:, 2] < 0.8
    on_line |= colours[:, 0] < 0.5
    assert np.abs(x[on_line] * 1000 - np.rint(x[on_line] * 100) * 10).max() < 0.6
    assert set(np.rint(x[on_line] * 100).astype(int)) == set(range(-3, 4))


def test_a_contact_sheet_holds_every_picture():
    tiles = [(str(i), np.full((20, 30, 3), 10 * i, np.uint8)) for i in range(1, 6)]
    sheet = pictures.contact_sheet(tiles, columns=3)
    for i in range(1, 6):
        assert (sheet == 10 * i).all(axis=-1).sum() >= 600
    with pytest.raises(InputError):
        pictures.contact_sheet([])


def test_distance_to_the_registered_template(template: HeadTemplate):
    distance = scan_distance_mm(a_warp(template, off_mm=0.7), np.arange(0, len(template.vertices), 7))
    assert np.median(distance) == pytest.approx(0.7, abs=0.02)


def test_a_larger_residual_is_redder(template: HeadTemplate, tmp_path: Path):
    red = {}
    for mm in (0.05, 1.5):
        write_warp_pictures(tmp_path, a_warp(template, off_mm=mm), template)
        red[mm] = redness(np.asarray(Image.open(tmp_path / "residual.png").convert("RGB")))
    assert red[1.5] > red[0.05] + 5


def test_the_canonical_picture_shows_a_shift(template: HeadTemplate):
    right = canonical_picture(a_warp(template), template)
    wrong = canonical_picture(a_warp(template, shift_mm=5), template)
    tile = right.shape[0] // 2
    scan_row, template_row = (np.abs(right.astype(int) - wrong)[rows] for rows in (slice(0, tile), slice(tile, None)))
    assert scan_row.mean() > 1
    assert template_row.max() == 0


def test_warp_pictures_are_written(template: HeadTemplate, tmp_path: Path):
    warp = a_warp(template)
    paths = write_warp_pictures(tmp_path, warp, template, true_error_mm=np.zeros(len(warp.scan_vertices)))
    assert [p.name for p in paths] == ["residual.png", "canonical.png", "confidence.png", "error.png"]
    for path in paths:
        assert min(Image.open(path).size) > 300
    assert len(list(tmp_path.iterdir())) == 4


def test_a_registered_mesh_of_another_topology_still_gives_pictures(template: HeadTemplate, tmp_path: Path):
    v, f = sphere()
    warp = replace(a_warp(template), registered_vertices=v + np.array([0.3, -0.2, 1.0]), registered_faces=f)
    assert len(write_warp_pictures(tmp_path, warp, template)) == 3


def test_the_sample_sheet_shows_images_as_stored_and_leaves_the_unknown_blank(tmp_path: Path):
    dataset = shard_samples.build(tmp_path / "dataset.zarr")
    sheet = samples_picture(dataset, per_split=2)
    assert sheet is not None
    first = open_dataset(dataset)["train"].sample(0)
    row = sample_row(first, tile=shard_samples.RESOLUTION)
    np.testing.assert_array_equal(row[:, :28], np.moveaxis(first.image, 0, -1))
    off_surface = first.depth == 0
    for tile in range(1, 6):
        part = row[:, 28 * tile : 28 * (tile + 1)]
        assert (part[off_surface] == pictures.BACKGROUND).all()
        assert (part[~off_surface] != pictures.BACKGROUND).any()


def test_a_corrupted_dataset_is_named_in_the_report(template: HeadTemplate, tmp_path: Path):
    build = a_build(tmp_path, template, with_truth=False)
    (build / "dataset.zarr").mkdir()
    assert "dataset.zarr" in write_report(build, worst=0, random=0).read_text()


# The report


class Links(html.parser.HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self.targets += [value for name, value in attrs if name in ("src", "href") and value]


def part_of(page: Path, name: str) -> Any:
    """What a script beside the page hands to it."""
    text = (page.parent / "data" / f"{name}.js").read_text()
    literal = re.fullmatch(rf'canonface\("{name}",JSON\.parse\(\'(.*)\'\)\)\n', text)
    assert literal is not None
    return json.loads(literal[1].replace("\\'", "'").replace("\\\\", "\\"))


def test_the_report_of_a_build(template: HeadTemplate, tmp_path: Path):
    build = a_build(tmp_path, template)
    page = write_report(build, worst=2, random=1)
    assert page == build / "report" / "index.html"
    text = page.read_text()
    assert all((page.parent / target).is_file() for target in Links(text).targets)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # the name of a format, which nobody asks for
    assert "scan &lt;b&gt;7&lt;/b&gt; is empty" in text
    assert "true correspondence error" in text
    assert sorted(p.name for p in build.iterdir()) == ["report", "truth", "warps"]
    rows, cards = part_of(page, "rows-0"), part_of(page, "cards-0")
    # The one without a warp first, then the one to be reviewed.
    assert [rows["rank"].index(place) for place in (0, 1)] == [4, 3]
    assert cards[4]["reasons"] == ["MeshError: scan <b>7</b> is empty."]
    assert [card.get("chosen") is not None for card in cards].count(True) == 3
    for card in cards:
        assert all((page.parent / path).is_file() for _, path in card.get("pictures", []))
    assert [bool(card.get("pictures")) for card in cards[3:]] == [True, False]
    assert cards[3]["regions"]["nose"]["error_median_mm"] == pytest.approx(3, abs=0.01)
    assert cards[3]["regions"]["nose"]["distance_median_mm"] == pytest.approx(0.8, abs=0.05)
    assert cards[3]["regions"]["nose"]["back_median_mm"] == pytest.approx(0.8, abs=0.05)
    # The coordinates lie 3 mm beside the points, whose registration is 0.8 mm below them.
    assert cards[3]["regions"]["forehead"]["round_trip_p95_mm"] == pytest.approx(np.hypot(3, 0.8), abs=0.4)


def test_the_report_says_the_same_in_numbers(template: HeadTemplate, tmp_path: Path):
    page = write_report(a_build(tmp_path, template), worst=1, random=0)
    numbers = json.loads(page.with_name("report.json").read_text())
    rows = part_of(page, "rows-0")
    columns = json.loads(re.findall(r'id="page"[^>]*>(.*?)</script>', page.read_text())[0])["columns"]
    for k, column in enumerate(columns):
        assert numbers["frames"][column["name"]] == rows["columns"][k]
    assert numbers["verdicts"] == {"pass": 3, "review": 1, "fail": 1}
    assert [number for _, number in numbers["pictured"]]
    names = numbers["frames"]["name"]
    assert dict(numbers["pictured"]) == {name: k for name, k in zip(names, rows["pictured"], strict=True) if k >= 0}
    ranks = [rows["rank"][names.index(name)] for name, _ in numbers["pictured"]]
    assert ranks == sorted(ranks)
    titles = [alert["title"] for alert in numbers["alerts"]]
    assert any(title.startswith("The truth says that a part is wrong") for title in titles)
    for number, alert in enumerate(numbers["alerts"]):
        frames = [numbers["frames"]["name"][i] for i in part_of(page, "alerts")[number]]
        assert frames == alert["frames"]
    assert numbers["summary"] == json.loads(page.with_name("summary.json").read_text()) | numbers["summary"]


def test_a_new_report_replaces_the_old_and_a_failed_one_does_not(template: HeadTemplate, tmp_path: Path):
    build = a_build(tmp_path, template, with_truth=False)
    page = write_report(build, worst=0, random=0)
    assert "without truth" in page.read_text()
    (page.parent / "left over.txt").write_text("old")
    with pytest.raises(StorageError, match=r"left over\.txt: in the way"):
        write_report(build, worst=0, random=0)
    (page.parent / "left over.txt").unlink()
    write_report(build, worst=0, random=0)
    before = page.read_bytes()
    (build / "warps" / "s00" / "smile" / "000001" / "warp.npz").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"000001"):
        write_report(build, worst=0, random=0)
    assert page.read_bytes() == before
    assert sorted(p.name for p in build.iterdir()) == ["report", "warps"]


def test_a_folder_without_warps_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no warps"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


# Words


def test_explain_gives_reasons_ranks_and_regions(template: HeadTemplate, tmp_path: Path):
    build = a_build(tmp_path, template)
    text = explain(build, "s00", "smile", 3)
    assert "review" in text.splitlines()[0]
    assert "above the limit" in text
    assert "3 of 3 other frames are better" in text
    assert "true correspondence error" in text
    assert "3.00" in text
    assert "no warp" in explain(build, "s00", "smile", 4)
    with pytest.raises(InputError, match="from 0 to 4"):
        explain(build, "s00", "smile", 9)
    with pytest.raises(InputError, match="s00/smile"):
        explain(build, "s00", "frown", 0)


def test_compare_names_what_changed(template: HeadTemplate, tmp_path: Path):
    first = a_build(tmp_path / "a", template, with_truth=False)
    second = a_build(tmp_path / "b", template, with_truth=False)
    worse = {"verdict": "fail", "reasons": ["x"], "figures": {"residual_median_mm": 9.0}}
    atomic_write_bytes(second / "warps/s00/smile/000000/verdict.json", json.dumps(worse).encode())
    better = {"verdict": "pass", "reasons": [], "figures": {"residual_median_mm": 0.1}}
    atomic_write_bytes(second / "warps/s00/smile/000003/verdict.json", json.dumps(better).encode())
    atomic_write_bytes(second / "warps/s00/smile/000009/verdict.json", json.dumps(better).encode())
    result = compare(first, second)
    assert (result.frames, result.only_a, result.only_b, result.worse) == (5, 0, 1, 1)
    assert result.changes == (("s00/smile/000000", "pass", "fail"), ("s00/smile/000003", "review", "pass"))
    assert result.counts_b == {"pass": 3, "review": 0, "fail": 2}
    assert "s00/smile/000000: pass → fail" in result.text()
    with pytest.raises(InputError, match="no warps"):
        compare(first, tmp_path)


def test_paired_differences_say_which_build_is_better_and_when_nobody_can_tell(template: HeadTemplate, tmp_path: Path):
    builds = [tmp_path / name for name in ("a", "b")]
    for build, off in zip(builds, (0.0, 0.3), strict=True):
        for frame in range(7):
            write_warp(build / "warps/s/a" / f"{frame:06d}", a_warp(template, off_mm=0.2 + 0.01 * frame + off))
    page = write_comparison(tmp_path / "out", *builds, compare(*builds))
    numbers = json.loads(page.with_name("comparison.json").read_text())
    nose = {row["figure"]: row for row in numbers["paired"] if row["region"] == "nose"}
    assert nose["distance_median_mm"]["difference"] == pytest.approx(0.3, abs=0.02)
    assert (nose["distance_median_mm"]["better"], nose["distance_median_mm"]["worse"]) == (0, 7)
    assert nose["distance_median_mm"]["p"] == pytest.approx(2 / 2**7, rel=1e-3)
    assert nose["distance_median_mm"]["said"] == "worse"
    assert numbers["moved_mm"] == {}  # the scans differ, so there is nothing to follow
    assert sign_test(3, 3) == sign_test(0, 0) == 1
    assert sign_test(5, 0) == pytest.approx(2 / 2**5)


def test_coordinates_that_moved_are_measured_on_the_same_scan(template: HeadTemplate):
    moved = moved_mm(a_warp(template), a_warp(template, shift_mm=1.5))
    assert moved is not None
    np.testing.assert_allclose(moved, 1.5, atol=1e-3)
    assert moved_mm(a_warp(template), a_warp(template, off_mm=1.0)) is None
