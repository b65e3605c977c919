"""Lines of JSON on standard error: whoever writes, each line is an object."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import warnings
from io import StringIO
from typing import Any

import pytest

from datagen.common.console import say
from datagen.common.json_lines import event, is_json, json_lines
from datagen.common.progress import Progress


@pytest.fixture(autouse=True)
def nobody_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what tests before have set up: handlers that write to streams of theirs."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_messages_warnings_and_logs_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    with json_lines():
        assert is_json()
        event("unit_done", stage="warp", unit="s000/a/000000", seconds=1.5, host="")
        say("error: the disk is \x1b[31mfull", to=sys.stderr)
        print("two\n\nlines", file=sys.stderr, end="")
        warnings.warn("old", stacklevel=1)
        logging.getLogger("somebody").error("%d things", 3)
        try:
            raise ValueError("wrong")
        except ValueError:
            logging.getLogger("somebody").exception("it failed")
    assert not is_json()
    print("as before", file=sys.stderr)
    text, _, after = capsys.readouterr().err.rpartition("as before")
    assert after == "\n"
    told = lines_of(text)
    assert all(line.pop("time").endswith("+00:00") for line in told)
    done, error, two, warned, logged, failed, lines = told
    assert done == {
        "level": "info",
        "event": "unit_done",
        "stage": "warp",
        "unit": "s000/a/000000",
        "seconds": 1.5,
    }
    assert (error["level"], error["event"]) == ("error", "message")
    assert error["message"].startswith("error: the disk is")
    assert "\x1b" not in error["message"]
    assert two["message"] == "two"
    assert (warned["level"], warned["logger"]) == ("warning", "py.warnings")
    assert (logged["level"], logged["logger"], logged["message"]) == ("error", "somebody", "3 things")
    assert "ValueError: wrong" in failed["traceback"]
    assert lines["message"] == "lines"


def test_a_library_that_sets_up_logging_of_its_own_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with json_lines():
        config: dict[str, Any] = {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "root": {"level": "INFO", "handlers": ["console"]},
        }
        logging.config.dictConfig(config)
        event("progress", done=1)
        logging.getLogger("somebody").warning("well")
    logging.getLogger().handlers.clear()
    first, second = lines_of(capsys.readouterr().err)
    assert (first["event"], first["done"]) == ("progress", 1)
    assert (second["event"], second["message"]) == ("message", "well")


def test_progress_leaves_its_lines_to_events(capsys: pytest.CaptureFixture[str]) -> None:
    with json_lines(), Progress("1/2 warp", 3, "frames") as progress:
        progress.advance(3)
        progress.say("a word")
    assert [line["message"] for line in lines_of(capsys.readouterr().err)] == ["a word"]


def test_a_reader_that_goes_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(StringIO):
        def write(self, text: str) -> int:
            del text
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with json_lines():
        event("progress", done=1)
        say("a word", to=sys.stderr)
