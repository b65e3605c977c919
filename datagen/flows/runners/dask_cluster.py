"""Dask clusters that a build starts for itself and that end with it: on this machine, on SLURM, on Kubernetes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

from datagen.common.errors import DependencyError, InputError
from datagen.common.settings import read_yaml
from datagen.flows.runners.contract import ClusterName, RunnerConfig

ADAPT = "adapt"
_WORKERS = "n_workers"


@dataclass(frozen=True)
class ClusterKind:
    """How a cluster is started.

    Attributes
    ----------
    target : str
        ``module:class``, imported when it is asked for.
    extra : str
        Of this project, that brings it along; empty if it is always there.
    program : str
        That it calls; empty if there is none.
    section : str
        Of Dask's configuration, where a user may have said something too.
    defaults : mapping
        Options unless the user says otherwise.
    required : tuple of str
        Options of which one has to be given, because the cluster's own default cannot serve.
    queued : bool
        Whether workers may have to wait for their turn, for as long as others' work takes.
    """

    target: str
    extra: str = ""
    program: str = ""
    section: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    queued: bool = False


CLUSTERS: dict[ClusterName, ClusterKind] = {
    "local": ClusterKind(
        "distributed:LocalCluster",
        defaults={"threads_per_worker": 1, "dashboard_address": None, "silence_logs": "CRITICAL"},
    ),
    "slurm": ClusterKind(
        "dask_jobqueue:SLURMCluster",
        extra="slurm",
        program="sbatch",
        section="jobqueue.slurm",
        defaults={
            # A worker that dies takes what its threads work at with it.
            "cores": 1,
            "processes": 1,
            "silence_logs": "CRITICAL",
            # Dask's pages are open to everybody on the login node, and two builds would want one port.
            "scheduler_options": {"dashboard": False, "dashboard_address": ":0"},
        },
        queued=True,
    ),
    "kubernetes": ClusterKind(
        "dask_kubernetes.operator:KubeCluster",
        extra="kubernetes",
        section="kubernetes",
        defaults={"worker_command": ["dask", "worker", "--nthreads", "1"], "quiet": True},
        # Dask's own image has no canonface.
        required=("image", "custom_cluster_spec"),
        queued=True,
    ),
}


def cluster_options(path: Path | None) -> dict[str, Any]:
    """Read the options of a cluster: what its class takes, by name.

    Raises
    ------
    datagen.common.errors.ManifestError
        If the file is missing, or is not a mapping in YAML.
    """
    return {} if path is None else read_yaml(path, "Dask configuration", "Write one, or leave --dask-config out")


def start_cluster(config: RunnerConfig) -> Any:
    """Start a cluster; its scheduler is in this process, or ends when it is closed.

    Parameters
    ----------
    config : RunnerConfig
        Without ``dask_cluster``, it is one of this machine.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If a package or program is missing, or the options do not serve.
    """
    name: ClusterName = config.dask_cluster or "local"
    kind, options = CLUSTERS[name], cluster_options(config.dask_config)
    make = _maker(name, kind)
    where = config.dask_config or "--dask-config"
    if kind.required and not any(option in options or _configured(kind, option) for option in kind.required):
        raise InputError(
            f"{where} says nothing of {' or '.join(kind.required)}",
            f"the image that workers of --dask-cluster {name} run",
            "Write image: NAME, of an image that the Dockerfile makes, into a file for --dask-config",
        )
    adapt = options.pop(ADAPT, None)
    if adapt is not None and config.workers is not None:
        raise InputError(
            f"--workers {config.workers}, and adapt in {where}",
            "one of them: a number of workers, or limits between which it follows the work",
            "Leave one out",
        )
    workers = config.workers if name != "local" else config.worker_count
    if workers is None and adapt is None and _WORKERS not in options:
        raise InputError(
            f"--dask-cluster {name} was not told how many workers to ask for",
            "--workers N, or adapt: {minimum: 1, maximum: N} in the file of --dask-config",
            "Say how many",
        )
    if workers is not None and adapt is None:
        options[_WORKERS] = workers
    made = getattr(make, "_instances", set[Any]())
    before = set(made)
    try:
        defaults = {option: value for option, value in kind.defaults.items() if not _configured(kind, option)}
        cluster = make(**{**defaults, **options})
        if adapt is not None:
            cluster.adapt(**adapt)
    except Exception as error:
        for half in set(made) - before:
            # When the process ends, Dask would close what never began, with a traceback.
            made.discard(half)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DependencyError(
            f"Dask cannot start a {name} cluster ({reason})",
            f"options that {kind.target.partition(':')[2]} takes, and a cluster that answers",
            f"Correct {where}, or Dask's own configuration",
        ) from error
    return cluster


def replace_lost_workers(cluster: Any) -> None:
    """Have a cluster start again what it gave up.

    A worker that dies and is not back within Dask's ``deploy.lost-worker-timeout`` (a busy machine may take longer to
    start one) is struck off by its cluster, which then has one fewer for good.
    """
    from distributed import SpecCluster

    # Kubernetes looks after its own. A job of SLURM may be several workers: of such clusters `scale` counts workers,
    # while what they are made of, and what this keeps, are jobs.
    if isinstance(cluster, SpecCluster):
        SpecCluster.scale(cluster, len(cluster.worker_spec))


def _configured(kind: ClusterKind, option: str) -> bool:
    """Whether the user's own configuration of Dask says something of an option; the package is imported already."""
    import dask

    if not kind.section:
        return False
    key = f"{kind.section}.{option.replace('_', '-')}"
    # What packages say of themselves is nobody's word.
    shipped = [dask.config.get(key, None, config=defaults) for defaults in dask.config.defaults]
    return dask.config.get(key, None) not in (None, *shipped)


def _maker(name: ClusterName, kind: ClusterKind) -> Callable[..., Any]:
    module, _, _ = kind.target.partition(":")
    if find_spec(module.partition(".")[0]) is None:
        raise DependencyError(
            f"--dask-cluster {name} was asked for, but {module.partition('.')[0].replace('_', '-')} is not installed",
            f"the extra {kind.extra}",
            f"pip install 'canonface[{kind.extra}]'",
        )
    if kind.program and shutil.which(kind.program) is None:
        raise DependencyError(
            f"--dask-cluster {name} was asked for, but there is no {kind.program} on this machine",
            "a machine that may submit jobs",
            "Build from a login node of the cluster",
        )
    return cast("Callable[..., Any]", resolve_name(kind.target))
