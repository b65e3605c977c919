"""Damage of every kind is noticed and named; the bytes are as docs/dataset-format.md says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs import Blosc

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import CorruptDatasetError, DatasetError, StorageError
from datagen.shards import (
    ARRAYS,
    SPLITS,
    DatasetPlan,
    ShardUnit,
    codec_reference,
    finalise,
    list_records,
    open_dataset,
    unit_is_complete,
    verify_dataset,
    write_unit,
)
from datagen.shards.metadata import attributes_digest, metadata_bytes
from datagen.shards.ownership import foreign_files
from tests.support.shard_samples import build, flip, make_plan, make_sample, sample_keys, unit_samples

INDEPENDENT_READER = Path(__file__).parents[2] / "support" / "independent_reader.py"
pytestmark = pytest.mark.usefixtures("without_fsync")


def test_what_is_no_dataset_is_refused_in_words(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="is not a dataset"):
        open_dataset(tmp_path / "empty")
    zarr.create_group(store=str(tmp_path / "foreign.zarr"), attributes={"format": "other"})
    with pytest.raises(DatasetError, match="another kind"):
        verify_dataset(tmp_path / "foreign.zarr")
    (copy / "zarr.json").unlink()
    with pytest.raises(DatasetError, match="not finished"):
        open_dataset(copy)


def test_a_newer_version_asks_for_an_upgrade(copy: Path) -> None:
    document = json.loads((copy / "zarr.json").read_text())
    document["attributes"]["format_version"] = 7
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"version 7.*at most 2.*upgrade canonface"):
        open_dataset(copy)


def test_a_changed_attribute_is_noticed(copy: Path) -> None:
    document = json.loads((copy / "zarr.json").read_text())
    document["attributes"]["depth_scale"] = 3e-5
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(CorruptDatasetError, match="attributes_digest"):
        open_dataset(copy)
    assert not verify_dataset(copy).ok


def test_a_dataset_of_before_is_refused_with_what_to_run_and_built_anew(copy: Path) -> None:
    """Records of version 3 name no chunks, and the root document named no records."""
    for path in sorted((copy / "records").iterdir()):
        record = json.loads(path.read_text())
        record = {key: value for key, value in record.items() if key != "digest"} | {"algorithm": 3}
        record["files"] = {key: {k: v for k, v in f.items() if k != "crc32c"} for key, f in record["files"].items()}
        path.write_bytes(metadata_bytes(record))
    document = json.loads((copy / "zarr.json").read_text())
    attributes = {key: value for key, value in document["attributes"].items() if key != "records"}
    document["attributes"] = {**attributes, "attributes_digest": attributes_digest(attributes)}
    (copy / "zarr.json").write_bytes(metadata_bytes(document))
    for use in (open_dataset, verify_dataset):
        with pytest.raises(DatasetError, match=r"an earlier version.*Run `datagen build` on its folder again"):
            use(copy)
    assert [record.algorithm for record in list_records(copy)] == [3] * 7
    assert not unit_is_complete(copy, make_plan().units[0], "key-train-00000")
    assert verify_dataset(build(copy), "deep").ok


def test_a_dataset_of_version_1_is_refused_with_what_to_run_and_built_anew(copy: Path) -> None:
    """Its documents differ in codecs and attributes, and the root's holds no others."""
    for path in copy.glob("*/*/zarr.json"):
        document = json.loads(path.read_text())
        document["attributes"] = {"rows": "difference from the row above"}
        document["codecs"] = [{"name": "bytes"}, {"name": "crc32c"}]
        document["fill_value"] = 0
        del document["storage_transformers"]
        path.write_bytes(metadata_bytes(document))
    for path in sorted((copy / "records").iterdir()):
        record = {k: v for k, v in json.loads(path.read_text()).items() if k != "digest"} | {"algorithm": 4}
        path.write_bytes(metadata_bytes({**record, "digest": sha256_text(canonical_json(record))}))
    document = json.loads((copy / "zarr.json").read_text())
    del document["consolidated_metadata"]
    attributes = {key: v for key, v in document["attributes"].items() if key != "codecs"} | {"format_version": 1}
    document["attributes"] = {**attributes, "attributes_digest": attributes_digest(attributes)}
    (copy / "zarr.json").write_bytes(metadata_bytes(document))
    for use in (open_dataset, verify_dataset):
        with pytest.raises(
            DatasetError, match=rf"of format version 1\. .*datagen build .*manifest.json --out {copy.parent}"
        ):
            use(copy)
    assert foreign_files(copy) == []
    assert verify_dataset(build(copy), "deep").ok
    assert open_dataset(copy).attrs["format_version"] == 2


def test_an_undamaged_dataset_verifies(pristine: Path) -> None:
    report = verify_dataset(pristine)
    assert report.ok, report.problems
    assert report.counts["samples"] == 96
    assert report.counts["shards"] == 7
    assert report.counts["files"] == 7 * len(ARRAYS)
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


