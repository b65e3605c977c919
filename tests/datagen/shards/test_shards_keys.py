"""Keys and digests: each thing that decides bytes or order changes them, and what decides nothing does not."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import InputError, StorageError
from datagen.shards import (
    DatasetPlan,
    StreamConfig,
    finalise,
    list_records,
    open_dataset,
    stats,
    unit_is_complete,
    write_unit,
)
from datagen.shards import plan as plan_module
from datagen.shards.ledger import record_of, unit_files, write_record
from datagen.shards.metadata import attributes_digest, content_digest, root_attributes, uuid_of
from datagen.shards.plan import ENCODING_VERSION
from datagen.shards.schema import VERDICTS
from datagen.shards.store import LocalStore
from datagen.shards.stream import config as stream_module
from datagen.shards.stream.weights import SampleStatistics, chosen, sample_statistics, weights
from datagen.shards.tools import combine as combine_module
from datagen.shards.tools.combine import Selection
from tests.support.shard_samples import make_plan, unit_samples

pytestmark = pytest.mark.usefixtures("without_fsync")

# Another value of each attribute of a plan.
OTHER_PLANS: dict[str, object] = {
    "resolution": 29,
    "counts": {"train": 71, "val": 24},
    "splits": {"train": ("ada", "ben", "cleo"), "val": (), "test": ("dan",)},
    "subjects": ("ada", "ben", "cleo", "dan", "eve"),
    "sequences": ("neutral", "smile", "talk"),
    "cameras": ("cam00", "cam01", "cam02", "cam03"),
    "space": {"head": "anny", "centre": [0.0, 0.0, 0.0], "half_extent": 0.16},
    "manifest": "{}",
    "manifest_digest": "e",
    "sources": [{"name": "simulated", "licence": "MIT"}],
    "regions": {"background": 0, "cheeks": 1},
    "epochs": {"ada/smile": 1669283041.5},
    "samples_per_shard": 8,
    "clip": 2,
    "depth_scale": 2e-4,
    "image_error": 0,
    "codecs": "standard",
    "software": {"numpy": "0"},
    "frame_counts": {"train": 3},
    "steps": [{"train": 40, "val": 24}, {"train": 32}],
    "faces": {"sizes": {"V": 5, "F": 3}, "head": "anny"},
}
# Names are not among them: tables only grow, so that a name keeps its number.
ENCODES = {"resolution", "samples_per_shard", "depth_scale", "image_error", "codecs", "faces"}


@pytest.mark.parametrize("name", [f.name for f in fields(DatasetPlan)])
def test_what_decides_a_shard_s_bytes_is_in_the_encoding_digest_and_all_is_in_the_dataset_s(name: str) -> None:
    needed = {"faces": OTHER_PLANS["faces"]} if name == "frame_counts" else {}
    plan, other = make_plan(**needed), make_plan(**{**needed, name: OTHER_PLANS[name]})
    assert (plan.encoding_digest != other.encoding_digest) is (name in ENCODES)
    files = {"train/depth/c.0.0.0": "0" * 64}
    assert (content_digest(plan, files) != content_digest(other, files)) is (name != "software")
    attributes = [root_attributes(each, files, "0" * 16) for each in (plan, other)]
    assert attributes[0]["attributes_digest"] != attributes[1]["attributes_digest"]


def test_a_new_encoding_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_plan().encoding_digest
    monkeypatch.setattr(plan_module, "ENCODING_VERSION", ENCODING_VERSION + 1)
    assert make_plan().encoding_digest != before


def test_a_dataset_s_identity_follows_every_file_and_its_name() -> None:
    plan, files = make_plan(), {"a": "1" * 64, "b": "2" * 64}
    digest = content_digest(plan, files)
    assert digest == content_digest(plan, dict(reversed(files.items())))
    for other in ({"a": "1" * 64}, {"a": "2" * 64, "b": "1" * 64}, {"a": "1" * 64, "c": "2" * 64}):
        assert content_digest(plan, other) != digest
    assert uuid_of("f" * 64) == "ffffffff-ffff-8fff-bfff-ffffffffffff"
    assert uuid_of("0" * 64) == "00000000-0000-8000-8000-000000000000"
    assert uuid_of("0123456789abcdef" * 4) == "01234567-89ab-8def-8123-456789abcdef"
    attributes = root_attributes(plan, files, "0" * 16)
    assert attributes["uuid"] == uuid_of(digest)
    assert attributes["attributes_digest"] == attributes_digest(attributes)
    for key in attributes.keys() - {"attributes_digest"}:
        assert attributes_digest({**attributes, key: "other"}) != attributes["attributes_digest"], key


# Another value of each choice of a stream.
OTHER_STREAMS: dict[str, object] = {
    "seed": 1, "lengths": (1, 2), "frames_per_batch": 9, "view_ratio": 0.1, "stride": 3, "jitter": 0, "shuffle": False,
    "window": 9, "drop_last": True, "min_confidence": 0.1, "min_coverage": 0.1, "verdicts": ("pass",),
    "subjects": ("ada",), "subject_weights": {"ada": 2.0}, "region_weights": {"nose": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(StreamConfig)])
def test_every_choice_is_in_the_digest_of_an_order(name: str) -> None:
    config = StreamConfig(stride=2, jitter=1)
    digest = config.digest("d", "train")
    assert replace(config, **{name: OTHER_STREAMS[name]}).digest("d", "train") != digest
    assert StreamConfig(stride=2, jitter=1).digest("d", "train") == digest


def test_dataset_split_and_version_are_in_the_digest_of_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    config = StreamConfig()
    digest = config.digest("d", "train")
    assert len({digest, config.digest("e", "train"), config.digest("d", "val")}) == 3
    content = {"order": 1, "dataset": "d", "split": "train", "config": asdict(config)}
    assert digest == sha256_text(canonical_json(content))
    monkeypatch.setattr(stream_module, "ORDER_VERSION", 2)
    assert config.digest("d", "train") != digest


def test_a_record_counts_only_for_its_own_shard_key_and_encoding(copy: Path) -> None:
    unit = make_plan().units[1]
    record = next(r for r in list_records(copy) if r.name == unit.name)
    store = LocalStore(copy)
    assert unit_is_complete(copy, unit, "key-train-00001")
    files = dict(record.files)
    fewer = {key: files[key] for key in list(files)[1:]}
    for changed in (
        {"algorithm": ENCODING_VERSION + 1},
        {"algorithm": ENCODING_VERSION - 1},
        {"content_key": "other"},
        {"samples": record.samples - 1},
        {"files": fewer},
        {"files": {**files, "train/depth/zarr.json": files["train/depth/c.1.0.0"]}},
    ):
        write_record(store, replace(record, **changed))
        assert not unit_is_complete(copy, unit, "key-train-00001"), changed
    for changed in ({"group": "val"}, {"index": 2}):
        # Under the name of another shard a record is not that one's.
        store.write(f"records/{unit.name}.json", json.dumps(replace(record, **changed).to_json()).encode())
        assert not unit_is_complete(copy, unit, "key-train-00001")
    write_record(store, record)
    assert unit_is_complete(copy, unit, "key-train-00001")
    assert record_of(record.to_bytes(), unit) == record
    assert set(record.files) == set(unit_files(unit))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"algorithm": ENCODING_VERSION + 1}, "another plan"),
        ({"encoding_digest": "other"}, "another plan"),
        ({"samples": 3}, "planned were 16"),
    ],
)
def test_a_dataset_is_not_finished_with_a_record_of_another_making(copy: Path, change: dict, words: str) -> None:
    records = list_records(copy)
    records[2] = replace(records[2], **change)
    with pytest.raises(StorageError, match=words):
        finalise(copy, make_plan(), records)


def test_the_key_of_a_combined_shard_is_of_its_samples_encoding_and_making(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_dataset(pristine)

    def keys(out: str, conditions: list[str], per_shard: int) -> dict[str, str]:
        made = combine_module.subset(
            pristine, tmp_path / out, Selection.parse(conditions), samples_per_shard=per_shard
        )  # fmt: skip
        assert len(made["val"])
        return {record.name: record.content_key for record in list_records(tmp_path / out)}

    found = keys("a", ["split=val", "frame=0,5"], 8)
    numbers = [i for i in range(len(source["val"])) if source["val"].sample(i).frame in {0, 5}]
    plan, names = open_dataset(tmp_path / "a").plan, ("subject", "sequence", "camera")
    for k, name in enumerate(("val-00000", "val-00001")):
        content = {
            "combine_version": combine_module.COMBINE_VERSION,
            "encoding": plan.encoding_digest,
            "rows": [
                [
                    source.uuid,
                    "val",
                    i,
                    -1,
                    *(plan.numbers[key][getattr(source["val"].sample(i), key)] for key in names),
                ]
                for i in numbers[8 * k : 8 * k + 8]
            ],
        }
        assert found[name] == sha256_text(canonical_json(content))
    assert set(found) == {"val-00000", "val-00001"}
    monkeypatch.setattr(combine_module, "COMBINE_VERSION", combine_module.COMBINE_VERSION + 1)
    assert not set(keys("b", ["split=val", "frame=0,5"], 8).values()) & set(found.values())


def small_plan(**changes: object) -> DatasetPlan:
    return make_plan(counts={"train": 24, "val": 0}, **changes)


@pytest.fixture(scope="module")
def counted(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, plan = tmp_path_factory.mktemp("counted") / "dataset.zarr", small_plan()
    for unit in plan.units:
        write_unit(root, plan, unit, "k", unit_samples(unit))
    finalise(root, plan, list_records(root))
    return root


def test_statistics_of_samples_are_those_of_their_maps(counted: Path, tmp_path: Path) -> None:
    split = open_dataset(counted)["train"]
    found = sample_statistics(split, tmp_path)
    for i in range(len(split)):
        sample = split.sample(i)
        known, labelled = sample.confidence > 0, sample.region > 0
        assert found.confidence[i] == pytest.approx(sample.confidence[known].mean(), rel=1e-5)
        assert found.coverage[i] == pytest.approx(known.mean(), rel=1e-6)
        for label in (1, 2):
            assert found.regions[i, label] == pytest.approx((sample.region == label).sum() / labelled.sum(), rel=1e-6)
        assert found.regions[i, 0] == 0
    again = sample_statistics(split, tmp_path)
    np.testing.assert_array_equal(again.regions, found.regions)
    assert len(list(tmp_path.iterdir())) == 1


def test_filters_keep_what_reaches_their_limits_and_weights_are_means_over_labels(counted: Path) -> None:
    split = open_dataset(counted)["train"]
    n = len(split)
    regions = np.zeros((n, 256), np.float32)
    regions[:, 1], regions[:, 2] = np.linspace(0, 1, n), np.linspace(1, 0, n)
    regions[5] = 0
    given = SampleStatistics(
        np.linspace(0, 0.8, n).astype(np.float32), np.linspace(0.9, 0.1, n).astype(np.float32), regions
    )
    sure, covered = float(given.confidence[7]), float(given.coverage[15])
    kept = chosen(split, StreamConfig(min_confidence=sure, min_coverage=covered), given)
    np.testing.assert_array_equal(np.flatnonzero(kept), np.arange(7, 16))  # both limits themselves pass
    review = chosen(split, StreamConfig(verdicts=("review",)), None)
    recorded = [VERDICTS[v] for v in split.raw("verdict", 0, n)]
    np.testing.assert_array_equal(review, [v == "review" for v in recorded])
    assert 0 < review.sum() < n
    config = StreamConfig(subject_weights={"ada": 3.0}, region_weights={"cheeks": 0.5, "forehead": 2.0})
    by_region = 0.5 * regions[:, 1] + 2 * regions[:, 2]
    by_region[5] = 1  # without a label nothing is said
    subjects = np.array([split.sample(i).subject for i in range(n)])
    np.testing.assert_allclose(weights(split, config, given), by_region * np.where(subjects == "ada", 3, 1), rtol=1e-6)
    only = chosen(split, StreamConfig(subjects=(str(subjects[0]),)), None)
    np.testing.assert_array_equal(only, subjects == subjects[0])


@pytest.mark.parametrize(
    ("conditions", "fits"),
    [
        (["frame=1:5"], lambda s: s.frame in {1, 2}),  # frames are 0, 1, 2 and 5; an end is not in its range
        (["frame=:2"], lambda s: s.frame in {0, 1}),
        (["frame=1:"], lambda s: s.frame in {1, 2, 5}),
        (["frame=1::4"], lambda s: s.frame in {1, 5}),
        (["frame=5,0:1"], lambda s: s.frame in {0, 5}),
        (["camera=cam0?,x*"], None),
        (["camera=cam00,cam02", "sequence=sm*"], lambda s: s.camera != "cam01" and s.sequence == "smile"),
        (["subject=ada", "subject=b*"], lambda s: s.subject in {"ada", "ben"}),
        (["verdict=review"], lambda s: s.verdict == "review"),
        (["split=val"], lambda _s: False),
    ],
)
def test_a_selection_takes_the_samples_its_conditions_name(pristine: Path, conditions: list[str], fits) -> None:
    dataset = open_dataset(pristine)
    if fits is None:
        with pytest.raises(InputError, match=r"no camera of the dataset fits 'x\*'"):
            Selection.parse(conditions).chosen(dataset, "train")
        return
    split = dataset["train"]
    expected = [i for i in range(len(split)) if fits(split.sample(i))]
    assert Selection.parse(conditions).chosen(dataset, "train").tolist() == expected


def test_statistics_say_what_is_known_of_each_label_camera_and_subject(counted: Path) -> None:
    split = open_dataset(counted)["train"]
    samples = [split.sample(i) for i in range(len(split))]
    found = stats(counted)["splits"]["train"]
    region, known = (np.stack([getattr(s, name) for s in samples]) for name in ("region", "confidence"))
    for name, label in {"background": 0, "cheeks": 1, "forehead": 2}.items():
        own = found["regions"][name]
        assert own["pixels"] == (region == label).sum()
        assert own["fraction"] == pytest.approx((region == label).mean())
        assert own["known_fraction"] == pytest.approx((known > 0)[region == label].mean())
    assert 0 < found["regions"]["cheeks"]["known_fraction"] < 1
    for kind in ("camera", "subject"):
        for name in {getattr(s, kind) for s in samples}:
            own = [s for s in samples if getattr(s, kind) == name]
            said = found[f"{kind}s"][name]
            assert said["samples"] == len(own)
            assert said["surface_fraction"] == pytest.approx(np.mean([s.depth > 0 for s in own]))
            assert said["known_fraction"] == pytest.approx(np.mean([s.confidence > 0 for s in own]))
    assert found["edge_fraction"] == pytest.approx(np.mean([s.edge for s in samples]))
    assert found["verdicts"] == {v: sum(s.verdict == v for s in samples) for v in {s.verdict for s in samples}}
    depth = np.sort(np.concatenate([s.depth[s.depth > 0] for s in samples]))
    told = found["arrays"]["depth"]["m"]
    assert told["count"] == depth.size
    assert told["std"] == pytest.approx(depth.std(), rel=1e-4)
    for q, value in told["quantiles"].items():
        assert value == pytest.approx(np.quantile(depth, float(q), method="inverted_cdf"), rel=1e-5), q
    assert sum(told["histogram"]["counts"]) == depth.size
    assert len(told["histogram"]["edges"]) == 33
