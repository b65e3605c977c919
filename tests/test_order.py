"""The longest files come first, each of them is there, and a run does not sort them anew."""

from __future__ import annotations

from types import SimpleNamespace

from tests.support.order import LONGEST, longest_first
from tests.support.places import ROOT


def test_the_longest_files_come_first_and_keep_their_order() -> None:
    names = ("a.py::x", "c.py::y", "b.py::x", "c.py::x", "d.py::x")
    items = [SimpleNamespace(nodeid=f"tests/{name}") for name in names]
    longest_first(items, ("tests/c.py", "tests/b.py"))
    found = [item.nodeid.removeprefix("tests/") for item in items]
    assert found == ["c.py::y", "c.py::x", "b.py::x", "a.py::x", "d.py::x"]


def test_every_file_that_is_named_is_there() -> None:
    assert len(set(LONGEST)) == len(LONGEST) > 10
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []


def test_make_keeps_the_order() -> None:
    assert "--dist loadfile --no-loadscope-reorder" in (ROOT / "Makefile").read_text()
