"""Dask clusters that a build starts for itself: of this machine, and of a stand-in for SLURM."""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import dask
import pytest
from distributed import Client, LocalCluster

from datagen import cli
from datagen.common.errors import DependencyError, InputError, ManifestError
from datagen.flows.runners import dask_cluster
from datagen.flows.runners.contract import Job, RunnerConfig
from datagen.flows.runners.dask import DaskCarrier
from datagen.flows.runners.dask_cluster import replace_lost_workers, start_cluster
from datagen.flows.runners.drive import drive
from datagen.manifest import Needs

SBATCH = """#!/bin/sh
# A stand-in: runs the script as the one job, and notes what it asked for.
for last; do :; done
cat "$last" > {folder}/job.sh
setsid sh {folder}/job.sh > {folder}/job.log 2>&1 &
echo $! > {folder}/pid
echo "Submitted batch job 7"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> {folder}/cancelled
kill -- -$(cat {folder}/pid) 2>/dev/null
true
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder in which what SLURM is asked for is noted."""
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@dataclass(frozen=True)
class Numbered:
    number: int

    @property
    def name(self) -> str:
        return str(self.number)


def doubled(unit: Numbered) -> int:
    return 2 * unit.number


class Cluster:
    """What stands for the class of a package that is not installed."""

    _instances: ClassVar[set[Any]] = set()

    def __init__(self, **options: Any) -> None:
        self._instances.add(self)
        self.options, self.adapted = options, {}
        if "colour" in options:
            raise TypeError("unexpected keyword argument 'colour'")

    def adapt(self, **limits: int) -> None:
        self.adapted = limits


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages dask-jobqueue and dask-kubernetes, as far as a build knows them."""
    for module, name in (("dask_jobqueue", "SLURMCluster"), ("dask_kubernetes.operator", "KubeCluster")):
        for part in {module, module.partition(".")[0]}:
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        setattr(sys.modules[module], name, Cluster)
    monkeypatch.setattr(dask_cluster, "find_spec", lambda _: True)


def options(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_cluster_of_this_machine_takes_options(tmp_path: Path) -> None:
    config = options(tmp_path / "dask.yaml", "resources: {GPU: 1}\n")
    with DaskCarrier(RunnerConfig.of("threads", 1, None, "local", config, "5%")) as carrier:
        assert carrier.slots == 1
        job = Job("render", doubled, Numbered(4), Needs(gpus=1))
        done: list[int] = []
        drive(iter([job]), carrier, lambda _, answer: done.append(answer.result), pytest.fail, pytest.fail)
    assert done == [8]


@pytest.mark.skipif(find_spec("dask_jobqueue") is None, reason="needs dask-jobqueue (extra slurm)")
def test_a_worker_that_its_cluster_gave_up_is_started_again() -> None:
    class Grouped(LocalCluster):
        """As of SLURM, where one entry is a job of several workers, and `scale` counts workers."""

        def scale(self, n: int = 0, **_: Any) -> None:
            super().scale((n + 3) // 4)

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}),
        Grouped(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        lost = next(iter(cluster.workers))
        cluster.sync(cluster.workers[lost].close)
        within(lambda: lost not in cluster.workers)
        for _ in range(3):
            replace_lost_workers(cluster)
        within(lambda: len(client.scheduler_info()["workers"]) == 2)
        assert set(cluster.worker_spec) == set(cluster.workers)


def within(done: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_jobs_of_slurm_carry_units_and_end_with_the_build(slurm: Path, tmp_path: Path) -> None:
    config = options(
        tmp_path / "dask.yaml",
        "memory: 1GiB\nqueue: short\ninterface: lo\nworker_extra_args: [--resources, GPU=1]\n"
        "job_extra_directives: ['--gpus=1']\n",
    )
    with DaskCarrier(RunnerConfig.of("threads", 1, None, "slurm", config, "5%")) as carrier:
        done: list[int] = []
        jobs = [Job("render", doubled, Numbered(number), Needs(gpus=1)) for number in range(3)]
        drive(iter(jobs), carrier, lambda _, answer: done.append(answer.result), pytest.fail, pytest.fail)
    assert sorted(done) == [0, 2, 4]
    script = (slurm / "job.sh").read_text()
    for directive in ("-p short", "--gpus=1", "--cpus-per-task=1", "--mem=1G"):
        assert f"#SBATCH {directive}" in script
    assert (slurm / "cancelled").read_text().split() == ["7"]


@pytest.mark.skipif(find_spec("dask_jobqueue") is None, reason="needs dask-jobqueue (extra slurm)")
def test_what_slurm_was_not_told_is_said(slurm: Path) -> None:
    with pytest.raises(DependencyError, match=r"(?s)cannot start a slurm cluster.*memory"):
        start_cluster(RunnerConfig.of("threads", 1, None, "slurm", None, "5%"))


def test_defaults_give_way_to_options_and_to_dasks_own_configuration(
    stand_ins: None, slurm: Path, tmp_path: Path
) -> None:
    asked = RunnerConfig.of("threads", 3, None, "slurm", None, "5%")
    defaults = {
        "cores": 1,
        "processes": 1,
        "silence_logs": "CRITICAL",
        "scheduler_options": {"dashboard": False, "dashboard_address": ":0"},
    }
    assert start_cluster(asked).options == {**defaults, "n_workers": 3}
    with dask.config.set({"jobqueue.slurm.cores": 4}):
        assert "cores" not in start_cluster(asked).options
    config = options(tmp_path / "a.yaml", "cores: 2\nadapt: {minimum: 1, maximum: 9}\n")
    cluster = start_cluster(RunnerConfig.of("threads", None, None, "slurm", config, "5%"))
    assert cluster.options == {**defaults, "cores": 2}
    assert cluster.adapted == {"minimum": 1, "maximum": 9}


def test_workers_on_kubernetes_need_an_image_with_this_program(
    stand_ins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = RunnerConfig.of("threads", 3, None, "kubernetes", None, "5%")
    with pytest.raises(InputError, match=r"(?s)says nothing of image.*Dockerfile"):
        start_cluster(asked)
    # What the package itself brings along is nobody's word.
    own = {"kubernetes": {"image": "dask", "worker-command": "dask-worker"}}
    monkeypatch.setattr(dask.config, "defaults", [*dask.config.defaults, deepcopy(own)])
    with dask.config.set(own), pytest.raises(InputError, match="says nothing of image"):
        start_cluster(asked)
    with dask.config.set(own), dask.config.set({"kubernetes.image": "canonface"}):
        assert start_cluster(asked).options["worker_command"] == ["dask", "worker", "--nthreads", "1"]
    config = options(tmp_path / "k.yaml", "image: canonface\nnamespace: faces\n")
    made = start_cluster(RunnerConfig.of("threads", 3, None, "kubernetes", config, "5%"))
    assert made.options | {"image": "canonface", "namespace": "faces", "n_workers": 3} == made.options


def test_what_cannot_be_started_says_what_it_lacks(
    stand_ins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(workers: int | None = 2, text: str = "image: canonface\n") -> RunnerConfig:
        return RunnerConfig.of("threads", workers, None, "kubernetes", options(tmp_path / "x.yaml", text), "5%")

    with pytest.raises(InputError, match=r"(?s)how many workers.*--workers N"):
        start_cluster(asked(None))
    with pytest.raises(DependencyError, match=r"(?s)cannot start a kubernetes cluster.*colour"):
        start_cluster(asked(text="image: a\ncolour: red\n"))
    # Nobody closes what never began.
    assert all("colour" not in cluster.options for cluster in Cluster._instances)
    with pytest.raises(InputError, match=r"--workers 2, and adapt in .*x\.yaml"):
        start_cluster(asked(text="image: a\nadapt: {maximum: 3}\n"))
    with pytest.raises(ManifestError, match="a mapping"):
        start_cluster(asked(text="- image\n"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match="no sbatch on this machine"):
        start_cluster(RunnerConfig.of("threads", 1, None, "slurm", None, "5%"))
    monkeypatch.setattr(dask_cluster, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"(?s)dask-jobqueue is not installed.*canonface\[slurm\]"):
        start_cluster(RunnerConfig.of("threads", 1, None, "slurm", None, "5%"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dask-cluster", "local", "--dask-address", "tcp://a:1"), "--dask-address tcp://a:1 with --dask-cluster"),
        (("--dask-config", "none.yaml"), "without a cluster"),
        (("--dask-cluster", "local", "--stage", "warp"), "with --stage"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    words: tuple[str, ...], said: str, tiny_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["datagen", "build", str(tiny_manifest), "--out", str(tmp_path / "out"), *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
