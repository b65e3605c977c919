"""Errors carry three parts, survive a process border, and set the exit code."""

from __future__ import annotations

import pickle

import pytest

from datagen.common import errors
from datagen.common.errors import CanonfaceError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, CanonfaceError)]


def test_all_classes_are_under_test():
    assert len(CLASSES) >= 10


@pytest.mark.parametrize("kind", CLASSES)
def test_pickle_keeps_class_parts_and_message(kind: type[CanonfaceError]):
    error = kind("camera 3 has no image", "one image per camera", "Leave the camera out")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.found, copy.expected, copy.fix) == (error.found, error.expected, error.fix)
    assert str(copy) == str(error)


def test_message_says_found_expected_and_fix_as_sentences():
    message = str(CanonfaceError("a is 3.", "4", "Set it to 4."))
    assert message == "a is 3. Expected 4. Set it to 4."


def test_empty_parts_leave_no_trace():
    assert str(CanonfaceError("a is 3")) == "a is 3."
    assert str(CanonfaceError("a is 3", fix="Set it")) == "a is 3. Set it."


def test_what_is_damaged_or_failed_is_a_verdict_and_a_lost_service_may_be_back_rather_than_wrong_use():
    codes = {kind.__name__: kind.exit_code for kind in CLASSES}
    assert {name for name, code in codes.items() if code == 1} == {
        "CorruptDatasetError",
        "MissingShardError",
        "UnitError",
    }
    assert {name for name, code in codes.items() if code == 75} == {"ServiceLostError"}
    assert set(codes.values()) == {1, 2, 75}
