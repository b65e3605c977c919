"""Frame numbers that are time stamps, times to the microsecond, and the epochs they are counted from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import DatasetError, InputError
from datagen.shards import (
    Dataset,
    DatasetPlan,
    ShardUnit,
    finalise,
    list_records,
    open_dataset,
    verify_dataset,
    write_unit,
)
from datagen.shards.encode import encode_samples
from datagen.shards.index import IndexTables, index_problems
from datagen.shards.tools.combine import Selection, merge, subset
from datagen.shards.tools.statistics import sample_provenance
from tests.support.shard_samples import make_plan, make_sample

pytestmark = pytest.mark.usefixtures("without_fsync")

MICROSECONDS = 1669283041123456
FRAMES = (0, MICROSECONDS, MICROSECONDS + 1, 2**63 - 2, 2**63 - 1)
# Two days at a million frames a second: float32 has steps of 1/64 s there.
TIMES = tuple(172800 + k * 1e-6 for k in range(len(FRAMES)))
EPOCHS = {"ada/smile": 1669283041.123456, "ben/smile": -0.25}


def small_plan(**changes: object) -> DatasetPlan:
    return make_plan(
        counts={"train": 2 * len(FRAMES)},
        splits={"train": ("ada", "ben")},
        subjects=("ada", "ben"),
        sequences=("smile",),
        cameras=("cam00",),
        **{"epochs": EPOCHS, **changes},
    )


def written(root: Path, epochs: dict[str, float] | None = None) -> Dataset:
    plan = small_plan(epochs=EPOCHS if epochs is None else epochs)
    for unit in plan.units:
        every = [
            replace(make_sample(subject, "smile", "cam00", k), frame=frame, time=time)
            for subject in plan.subjects
            for k, (frame, time) in enumerate(zip(FRAMES, TIMES, strict=True))
        ]
        write_unit(root, plan, unit, f"key-{unit.name}", every[unit.start : unit.stop])
    return finalise(root, plan, list_records(root))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("numbers") / "dataset.zarr")


def test_frame_numbers_and_times_come_back_as_they_went_in(dataset: Dataset) -> None:
    index = open_dataset(dataset.store)["train"].index
    assert (index.frame.dtype, index.time.dtype) == (np.int64, np.float64)
    assert index.frame.tolist() == 2 * list(FRAMES)
    assert index.time.tolist() == 2 * list(TIMES)
    sample = dataset["train"].sample(9)
    assert (sample.frame, sample.time) == (FRAMES[-1], TIMES[-1])
    assert verify_dataset(dataset.path, level="deep").problems == ()
    assert [len(clip) for clip in dataset["train"].clips(5)] == [5, 5]


def test_epochs_are_attributes_and_part_of_the_identity(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.attrs["epochs"] == EPOCHS
    assert sample_provenance(dataset, "train", 0)["epoch_s"] == EPOCHS["ada/smile"]
    assert sample_provenance(dataset, "train", 9)["time_s"] == TIMES[-1]
    assert written(tmp_path / "none", {}).uuid != dataset.uuid
    assert sample_provenance(open_dataset(tmp_path / "none"), "train", 0)["epoch_s"] == 0


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ({"ada/smile": float("nan")}, "the epoch of 'ada/smile' is nan"),
        ({"ada/smile": "1"}, "the epoch of 'ada/smile' is '1'"),
        ({"ada/smile": True}, "is True"),
        ({"zoe/smile": 1.0}, "'zoe/smile' of epochs is not in the tables"),
        ({"ada": 1.0}, "'ada' of epochs is not in the tables"),
    ],
)
def test_epochs_that_are_none_are_refused(epochs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_plan(epochs=epochs)


def test_a_subset_keeps_numbers_and_the_epochs_of_what_it_holds(dataset: Dataset, tmp_path: Path) -> None:
    some = subset(dataset.path, tmp_path / "some", Selection.parse([f"frame={MICROSECONDS}:", "subject=ada"]))
    assert some["train"].index.frame.tolist() == list(FRAMES[1:])
    assert some["train"].index.time.tolist() == list(TIMES[1:])
    assert some.plan.epochs == {"ada/smile": EPOCHS["ada/smile"]}
    last = subset(dataset.path, tmp_path / "last", Selection.parse([f"frame={2**63 - 1}"]))
    assert last["train"].index.frame.tolist() == [2**63 - 1] * 2
    with pytest.raises(InputError, match="numbers up to 9223372036854775807"):
        Selection.parse([f"frame=0:{2**63}"])


def test_merging_keeps_epochs_under_the_new_names(dataset: Dataset, tmp_path: Path) -> None:
    other = written(tmp_path / "other", {"ada/smile": 5.0})
    both = merge([dataset.path, other.path], tmp_path / "both", ["", "b"])
    assert both.plan.epochs == {**EPOCHS, "b-ada/smile": 5.0, "b-ben/smile": 0.0}


def test_one_sequence_with_two_beginnings_is_not_merged(dataset: Dataset, tmp_path: Path) -> None:
    parts = []
    for name, frames, epochs in (("a", "0", EPOCHS), ("b", "1:", {"ada/smile": 5.0})):
        whole = written(tmp_path / name, epochs)
        parts.append(subset(whole.path, tmp_path / f"{name}-some", Selection.parse([f"frame={frames}"])).path)
    with pytest.raises(DatasetError, match=r"differ in the epoch of ada/smile: 1669283041\.123456 and 5\.0 s"):
        merge(parts, tmp_path / "both")
    halves = [subset(dataset.path, tmp_path / f[0], Selection.parse([f"frame={f}"])).path for f in ("0", "1:")]
    assert merge(halves, tmp_path / "whole").plan.epochs == EPOCHS


def test_times_that_do_not_increase_are_refused_and_found() -> None:
    plan, unit = small_plan(), ShardUnit("train", 0, 0, 2)
    one = make_sample("ada", "smile", "cam00", 0)
    with pytest.raises(InputError, match=r"has the time 0.0 s, and the one before it 0.0 s"):
        list(encode_samples(plan, unit, [one, replace(one, frame=1)]))
    # Another person begins anew.
    assert len(list(encode_samples(plan, unit, [replace(one, time=3.0), replace(one, subject="ben")]))) == 2
    zeros = np.zeros(3, np.int32)
    index = IndexTables(zeros, zeros, zeros, np.arange(3), np.array([0.0, 2.0, 2.0]), np.ones(3, np.uint8), zeros - 1)
    assert index_problems("train", index, plan) == [(2, "its time is not after that of sample 1")]