@pytest.mark.parametrize("name", ["image", "depth", "canonical", "normal", "confidence", "region", "edge"])
def test_a_flipped_bit_names_shard_and_sample(copy: Path, name: str) -> None:
    (path,) = (copy / f"train/{name}").glob("c.1*")
    # The index at the end says where the chunk of the shard's sixth sample lies.
    offset, length = np.frombuffer(path.read_bytes()[-(16 * 16 + 4) : -4], "<u8").reshape(16, 2)[5]
    flip(path, int(offset + length // 2))
    with pytest.raises(CorruptDatasetError, match=rf"split train, array {name}, shard 1, sample 21"):
        open_dataset(copy)["train"].sample(21)
    open_dataset(copy)["train"].sample(20)
    report = verify_dataset(copy)
    assert {(p.split, p.shard, p.sample) for p in report.problems} == {("train", 1, None), ("train", 1, 21)}
    # Shards may be looked at at the same time; what is found, and its order, stay.
    looked: list[ShardUnit] = []
    assert verify_dataset(copy, on_shard=looked.append, workers=3) == report
    assert looked == list(open_dataset(copy).plan.units)


@pytest.mark.parametrize("name", list(ARRAYS))
def test_a_flipped_last_byte_names_the_shard(copy: Path, name: str) -> None:
    path = next(p for p in sorted((copy / f"val/{name}/c.1").parent.rglob("*")) if p.is_file())
    flip(path, -1)
    problems = verify_dataset(copy).problems
    assert problems
    assert {(p.split, p.shard) for p in problems} == {("val", 0)}


@pytest.mark.parametrize("path", ["train/canonical/c.3.0.0.0", "train/frame/c.3"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_file_is_noticed(copy: Path, path: str, keep: float) -> None:
    size = (copy / path).stat().st_size
    os.truncate(copy / path, int(size * keep) if keep < 1 else int(keep))
    with pytest.raises(CorruptDatasetError, match="shard 3"):
        open_dataset(copy)["train"].sample(50)
    assert {(p.split, p.shard) for p in verify_dataset(copy, level="quick").problems} == {("train", 3)}


@pytest.mark.parametrize("path", ["train/depth/c.4.0.0", "train/valid/c.4"])
def test_a_missing_file_is_never_read_as_zeros(copy: Path, path: str) -> None:
    (copy / path).unlink()
    with pytest.raises(CorruptDatasetError, match="shard 4"):
        open_dataset(copy)["train"].sample(70)
    assert not verify_dataset(copy, level="quick").ok


@pytest.mark.parametrize("path", ["records/val-00001.json", "val/zarr.json", "train/time/zarr.json", "zarr.json"])
def test_any_flipped_bit_of_metadata_is_noticed(copy: Path, path: str) -> None:
    original = (copy / path).read_bytes()
    for position in np.linspace(0, len(original) - 2, 12).astype(int):
        flip(copy / path, int(position))
        if _same_json(original, (copy / path).read_bytes()):
            continue  # white space
        try:
            assert not verify_dataset(copy, level="quick").ok, position
        except DatasetError:
            assert path == "zarr.json"
        (copy / path).write_bytes(original)


def test_a_record_with_any_flipped_bit_has_its_shard_written_again(copy: Path) -> None:
    """An unfinished build has no root document yet that names its records."""
    path, unit = copy / "records/val-00001.json", make_plan().units[-1]
    original = path.read_bytes()
    assert unit_is_complete(copy, unit, "key-val-00001")
    for position in np.linspace(0, len(original) - 2, 150).astype(int):
        flip(path, int(position))
        assert unit_is_complete(copy, unit, "key-val-00001") is _same_json(original, path.read_bytes()), position
        path.write_bytes(original)


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def test_stray_files_are_named(copy: Path) -> None:
    (copy / "train/depth/more").mkdir()
    (copy / "train/depth/more/extra").write_text("x")
    (problem,) = verify_dataset(copy, level="quick").problems
    assert "train/depth/more/extra" in str(problem)


def _forge(root: Path, plan: DatasetPlan, lie: dict[str, object]) -> None:
    """Write shards by one plan and finish them under another, as a faulty builder would."""
    for unit in plan.units:
        write_unit(root, plan, unit, f"key-{unit.name}", unit_samples(unit))
    claimed = make_plan(**lie)
    for path in sorted((root / "records").iterdir()):
        record = json.loads(path.read_text())
        record["encoding_digest"] = claimed.encoding_digest
        path.write_bytes(metadata_bytes(record))


def test_a_subject_in_two_splits_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "dataset.zarr"
    lie = {"splits": {"train": ("ada", "ben"), "val": ("cleo", "dan"), "test": ()}}
    _forge(root, make_plan(), lie)
    with pytest.raises(StorageError, match="holds cleo, a subject of val"):
        finalise(root, make_plan(**lie), list_records(root))
    monkeypatch.setattr("datagen.shards.finish._check_order", lambda *_: None)
    finalise(root, make_plan(**lie), list_records(root))
    report = verify_dataset(root, level="quick")
    (problem,) = report.problems
    assert (problem.split, problem.sample) == ("train", sample_keys("train").index(("cleo", "neutral", "cam00", 0)))
    assert "cleo" in problem.message


def test_broken_invariants_of_a_sample_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, plan = tmp_path / "dataset.zarr", make_plan(counts={"train": 8})
    from datagen.shards import writer

    encode = writer.encode_samples

    def careless(*args: object) -> Iterator[dict[str, object]]:
        rows = list(encode(*args))
        rows[1]["edge"] = 2 * rows[1]["edge"].astype(np.uint8)
        rows[2]["depth"][14, 14] = 0
        rows[3]["canonical"][0, 14, 14] = 65535
        rows[4]["region"][14, 14] = 200
        rows[5]["valid"] = 0
        rows[6]["verdict"] = 3
        rows[7]["frame"] = rows[6]["frame"] - 1
        yield from rows

    monkeypatch.setattr(writer, "encode_samples", careless)
    monkeypatch.setattr("datagen.shards.finish._check_order", lambda *_: None)
    write_unit(root, plan, plan.units[0], "k", unit_samples(ShardUnit("train", 0, 0, 8)))
    finalise(root, plan, list_records(root))
    found = {problem.sample for problem in verify_dataset(root).problems}
    assert found == {1, 2, 3, 4, 5, 6, 7}
    with pytest.raises(CorruptDatasetError, match="sample 5"):
        open_dataset(root)["train"].sample(0)


def test_the_uuid_follows_from_the_files_as_documented(pristine: Path) -> None:
    attrs = json.loads((pristine / "zarr.json").read_text())["attributes"]
    files = {
        path.relative_to(pristine).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pristine.glob("*/*/c.*")
    }
    # All attributes but those that identify, are the same for every dataset, or do not belong to the content.
    apart = {
        "format",
        "format_version",
        "uuid",
        "content_digest",
        "pixel_center",
        "software",
        "attributes_digest",
        "records",
    }
    keys = set(attrs) - apart
    assert len(keys) == 20
    content = {"files": files, "format_version": 2, "plan": {key: attrs[key] for key in keys}}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, indent=1).encode()).hexdigest()
    assert attrs["content_digest"] == digest
    assert uuid.UUID(attrs["uuid"]).version == 8
    assert uuid.UUID(attrs["uuid"]).int >> 80 == int(digest[:12], 16)


def test_a_shard_file_is_laid_out_as_documented(pristine: Path) -> None:
    data = (pristine / "train/depth/c.4.0.0").read_bytes()  # the last shard: samples 64 to 71 of 16
    table = np.frombuffer(data[-260:-4], "<u8").reshape(16, 2)
    assert int.from_bytes(data[-4:], "little") == google_crc32c.value(data[-260:-4])
    assert (table[8:] == 2**64 - 1).all()
    for i, (offset, length) in enumerate(table[:8].astype(int)):
        chunk = data[offset : offset + length]
        assert int.from_bytes(chunk[-4:], "little") == google_crc32c.value(chunk[:-4])
        left = np.frombuffer(Blosc().decode(chunk[:-4]), "<u2").reshape(28, 28)
        depth = np.empty((28, 28), np.uint16)
        codec_reference.decode_surface(left[None], depth[None])
        expected = make_sample(*sample_keys("train")[64 + i]).depth
        assert np.abs(depth * 2e-5 - expected).max() <= 1.01e-5


@pytest.mark.parametrize("codecs", ["compact", "standard"])
def test_a_reader_written_from_the_document_reads_every_value(tmp_path: Path, pristine: Path, codecs: str) -> None:
    root = pristine if codecs == "compact" else build(tmp_path / "d.zarr", make_plan(codecs=codecs))
    subprocess.run([sys.executable, INDEPENDENT_READER, root, tmp_path / "read.npz"], check=True, cwd=tmp_path)
    dataset, read = open_dataset(root), np.load(tmp_path / "read.npz")
    assert set(read) == {f"{split}/{name}" for split in SPLITS for name in ARRAYS}
    for split, samples in (("train", (0, 15, 16, 71)), ("val", (3, 23))):
        for i in samples:
            sample = dataset[split].sample(i)
            for name in ARRAYS:
                value = read[f"{split}/{name}"][i]
                if name == "valid":
                    assert value == 1
                elif name == "verdict":
                    assert ("", "pass", "review")[value] == sample.verdict
                elif name in ("subject", "sequence", "camera"):
                    assert value == getattr(sample, name)
                else:
                    np.testing.assert_allclose(value, getattr(sample, name), atol=1e-6)
