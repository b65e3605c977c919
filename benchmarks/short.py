"""A short run of all benchmarks, ``make bench``: sizes that still mean something, and only peers that are there.

Figures from so few frames show that all is well and what a benchmark prints; they are not for comparing versions.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from datagen.common.console import run
from datagen.common.errors import CanonfaceError

CHECKOUT = Path(__file__).resolve().parents[1]
# By command.
PEERS = {"read": ("webdataset", "litdata"), "train": ("depth-anything-3",)}
# Twelve frames of three people, so that there is somebody to learn from, to validate with and to measure on.
BUILD = (
    "build manifests/demo.yaml --out {work}/dataset --runner serial --set source.subjects=3 --set source.frames=4 "
    "--set source.cameras=4 --set source.image_size=80 --set source.scan_vertices=4000 --set warp.subdivisions=0 "
    "--set render.resolution=56 --set splits.val=1 --set splits.test=1"
)
COMMANDS = (
    "warp --subjects 1 --frames 2 --scan-vertices 8000",
    "warp --track sequence --evidence texture --frames 3 --scan-vertices 6000",
    "faces --subjects 1 --frames 1",
    "fit --subjects 1 --frames 1",
    "surfaces --subjects 1 --cameras 3",
    "bridge --topologies 1 --people 2",
    "calibrate --subjects 1 --frames 1",
    "render --heads 1 --views 4 --resolution 252 --faces 20000 --repeats 2 --against open3d",
    "read --resolution 112 --workers 2 --access clips --cache warm --seconds 0.5",
    "write --resolution 168 --samples 8 --repeats 3",
    "train --config small --size 28 --frames 1,2 --steps 2 --seconds 5 --set data.frames_per_batch=2",
    "ablation {work}/dataset --out {work}/ablation --config tiny --set fit.steps=20 --set fit.val_every=20 "
    "--only reference --only no-canonical",
    "proof {work}/dataset --out {work}/proof --config tiny --set fit.steps=20 --set fit.val_every=20",
    "report --frames 2000 --rounds 1",
    "align {work}/dataset --out {work}/align --set fit.steps=24 --set coarse_steps=16 --set whole_samples=64",
    "attributes {work}/dataset {work}/dataset --out {work}/attributes --set fit.steps=8 --set points_steps=4 "
    "--tune-set fit.steps=4",
    "adapt --out {work}/adapt --studio-frames 4 --cameras 2 --clip-frames 6 --resolution 64 --no-table "
    "--set fit.steps=4 --adapt-set steps=2",
    "track --set source.subjects=1 --set source.frames=8 --set source.image_size=128",
    "orchestrate --frames 200,1000 --runners threads --tasks 40",
)


class ShortRunError(CanonfaceError):
    """Some benchmarks ended with an error."""

    exit_code = 1


def installed(peer: str) -> bool:
    """Return whether a peer can be imported."""
    return find_spec(peer.replace("-", "_")) is not None


def arguments_of(line: str, work: Path) -> list[str]:
    """Return a line of :data:`COMMANDS` as arguments, with the peers that are installed."""
    arguments = [part.format(work=work) for part in line.split()]
    peers = [peer for peer in PEERS.get(arguments[0], ()) if installed(peer)]
    return [*arguments, "--against", ",".join(peers)] if peers else arguments


def short_run() -> None:
    """Run all benchmarks, each in a process of its own, and print what they print.

    Raises
    ------
    ShortRunError
        At the end, if any failed.
    """
    missing = [peer for peers in PEERS.values() for peer in peers if not installed(peer)]
    if missing:
        print(
            f"not installed, so left out: {', '.join(missing)}; docs/dependencies.md says how to get them", flush=True
        )
    failed = []
    with tempfile.TemporaryDirectory(prefix="canonface-bench-") as folder:
        for line in COMMANDS:
            arguments = arguments_of(line, Path(folder))
            if arguments[0] == "ablation":
                _call("datagen.cli", arguments_of(BUILD, Path(folder)))
            if not _call("benchmarks", arguments):
                failed.append(arguments[0])
    if failed:
        raise ShortRunError(f"failed: {', '.join(failed)}", "", "The reason is printed above, after the command")


def _call(module: str, arguments: list[str]) -> bool:
    print(f"\n$ python -m {module} {' '.join(arguments)}", flush=True)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=CHECKOUT, check=False)
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    run(short_run)
