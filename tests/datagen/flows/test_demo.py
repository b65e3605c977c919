"""The demo as a whole, as small as it can be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import trainer.cli
from datagen.audit.demo_page import summary_rows
from datagen.audit.demo_pictures import draw_pictures
from datagen.common.errors import CanonfaceError
from datagen.flows import demo as demo_module
from datagen.flows.demo import DemoError, Meter, run_demo
from datagen.flows.runners.contract import RunnerConfig
from datagen.layout import BuildLayout
from datagen.manifest import parse_manifest
from tests.conftest import TINY_MANIFEST
from tests.support.places import ROOT

FIGURES = {
    "subjects", "frames", "views", "samples_train", "samples_val", "samples_test", "warp_median_mm", "warp_p95_mm",
    "residual_median_mm", "views_per_s", "dataset_mib", "val_canonical_mm", "val_canonical_baseline_mm",
    "val_depth_mm", "val_depth_baseline_mm", "val_canonical_ratio_mean_map", "val_depth_ratio_mean_map",
    "confidence_gap", "fit_steps", "fit_steps_planned", "first_picture_s", "seconds", "peak_gib",
}  # fmt: skip
SOURCE = {**TINY_MANIFEST["source"], "subjects": 3}  # type: ignore[dict-item]
MANIFEST = parse_manifest({**TINY_MANIFEST, "source": SOURCE, "splits": {"val": 1, "test": 1}})
SHORT_FIT = ("fit.steps=4", "fit.val_every=2", "fit.save_every=2")


@pytest.fixture(scope="module", autouse=True)
def without_servers() -> Iterator[None]:
    """Build without Prefect, whose server takes as long to start as so small a build takes; test_build.py has it."""
    serially = partial(demo_module.build, config=RunnerConfig("serial"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "build", serially)
        yield


def trainer_within(*arguments: str) -> str:
    """Run the trainer in this process, which spares its imports; some tests start it as the demo does."""
    done = CliRunner().invoke(trainer.cli.app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout if "--json" in arguments else ""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, without_servers: None) -> Path:
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "_trainer", trainer_within)
        run_demo(MANIFEST, out, "tiny", SHORT_FIT)
    return out


def test_summary_holds_every_figure_as_a_number(demo: Path) -> None:
    figures = json.loads((demo / "summary.json").read_text())["figures"]
    assert set(figures) == FIGURES
    assert all(isinstance(value, int | float) for value in figures.values())
    assert figures["subjects"] == 3
    assert figures["views"] == figures["samples_train"] + figures["samples_val"] + figures["samples_test"]
    assert figures["warp_median_mm"] > 0
    assert figures["seconds"] > 1


def test_every_link_and_picture_of_the_page_exists(demo: Path) -> None:
    page = (demo / "index.html").read_text()
    targets = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert "report/index.html" in targets
    assert "prediction/strip.png" in targets
    assert sum(target.endswith(".png") for target in targets) >= 6
    assert [target for target in targets if not (demo / target).is_file()] == []


def test_pictures_are_drawn_and_drawn_again_where_what_they_show_is_newer(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    shutil.copytree(demo, out)
    layout, folder = BuildLayout(out), out / "pictures"
    draw_pictures(layout, MANIFEST)
    names = {"template.png", "cameras.png", "warp.png", "samples.png"}
    assert {path.name for path in folder.glob("*.png")} == names
    assert not draw_pictures(layout, MANIFEST)
    (folder / "warp.png").unlink()
    os.utime(layout.dataset / "zarr.json", (later := time.time() + 5, later))
    before = {name: (folder / name).stat().st_mtime_ns for name in names - {"warp.png"}}
    assert draw_pictures(layout, MANIFEST)
    after = {name: (folder / name).stat().st_mtime_ns for name in names}
    assert {name for name in before if after[name] != before[name]} == {"samples.png"}


def test_running_again_does_no_work_and_says_the_same(demo: Path) -> None:
    watched = ["meter.json", "train/best.pt", "evaluation/val/contact_sheet.png", "prediction/strip.png"]
    before = {name: (demo / name).stat().st_mtime_ns for name in watched}
    figures = json.loads((demo / "summary.json").read_text())
    summary = run_demo(MANIFEST, demo, "tiny", SHORT_FIT)
    assert {name: (demo / name).stat().st_mtime_ns for name in watched} == before
    assert json.loads((demo / "summary.json").read_text()) == figures
    rows = {row.label: row for row in summary_rows(summary)}
    assert rows["people / frames / views"].value.endswith(f" / {figures['figures']['views']:.0f}")
    assert rows["fit"].value == "4 of 4 steps"


def test_the_trainer_answers_from_a_process_of_its_own(demo: Path) -> None:
    sets = [word for setting in SHORT_FIT for word in ("--set", setting)]
    words = ["fit", str(demo), "--out", str(demo / "train"), "--config", "tiny", *sets]
    assert json.loads(demo_module._trainer(*words, "--json"))["finished"]
    with pytest.raises(DemoError, match="`trainer fit` ended with exit code 2"):
        demo_module._trainer(*words, "--set", "fit.no_such_key=1")


def test_a_lost_prediction_is_made_again_and_nothing_else(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "_trainer", trainer_within)
    fitted = (demo / "train/best.pt").stat().st_mtime_ns
    (demo / "prediction" / "strip.png").unlink()
    run_demo(MANIFEST, demo, "tiny", SHORT_FIT)
    assert (demo / "prediction" / "strip.png").is_file()
    assert (demo / "train/best.pt").stat().st_mtime_ns == fitted


def test_a_killed_demo_takes_its_trainer_with_it(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    shutil.copytree(demo, out)
    shutil.rmtree(out / "train")
    (out / ".report.tmp-1").mkdir()
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from datagen.flows.demo import run_demo\nfrom tests.datagen.flows.test_demo import MANIFEST\n"
        "run_demo(MANIFEST, Path(sys.argv[1]), 'tiny', ('fit.steps=100000', 'fit.save_every=1'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(out)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (out / "train" / "last.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    (started,) = [p for p in psutil.Process(process.pid).children() if "trainer.cli" in " ".join(p.cmdline())]
    process.kill()
    process.wait()
    started.wait(timeout=60)
    assert not started.is_running()


def test_meter_adds_up_over_interrupted_runs(tmp_path: Path) -> None:
    path = tmp_path / "meter.json"
    first = Meter(path)
    with first.watch_memory():
        first.add("build", 2.0, views=8)
    again = Meter(path)
    again.add("build", 3.0, views=4)
    assert Meter(path).seconds == {"build": 5.0}
    assert Meter(path).counts == {"views": 12.0}
    path.write_text("{")
    assert Meter(path).seconds == {}


def test_no_time_for_fitting_is_said(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "SHORTEST_FIT_S", 1.0)
    monkeypatch.setattr(demo_module, "_trainer", trainer_within)
    out = tmp_path / "short"
    shutil.copytree(demo, out)
    shutil.rmtree(out / "train")
    summary = run_demo(MANIFEST, out, "tiny", ("fit.steps=100000", "fit.save_every=1000"), max_minutes=0.001)
    assert 0 < (summary.metrics["fit_steps"] or 0) < 100000
    assert re.search(r"of 100000 steps</td>", (out / "index.html").read_text())
    assert "unfinished model" in (out / "index.html").read_text()


def test_the_page_of_a_demo_that_stops_says_so_and_no_longer_reloads(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(demo, out)
    with pytest.raises(DemoError, match="`trainer fit` ended"):
        run_demo(MANIFEST, out, "tiny", ("fit.no_such_key=1",))
    page = (out / "index.html").read_text()
    assert "Stopped at fit: `trainer fit` ended with exit code 2" in page
    assert "http-equiv" not in page


def test_a_demo_without_anybody_held_out_is_refused_before_the_work(tmp_path: Path) -> None:
    nobody = parse_manifest({**TINY_MANIFEST, "splits": {"val": 0, "test": 0}})
    with pytest.raises(CanonfaceError, match=r"nobody is held out.*splits\.val=1"):
        run_demo(nobody, tmp_path, "tiny", SHORT_FIT)
    assert list(tmp_path.iterdir()) == []


def test_a_stranger_s_folder_gets_no_page(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(CanonfaceError, match="not a build folder"):
        run_demo(MANIFEST, tmp_path, "tiny", SHORT_FIT)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
