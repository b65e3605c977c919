"""Write ``requirements.lock``: exact versions of everything canonface and its development tools pull in.

Run through ``make lock`` in an environment that holds the versions wanted.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
HEADER = """\
# Exact versions of every package, used as constraints: pip install -c requirements.lock -e .
# Written by `make lock`; the direct dependencies and their reasons are in docs/dependencies.md.
"""
# What a package needs under another Python than this one, which no environment here has installed.
OTHER_PYTHONS = {"whenever": "0.10.5"}  # Prefect's clock from Python 3.13 on, where 3.11 and 3.12 have pendulum


def closure(name: str, extras: frozenset[str]) -> dict[str, str]:
    """Return name → version of all installed packages that ``name`` with ``extras`` needs, itself excluded."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [(name, extras)]
    while queue:
        current, wanted = queue.pop()
        key = re.sub(r"[-_.]+", "-", current).lower()
        if (key, wanted) in seen:
            continue
        seen.add((key, wanted))
        try:
            package = distribution(current)
        except PackageNotFoundError:
            continue  # for another platform, or an extra nobody installed
        # Wheels built for one accelerator carry a local label (2.13.0+cpu) that other machines lack.
        found[key] = package.version.split("+")[0]
        for line in package.requires or ():
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in wanted] or [{"extra": ""}]
            if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
                queue.append((requirement.name, frozenset(requirement.extras)))
    found.pop(name)
    return found


def main() -> None:
    """Write the lock file."""
    versions = OTHER_PYTHONS | closure("canonface", frozenset({"dev"}))
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
    (ROOT / "requirements.lock").write_text(HEADER + lines)
    print(f"requirements.lock: {len(versions)} packages")


if __name__ == "__main__":
    main()
