"""The run on a GPU: its parts are commands that exist, and one that fails or is late does not stop the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer

from benchmarks.__main__ import app
from benchmarks.gpu import command
from benchmarks.gpu.checks import agreement, matrix_flops, utilisation
from benchmarks.gpu.parts import Outcome, Part, as_table, named, of_pytest, parts, run_part
from datagen.common.errors import DependencyError
from trainer.config import load_config

CPU = torch.device("cpu")


EVERY = named("*")


def part(code: str, seconds: float = 30, read: Callable[[str], dict[str, float]] = EVERY, **kw: object) -> Part:
    return Part("it", ("-c", code), seconds, read, **kw)  # type: ignore[arg-type]


def test_a_part_tells_its_figures() -> None:
    found = run_part(part('print(\'said\'); print(\'{"figures": {"a_n2": 1.5, "b": null, "c": 2}}\')'), 60)
    assert (found.state, found.figures) == ("done", {"a_n2": 1.5, "c": 2})
    some = run_part(part('print(\'{"figures": {"a_n2": 1.5, "c": 2}}\')', read=named("a_n*")), 60)
    assert some.figures == {"a_n2": 1.5}


def test_what_fails_is_late_or_missing_is_a_row() -> None:
    failed = run_part(part("import sys; sys.exit('error: no memory')"), 60)
    assert (failed.state, failed.note) == ("failed", "error: no memory")
    silent = run_part(part("print('nothing')"), 60)
    assert (silent.state, silent.note) == ("failed", "nothing")
    late = run_part(part("import time; time.sleep(30)", seconds=0.5), 60)
    assert (late.state, late.note) == ("late", "stopped after 0 s")
    assert late.seconds < 10
    assert run_part(part("print(1)", needs=("no_such_package",)), 60).note == "no_such_package is not installed"
    assert run_part(part("print(1)"), 0.5).note == "no time was left"
    table = as_table([failed, late, Outcome("more", "done", 3.2, {"x": 1.23456})], {"device": "a card"})
    assert table.splitlines()[0] == "a card"
    assert "| it | failed | 0 | error: no memory |" in table
    assert "| more | done | 3 | `x` 1.235 |" in table


def test_failing_tests_are_a_failure_with_their_numbers() -> None:
    assert of_pytest("1 failed, 73 passed, 9 skipped in 40 s") == {
        "tests_passed": 73,
        "tests_failed": 1,
        "tests_skipped": 9,
    }
    found = run_part(part("print('1 failed, 2 passed in 1 s'); raise SystemExit(1)", read=of_pytest), 60)
    assert (found.state, found.figures["tests_failed"]) == ("failed", 1)


@pytest.mark.parametrize("rehearse", [False, True])
def test_every_part_is_a_command_that_exists(tmp_path: Path, rehearse: bool) -> None:
    found = parts("cpu" if rehearse else "cuda", tmp_path, rehearse=rehearse)
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    for one in found:
        assert one.words[0] == "-m"
        if one.words[1] == "benchmarks":
            group = typer.main.get_command(app)
            group.commands[one.words[2]].make_context(one.words[2], list(one.words[3:]))  # type: ignore[attr-defined]
    page = (Path(command.__file__).parents[2] / "docs" / "gpu.md").read_text()
    assert [name for name in names if f"| {name} |" not in page] == []


def test_the_checks_say_what_they_are() -> None:
    config = load_config("tiny")
    same = agreement(config, 28, 2, CPU)
    assert set(same) == {"depth_float32", "canonical_float32", "depth_low", "canonical_low"}
    assert same["depth_float32"] == 0
    found = utilisation(config, 28, 2, CPU)
    assert found["mfu"] == pytest.approx(found["step_tflop_per_s"] / found["matrix_tflop_per_s"])
    assert 0 < found["mfu"] < 2
    # Twice the frames are about twice the operations.
    assert 1.7 < utilisation(config, 28, 4, CPU)["step_tflop"] / found["step_tflop"] < 2.5
    assert matrix_flops(CPU, torch.float32) > 1e8


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="--rehearse"):
        command.gpu_command(tmp_path / "gpu.md")
    assert not (tmp_path / "gpu.md").exists()
    assert sys.executable
