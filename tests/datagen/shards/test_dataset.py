"""The dataset format read and written: values, order, views, clips, errors, other readers."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datagen.common.errors import InputError
from datagen.shards import (
    ARRAYS,
    SPLITS,
    DatasetPlan,
    Sample,
    ShardUnit,
    finalise,
    list_records,
    open_dataset,
    plan_units,
    sample_provenance,
    stats,
    write_unit,
)
from datagen.shards import schema as s
from tests.support.shard_samples import (
    CAMERAS,
    FRAMES,
    RESOLUTION,
    build,
    make_plan,
    make_sample,
    sample_keys,
    unit_samples,
)

SCALE = 2e-5
MAPS = ("image", "depth", "canonical", "normal", "confidence", "region", "edge")


pytestmark = pytest.mark.usefixtures("without_fsync")


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, 32, elements=st.floats(0.0001220703125, 1.25, width=32)))
def test_depth_survives_within_half_a_step(depth: np.ndarray) -> None:
    back = s.decode_depth(s.encode_depth(depth, SCALE), SCALE)
    assert np.abs(back.astype(np.float64) - depth).max() <= SCALE / 2 + 1e-7
    assert s.decode_depth(s.encode_depth(np.zeros(3), SCALE), SCALE).max() == 0


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, 32, elements=st.floats(-1, 1, width=32)))
def test_canonical_survives_within_half_a_step(canonical: np.ndarray) -> None:
    back = s.decode_canonical(s.encode_canonical(canonical))
    assert np.abs(back.astype(np.float64) - canonical).max() <= 1 / 16382 + 1.5e-7
    assert np.abs(back).max() <= 1


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, 32, elements=st.floats(0, 1, width=32)))
def test_confidence_above_zero_stays_above_zero(confidence: np.ndarray) -> None:
    back = s.decode_confidence(s.encode_confidence(confidence))
    assert np.array_equal(back > 0, confidence > 0)
    assert np.abs(back - confidence).max() <= 1 / 255


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_units_tile_every_split_in_order(train: int, test: int, per_shard: int) -> None:
    units = plan_units({"test": test, "train": train}, per_shard)
    for split, count in (("train", train), ("test", test)):
        own = [unit for unit in units if unit.split == split]
        assert [i for unit in own for i in range(unit.start, unit.stop)] == list(range(count))
        assert [unit.index for unit in own] == list(range(len(own)))
        assert all(unit.start % per_shard == 0 and 0 < unit.samples <= per_shard for unit in own)


def test_every_sample_comes_back(pristine: Path) -> None:
    dataset = open_dataset(pristine)
    tolerance = {"image": 1, "depth": SCALE / 2 + 1e-7, "canonical": 6.2e-5, "normal": 0.004, "confidence": 0.002}
    for split in SPLITS:
        assert len(dataset[split]) == len(sample_keys(split))
        for i, key in enumerate(sample_keys(split)):
            expected, found = make_sample(*key), dataset[split].sample(i)
            for field in dataclasses.fields(Sample):
                a, b = getattr(expected, field.name), getattr(found, field.name)
                if field.name == "mask":  # none was given
                    assert (b == 255).all()
                elif field.name in tolerance:
                    assert b.dtype == a.dtype
                    assert np.abs(a - b.astype(np.float64)).max() <= tolerance[field.name], (field.name, i)
                elif field.name == "time":
                    assert b == pytest.approx(a, abs=1e-6)
                else:
                    assert np.array_equal(a, b), (field.name, i)
                    assert not isinstance(a, np.ndarray) or a.dtype == b.dtype


def test_attributes_describe_the_dataset(pristine: Path) -> None:
    dataset = open_dataset(str(pristine))
    assert dataset.resolution == RESOLUTION
    assert dataset.half_extent_m == 0.15
    assert dataset.depth_scale == SCALE
    assert dataset.splits["val"] == ("dan",)
    assert dataset.attrs["pixel_center"] == 0.5
    assert dataset.attrs["sources"] == [{"name": "simulated", "licence": "CC0-1.0"}]
    assert open_dataset(pristine.parent).uuid == dataset.uuid


@pytest.mark.parametrize("codecs", ["compact", "standard"])
def test_plain_zarr_reads_the_same_numbers(tmp_path: Path, pristine: Path, codecs: str) -> None:
    root = pristine if codecs == "compact" else build(tmp_path / "d.zarr", make_plan(codecs=codecs))
    dataset = open_dataset(root)
    group = zarr.open_group(str(root), mode="r")
    for split in SPLITS:
        for name in ARRAYS:
            ours = dataset[split].raw(name, 0, len(dataset[split]))
            assert group[f"{split}/{name}"].dtype == ours.dtype == np.dtype(ARRAYS[name].dtype)
            assert np.array_equal(group[f"{split}/{name}"][...], ours)
            # The same values whatever the codecs.
            assert np.array_equal(open_dataset(pristine)[split].raw(name, 0, len(ours)), ours)
    metres = group["train/depth"][3] * group.attrs["depth_scale"]
    assert np.abs(metres - dataset["train"].sample(3).depth).max() < 1e-7
    (sharding,) = zarr.open_array(store=str(root), path="train/depth", mode="r").metadata.to_dict()["codecs"]
    inner = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert inner == ["canonface.residuals" if codecs == "compact" else "bytes", "blosc", "crc32c"]


def test_zarr_opens_the_root_alone_and_lists_it_without_a_warning(pristine: Path) -> None:
    group = zarr.open_group(str(pristine), mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        members = dict(group.members(max_depth=None))
    assert set(members) == {*SPLITS, *(f"{split}/{name}" for split in SPLITS for name in ARRAYS)}
    for path, member in members.items():
        # What is consolidated is what lies there.
        alone = zarr.open(str(pristine), path=path, mode="r").metadata.to_dict()
        listed = member.metadata.to_dict()
        assert {**listed, "consolidated_metadata": None} == {**alone, "consolidated_metadata": None}


def test_reading_by_index_list_and_slice(pristine: Path) -> None:
    train = open_dataset(pristine)["train"]
    picked = train.read(("depth", "frame"), [17, 3, -1])
    assert np.array_equal(picked["frame"], train.index.frame[[17, 3, 71]])
    assert np.array_equal(picked["depth"][1], train.sample(3).depth)
    stored = train.read(("depth",), slice(10, 40, 7), decode=False)["depth"]
    assert np.array_equal(stored, train.raw("depth", 0, 72)[10:40:7])
    assert stored.dtype == np.uint16
    with pytest.raises(IndexError):
        train.read(("depth",), [72])


def test_clips_stay_within_one_camera_and_sequence(pristine: Path) -> None:
    train = open_dataset(pristine)["train"]
    clips = train.clips(3)
    assert len(clips) == 3 * 2 * len(CAMERAS) * (len(FRAMES) - 2)
    for clip in clips:
        samples = [train.sample(i) for i in clip]
        assert len({(x.subject, x.sequence, x.camera) for x in samples}) == 1
        assert np.array_equal(np.diff(clip), [1, 1])
        assert all(a.frame < b.frame for a, b in pairwise(samples))
    assert len(train.clips(2, stride=2)) == 3 * 2 * len(CAMERAS) * 2
    assert train.clips(5) == []


def test_views_are_all_cameras_of_one_instant(pristine: Path) -> None:
    train = open_dataset(pristine)["train"]
    views = train.views()
    assert len(views) == 3 * 2 * len(FRAMES)
    assert sorted(i for view in views for i in view) == list(range(72))
    for view in views:
        samples = [train.sample(i) for i in view]
        assert [x.camera for x in samples] == list(CAMERAS)
        assert len({(x.subject, x.sequence, x.frame) for x in samples}) == 1


def test_a_split_pickles_small_and_reads_on(pristine: Path) -> None:
    train = open_dataset(pristine)["train"]
    train.sample(0)
    data = pickle.dumps(train)
    assert len(data) < 10_000
    assert np.array_equal(pickle.loads(data).sample(5).depth, train.sample(5).depth)


def test_importing_the_reader_is_light() -> None:
    heavy = ("open3d", "torch", "prefect", "dask", "smplx", "matplotlib", "scipy", "pydantic")
    code = f"import sys, datagen.shards; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _change(sample: Sample, name: str, value: object) -> Sample:
    if callable(value):
        array = np.array(getattr(sample, name))
        value(array)
        value = array
    return dataclasses.replace(sample, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("depth", lambda a: a.__setitem__((14, 14), np.nan), "depth is not finite"),
        ("depth", lambda a: a.__setitem__((14, 14), 1.4), "1.400 m exceeds"),
        ("depth", lambda a: a.__setitem__((14, 14), -1), "depth is negative"),
        ("depth", lambda a: a.__setitem__((14, 14), 1e-6), "stored as 0"),
        ("depth", lambda a: a.__setitem__((14, 14), 0), "without a surface"),
        ("canonical", lambda a: a.__setitem__((0, 14, 14), 1.01), "canonical coordinate leaves"),
        ("canonical", np.zeros((28, 28, 3), np.float32), "canonical has shape (28, 28, 3)"),
        ("confidence", lambda a: a.__setitem__((14, 14), 1.5), "confidence leaves"),
        ("image", np.zeros((3, 28, 28), np.float32), "image is float32"),
        ("region", np.zeros((28, 28), np.int64), "region is int64"),
        ("normal", lambda a: a.__setitem__((0, 14, 14), 2), "normal is not unit"),
        ("region", lambda a: a.__setitem__((14, 14), 200), "region label 200 is not in the table"),
        ("intrinsics", np.zeros((3, 3), np.float32), "not a pinhole"),
        ("subject", "dan", "does not belong to train"),
        ("camera", "cam99", "'cam99' is not in the plan"),
        ("frame", -1, "frame -1"),
        ("time", float("nan"), "time is nan"),
    ],
)
def test_bad_samples_are_refused_before_anything_lands(tmp_path: Path, name: str, value: object, words: str) -> None:
    plan = make_plan()
    unit = plan.units[0]
    samples = unit_samples(unit)
    samples[3] = _change(samples[3], name, value)
    with pytest.raises(InputError) as caught:
        write_unit(tmp_path / "d.zarr", plan, unit, "k", samples)
    assert words in str(caught.value)
    assert "sample 3" in str(caught.value)
    assert not (tmp_path / "d.zarr").exists()


def test_number_and_order_of_samples_are_checked(tmp_path: Path) -> None:
    plan = make_plan()
    unit = plan.units[0]
    samples = unit_samples(unit)
    cases = {
        "got 15 samples": samples[:-1],
        "one too many": [*samples, make_sample("ben", "smile", "cam02", 5)],
        "out of order": [samples[1], samples[0], *samples[2:]],
        "a repeat": [samples[0], *samples[:-1]],
    }
    for words, wrong in cases.items():
        with pytest.raises(InputError, match=words):
            write_unit(tmp_path / "d.zarr", plan, unit, "k", wrong)
    assert not (tmp_path / "d.zarr").exists()


def test_plans_that_contradict_themselves_are_refused() -> None:
    for words, changes in {
        "multiple of clip": {"clip": 5},
        "is in train and in val": {"splits": {"train": ["ada"], "val": ["ada"]}},
        "unknown splits": {"splits": {"dev": ["ada"]}},
        "not in the subject table": {"splits": {"train": ["zoe"]}},
        "no half_extent": {"space": {}},
        "depth_scale is 0": {"depth_scale": 0.0},
    }.items():
        with pytest.raises(InputError, match=words):
            make_plan(**changes)


def test_a_plan_survives_json_and_keeps_the_order_of_its_tables() -> None:
    plan = make_plan(cameras=("b", "a", "b"))
    assert plan.cameras == ("b", "a")
    assert DatasetPlan.from_json(plan.to_json()) == plan


def test_exact_images_are_stored_on_request(tmp_path: Path) -> None:
    plan = make_plan(counts={"train": 4}, image_error=0)
    samples = unit_samples(ShardUnit("train", 0, 0, 4))
    write_unit(tmp_path, plan, plan.units[0], "k", samples)
    dataset = finalise(tmp_path, plan, list_records(tmp_path))
    assert all(np.array_equal(dataset["train"].sample(i).image, x.image) for i, x in enumerate(samples))
    assert plan.encoding_digest != make_plan(counts={"train": 4}).encoding_digest


def test_content_decides_the_uuid(tmp_path: Path, pristine: Path) -> None:
    uuid = open_dataset(pristine).uuid
    assert open_dataset(build(tmp_path / "same" / "dataset.zarr")).uuid == uuid
    software = build(tmp_path / "software", make_plan(software={"zarr": "other"}))
    assert open_dataset(software).uuid == uuid
    assert open_dataset(build(tmp_path / "manifest", make_plan(manifest="{}"))).uuid != uuid
    plan = make_plan(counts={"train": 4})
    uuids = set()
    for red in (0, 9):
        root = tmp_path / f"red{red}"
        samples = unit_samples(ShardUnit("train", 0, 0, 4))
        samples[2].image[0, 0, 0] = red
        write_unit(root, plan, plan.units[0], "k", samples)
        uuids.add(finalise(root, plan, list_records(root)).uuid)
    assert len(uuids) == 2


def test_statistics_agree_with_numpy_over_all_samples(pristine: Path) -> None:
    dataset = open_dataset(pristine)
    found = stats(pristine)["splits"]
    maps = dataset["train"].read(MAPS, slice(None))
    surface, known = maps["depth"] > 0, maps["confidence"] > 0
    depth = maps["depth"][surface].astype(np.float64)
    told = found["train"]["arrays"]["depth"]["m"]
    assert told["count"] == depth.size
    assert told["mean"] == pytest.approx(depth.mean())
    assert told["std"] == pytest.approx(depth.std())
    assert (told["min"], told["max"]) == pytest.approx((depth.min(), depth.max()))
    assert told["quantiles"]["0.5"] == pytest.approx(np.quantile(depth, 0.5, method="inverted_cdf"))
    counts, edges = told["histogram"]["counts"], told["histogram"]["edges"]
    assert counts == np.histogram(depth, edges)[0].tolist()
    assert found["train"]["edge_fraction"] == pytest.approx(maps["edge"].mean())
    assert found["train"]["verdicts"] == {"pass": 54, "review": 18}
    y = maps["canonical"][:, 1][known].astype(np.float64)
    assert found["train"]["arrays"]["canonical"]["y"]["mean"] == pytest.approx(y.mean(), abs=1e-6)
    assert found["train"]["arrays"]["normal"]["z"]["max"] <= 0
    assert found["train"]["regions"]["cheeks"]["pixels"] == (maps["region"] == 1).sum()
    assert found["train"]["known_fraction"] == pytest.approx(known.mean())
    assert found["train"]["subjects"]["ben"]["samples"] == 24
    assert found["all"]["cameras"]["cam01"]["samples"] == 32
    assert found["test"]["samples"] == 0


def test_provenance_names_source_and_place(pristine: Path) -> None:
    told = sample_provenance(open_dataset(pristine), "train", 70)
    assert (told["subject"], told["sequence"], told["camera"], told["frame"]) == sample_keys("train")[70]
    assert (told["shard"], told["position"], told["content_key"]) == (4, 6, "key-train-00004")
    assert (pristine / told["files"]["depth"]).is_file()
