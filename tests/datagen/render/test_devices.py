"""Tasks of one machine, and the CUDA devices that a stand-in says there are."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from datagen.flows.planning import plan_build
from datagen.flows.runners.contract import Carrier, Job, RunnerConfig
from datagen.flows.runners.drive import drive
from datagen.flows.runners.here import ThreadCarrier
from datagen.flows.stages.render import RenderStage
from datagen.layout import BuildLayout
from datagen.manifest import Needs, load_manifest
from datagen.render import registry
from datagen.render.devices import VISIBLE, device_names, held_device
from datagen.render.numba.renderer import NumbaRenderer
from datagen.render.registry import RendererEntry, held_renderer, make_renderer
from tests.support.build_trees import copy_build, tree
from tests.support.devices import Meeting, meet

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

THREE = ("0", "1", "2")


def test_devices_have_the_names_that_other_processes_know_them_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert device_names(2) == ("0", "1")
    monkeypatch.setenv(VISIBLE, "3, 1,GPU-8f2a")
    assert device_names(3) == ("3", "1", "GPU-8f2a")
    # Those after one that does not exist are hidden.
    assert device_names(1) == ("3",)
    monkeypatch.setenv(VISIBLE, "all")
    assert device_names(2) == ("0", "1")


def test_a_device_is_taken_by_one_until_there_are_no_more(tmp_path: Path) -> None:
    with held_device(THREE, tmp_path) as first, held_device(THREE, tmp_path) as second:
        with held_device(THREE, tmp_path) as third:
            assert {first, second, third} == {0, 1, 2}
            with (
                held_device(THREE, tmp_path) as a,
                held_device(THREE, tmp_path) as b,
                held_device(THREE, tmp_path) as c,
            ):
                assert {a, b, c} == {0, 1, 2}
        with held_device(THREE, tmp_path) as again:
            assert again == third
    with held_device(("5",), tmp_path / "never made") as only:
        assert only == 0
    assert not (tmp_path / "never made").exists()


def test_a_device_is_free_when_the_process_that_had_it_is_gone(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from datagen.render.devices import held_device\n"
        f"with held_device(('0', '1'), Path({str(tmp_path)!r})) as number: print(number, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "0\n"
        with held_device(("0", "1"), tmp_path) as number:
            assert number == 1
        other.kill()
    with held_device(("1", "0"), tmp_path) as first, held_device(("1", "0"), tmp_path) as second:
        assert {first, second} == {0, 1}


def test_where_nothing_can_be_locked_a_device_is_used_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with held_device(THREE, tmp_path / "file" / "below") as number:
        assert number in range(3)


@pytest.fixture(params=["threads", "dask"])
def carrier(request: pytest.FixtureRequest) -> Iterator[Carrier]:
    if request.param == "threads":
        with ThreadCarrier(3) as threads:
            yield threads
        return
    from datagen.flows.runners.dask import DaskCarrier

    # Three processes that all see the same devices.
    with DaskCarrier(RunnerConfig("dask", workers=3)) as workers:
        yield workers


def test_tasks_at_work_at_once_hold_different_devices(carrier: Carrier, tmp_path: Path) -> None:
    jobs = [Job("render", meet, Meeting(tmp_path, THREE, number), Needs()) for number in range(3)]
    held: list[int] = []
    drive(iter(jobs), carrier, lambda _, answer: held.append(answer.result), pytest.fail, pytest.fail)
    assert sorted(held) == [0, 1, 2]


class Paper(NumbaRenderer):
    """Renders as numba does, and says on which of the stand-in's devices."""

    used: ClassVar[Counter[str]] = Counter()
    together = threading.Barrier(2, timeout=60)

    def __init__(self, device: str = "none was named") -> None:
        super().__init__(threads=1)
        self.device = device
        self._met = False

    def render(self, *arguments: Any, **options: Any) -> Any:
        self.used[self.device] += 1
        if not self._met:
            # Each waits for another that is at work on another device.
            self._met = True
            self.together.wait()
        return super().render(*arguments, **options)


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = RendererEntry(f"{__name__}:Paper", shared=True, devices=f"{__name__}:two")
    monkeypatch.setitem(registry.RENDERERS, "nvwarp", entry)
    monkeypatch.setattr(registry, "resolve_name", {entry.target: Paper, entry.devices: lambda: 2}.__getitem__)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)
    registry._shared.cache_clear()
    Paper.used.clear()
    yield
    registry._shared.cache_clear()


def test_shards_that_are_rendered_at_once_are_so_on_different_devices(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path, two_devices: None
) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    layout = BuildLayout(out)
    plan = plan_build(load_manifest(tiny_manifest, ["render.backend=nvwarp"]))
    stage = RenderStage()
    stage.begin(plan, layout)
    units = [replace(unit) for unit in stage.plan(plan, layout)[:2]]
    jobs = [Job("render", stage.run, unit, Needs()) for unit in units]
    with ThreadCarrier(2) as threads:
        drive(iter(jobs), threads, lambda *_: None, pytest.fail, pytest.fail)
    assert set(Paper.used) == {"cuda:0", "cuda:1"}
    # On which it was shows nowhere.
    again = copy_build(tiny_build.root, tmp_path / "again")
    stage.begin(plan, BuildLayout(again))
    for unit in units:
        Paper.together.reset()
        registry._shared("nvwarp", "cuda:0")._met = registry._shared("nvwarp", "cuda:1")._met = True
        stage.run(replace(unit, root=again))
    assert {n: d for n, d in tree(again).items() if n.startswith("dataset")} == {
        n: d for n, d in tree(out).items() if n.startswith("dataset")
    }


def test_one_device_or_none_is_what_the_backend_takes_by_itself(
    two_devices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = registry.resolve_name
    monkeypatch.setattr(registry, "resolve_name", lambda name: (lambda: 1) if name.endswith(":two") else own(name))
    with held_renderer("nvwarp") as renderer:
        assert renderer is make_renderer("nvwarp")
        assert renderer.device == "none was named"


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("warp") is None, reason="needs NVIDIA Warp")
def test_every_device_of_this_machine_renders() -> None:
    from datagen.render.nvwarp.renderer import NvwarpRenderer, cuda_devices

    if not cuda_devices():
        pytest.skip("no CUDA device")
    seen = set()
    names = device_names(cuda_devices())
    with held_device(names) as first:
        seen.add(NvwarpRenderer(f"cuda:{first}").device)
        if len(names) > 1:
            with held_device(names) as second:
                seen.add(NvwarpRenderer(f"cuda:{second}").device)
    assert len(seen) == min(2, len(names))
