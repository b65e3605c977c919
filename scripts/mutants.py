"""Small changes to the code, made one at a time in a copy of it: do the nearest tests notice?

python scripts/mutants.py                      # twenty of scripts/mutants.json, drawn by a seed
python scripts/mutants.py --count 0            # all of them
python scripts/mutants.py --only chamfer-twice

A change nobody notices names code whose tests would let a mistake pass. Every change is data: a file, a text that is in
it once, what stands there instead, and the tests that should fail. Tests that fail are run without the change too: if
they fail again they say nothing, and are named and not counted. The checkout is never written to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).with_suffix(".json")
AT_LEAST = 0.85
_PASSED, _FAILED_CODES = 0, (1, 2)  # 2: the changed code cannot be imported
_WITHOUT = ("-p", "no:cacheprovider", "-p", "no:randomly")


@dataclass(frozen=True)
class Mutant:
    """One small change.

    Attributes
    ----------
    id : str
    file : str
        From the root of the repository.
    old, new : str
        A text that is in the file exactly once, and what takes its place.
    tests : tuple of str
        Files or node ids of tests, one of which should fail.
    note : str
        What the change does, in words.
    """

    id: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one change.

    Attributes
    ----------
    id, file : str
    result : str
        ``noticed``, ``survived``, ``not applicable`` (the text is not there once) or ``not judged`` (no test of its
        passes without the change).
    detail : str
    seconds : float
    """

    id: str
    file: str
    result: str
    detail: str
    seconds: float

    @property
    def counts(self) -> bool:
        """Whether it tells something about the tests."""
        return self.result in {"noticed", "survived"}


def read_mutants(path: Path = DATA) -> list[Mutant]:
    """Read the changes of a JSON file: a list of objects with the fields of :class:`Mutant`."""
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in json.loads(path.read_text())]


def problem(mutant: Mutant, root: Path) -> str | None:
    """Say why a change cannot be made in a tree, or None."""
    path = root / mutant.file
    if not path.is_file():
        return f"{mutant.file} is not there"
    if mutant.old == mutant.new:
        return "it changes nothing"
    found = path.read_text().count(mutant.old)
    if found != 1:
        return f"text {'not found' if not found else f'found {found} times'} in {mutant.file}"
    return None


class Tree:
    """A copy of the repository in a temporary folder, and the tests there.

    Parameters
    ----------
    root : Path
    limit_s : float
        Of one run of tests; a change that makes them hang is noticed.
    """

    def __init__(self, root: Path, limit_s: float) -> None:
        self.root = root
        self._limit_s = limit_s
        self._passes: dict[str, bool] = {}

    def judge(self, mutant: Mutant) -> Outcome:
        """Make a change, run its tests until one fails that passes without it, and take it back."""
        began = time.monotonic()

        def outcome(result: str, detail: str) -> Outcome:
            return Outcome(mutant.id, mutant.file, result, detail, round(time.monotonic() - began, 1))

        reason = problem(mutant, self.root)
        if reason is not None:
            return outcome("not applicable", reason)
        passed = []
        for name in mutant.tests:
            with self._changed(mutant):
                code, said = self._run(name)
            if code == _PASSED:
                passed.append(name)
            elif code in _FAILED_CODES and self._passes_as_it_is(name):
                return outcome("noticed", said[:160])
        if not passed:
            return outcome("not judged", "none of its tests passes without it")
        return outcome("survived", " ".join(passed))

    @contextmanager
    def _changed(self, mutant: Mutant) -> Iterator[None]:
        path = self.root / mutant.file
        text = path.read_text()
        try:
            _replace_source(path, text.replace(mutant.old, mutant.new))
            yield
        finally:
            _replace_source(path, text)

    def _passes_as_it_is(self, name: str) -> bool:
        if name not in self._passes:
            code, said = self._run(name)
            self._passes[name] = code == _PASSED
            if code != _PASSED:
                print(f"{name} fails without any change, and is not counted: {said}", file=sys.stderr, flush=True)
        return self._passes[name]

    def _run(self, name: str) -> tuple[int, str]:
        """Run tests until one fails; return pytest's exit code, and the first failure or the reason for none."""
        # Kernels of changed sources would take the place of the others in one folder.
        kernels = self.root.with_name(f"kernels-{_kernel_digest(self.root)}")
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "NUMBA_CACHE_DIR": str(kernels),
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", *_WITHOUT, name]
        try:
            done = subprocess.run(
                command, cwd=self.root, env=environment, capture_output=True, text=True, check=False,
                timeout=self._limit_s,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return _FAILED_CODES[0], f"not done after {self._limit_s:g} s"
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        return done.returncode, (lines or last or [f"exit code {done.returncode}"])[0]


def _kernel_digest(root: Path) -> str:
    from datagen.common.compiled import source_digest

    return source_digest(root / "datagen")


def _replace_source(path: Path, text: str) -> None:
    """Write a module, and remove what Python compiled of it: files of one second and one length look alike to it."""
    path.write_text(text)
    for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):
        stale.unlink()


@contextmanager
def copied_tree(limit_s: float) -> Iterator[Tree]:
    """Copy all files that git knows or would take, as they are now, and remove the copy afterwards."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder) / "tree"
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        yield Tree(root, limit_s)


def chosen(mutants: Sequence[Mutant], only: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Return the changes asked for by id, or a sample of ``count`` (0: all), in the order of the data."""
    if only:
        unknown = sorted(set(only) - {m.id for m in mutants})
        if unknown:
            raise SystemExit(f"there is no mutant {unknown[0]!r} in {DATA.name}")
        return [m for m in mutants if m.id in only]
    if not 0 < count < len(mutants):
        return list(mutants)
    drawn = set(random.Random(seed).sample(range(len(mutants)), count))
    return [m for k, m in enumerate(mutants) if k in drawn]


def share_noticed(outcomes: Sequence[Outcome]) -> float:
    """Return the share of the changes that were judged; 0 if none was."""
    judged = [o for o in outcomes if o.counts]
    return sum(o.result == "noticed" for o in judged) / len(judged) if judged else 0.0


def main() -> int:
    """Judge a sample; return 1 if too few were noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=20, help="how many, drawn by --seed; 0 for all (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="this one; may be repeated")
    parser.add_argument("--at-least", type=float, default=AT_LEAST, help=f"share to notice (default: {AT_LEAST})")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one run of tests (default: 900)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, progress on stderr")
    options = parser.parse_args()
    progress = sys.stderr if options.json else sys.stdout
    outcomes: list[Outcome] = []
    with copied_tree(options.limit) as tree:
        for mutant in chosen(read_mutants(), options.only, options.count, options.seed):
            outcome = tree.judge(mutant)
            outcomes.append(outcome)
            shown = outcome.result.upper() if outcome.result == "survived" else outcome.result
            print(f"{outcome.id:28} {shown:14} {outcome.seconds:6.1f} s  {outcome.detail}", file=progress, flush=True)
    share, judged = share_noticed(outcomes), sum(o.counts for o in outcomes)
    print(f"{share:.0%} of {judged} noticed, {len(outcomes) - judged} not judged", file=progress)
    if options.json:
        print(json.dumps({"share": share, "judged": judged, "mutants": [asdict(o) for o in outcomes]}, indent=1))
    return 0 if judged and share >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
