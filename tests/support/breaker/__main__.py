"""``python -m tests.support.breaker --tries 200 --seed 0``: try to break the product; exit code 1 if anything broke.

Every try is drawn from the seed and its number: ``--first 17 --tries 1`` repeats the seventeenth alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from datagen.heads.registry import load_head
from tests.support.breaker.attacks import ATTACKS, attempt
from tests.support.breaker.damage import fresh
from tests.support.breaker.scene import Scene, make_scene

# Loaded once, before the forks, which spares most of them seconds; none of them starts a thread by being imported.
_LIBRARIES = (
    *("datagen.cli", "trainer.cli", "datagen.flows.build", "torch", "torch._dynamo", "zarr", "PIL.Image", "av"),
    *("trainer.predict", "trainer.fit", "open3d", "scipy.spatial", "matplotlib.backends.backend_agg"),
)


def main() -> int:
    """Parse the command line, make or reuse a scene, do the tries, print what broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.breaker", description=__doc__)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(ATTACKS), help="one kind of attack")
    parser.add_argument("--build", type=Path, help="a finished build of the tests' tiny manifest, to save time")
    parser.add_argument("--scene", type=Path, help="keep the scene in this folder, or take the one that is there")
    parser.add_argument("--keep", action="store_true", help="keep the sandboxes of tries that broke something")
    given = parser.parse_args()
    os.environ.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryDirectory(prefix="breaker-") as folder:
        room = Path(folder).resolve()
        where = given.scene.resolve() if given.scene else room / "scene"
        for name in _LIBRARIES:
            importlib.import_module(name)
        load_head("anny")
        # A fork has the thread that called it alone, and may wait for ever for another.
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError("a library started a thread as it was imported: it cannot be loaded before the forks")
        if not (where / "masks").is_dir():
            make_scene(fresh(where), given.build)
        return _tries(Scene(where), room, given)


def _tries(scene: Scene, room: Path, given: argparse.Namespace) -> int:
    begin, done, broken = time.monotonic(), Counter[str](), Counter[str]()
    for number in range(given.first, given.first + given.tries):
        box = fresh(room / f"try{number}")
        name, result = attempt(scene, given.seed, number, box, given.only)
        done[name] += 1
        if result.faults:
            broken[name] += 1
            again = f"--seed {given.seed} --first {number} --tries 1" + (f" --only {given.only}" if given.only else "")
            print(f"BROKE ({again}) {name}: {result.what!a}")
            for fault in result.faults:
                print(f"    {fault!a}", flush=True)
            if given.keep:
                kept = Path(tempfile.mkdtemp(prefix=f"broken-{number}-"))
                shutil.move(str(box), kept)
                print(f"    kept in {kept}")
        shutil.rmtree(box, ignore_errors=True)
    for name in sorted(done):
        print(f"{name:10s} {done[name]:4d} tries, {broken[name]} broke")
    print(f"{done.total()} tries, {broken.total()} broke, {time.monotonic() - begin:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
