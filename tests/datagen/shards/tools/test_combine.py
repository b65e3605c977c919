"""Datasets made of datasets: merged, cut down, exported; no map is compressed again."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from datagen.common.errors import CorruptDatasetError, DatasetError, InputError, StorageError
from datagen.flows.export_webdataset import export_webdataset
from datagen.shards import Dataset, finalise, list_records, open_dataset, verify_dataset, write_unit
from datagen.shards.tools.combine import Selection, merge, subset
from tests.support.shard_samples import SUBJECTS, build, flip, make_plan, make_sample, tree

pytestmark = pytest.mark.usefixtures("without_fsync")


def small_build(root: Path, subject: str, split: str = "train", **changes: object) -> Path:
    keys = [(subject, "smile", camera, frame) for camera in ("cam00", "cam09") for frame in (0, 3, 4)]
    settings = {
        "counts": {split: len(keys)},
        "splits": {split: (subject,)},
        "subjects": (subject,),
        "sequences": ("smile",),
        "cameras": ("cam00", "cam09"),
        **changes,
    }
    plan = make_plan(**settings)
    for unit in plan.units:
        samples = [make_sample(*key) for key in keys[unit.start : unit.stop]]
        write_unit(root, plan, unit, "k", samples)
    finalise(root, plan, list_records(root))
    return root


def by_name(dataset: Dataset, split: str) -> dict[tuple[str, str, str, int], int]:
    samples = [dataset[split].sample(i) for i in range(len(dataset[split]))]
    return {(s.subject, s.sequence, s.camera, s.frame): i for i, s in enumerate(samples)}


def assert_same_samples(new: Dataset, old: Dataset, split: str, names: set[tuple[str, str, str, int]]) -> None:
    here, there = by_name(new, split), by_name(old, split)
    assert set(here) >= names
    for name in names:
        for array in ("image", "depth", "canonical", "normal", "confidence", "region", "edge", "intrinsics", "verdict"):
            a, b = (d[split].raw(array, i, i + 1) for d, i in ((new, here[name]), (old, there[name])))
            assert np.array_equal(a, b), (array, name)


def test_merging_keeps_every_sample_and_orders_them_anew(pristine: Path, tmp_path: Path) -> None:
    other = small_build(tmp_path / "other", "bea")
    merged = merge([pristine, other], tmp_path / "merged")
    report = verify_dataset(merged.path)
    assert report.ok, report.problems
    assert merged.plan.counts == {"train": 78, "val": 24, "test": 0}
    assert merged.plan.cameras == ("cam00", "cam01", "cam02", "cam09")
    for source in (open_dataset(pristine), open_dataset(other)):
        assert_same_samples(merged, source, "train", set(by_name(source, "train")))
    # The order of the sources does not matter for what is stored, only for the recipe.
    assert merge([other, pristine], tmp_path / "again").plan.counts == merged.plan.counts


def test_images_of_any_error_are_read_after_merging(pristine: Path, tmp_path: Path) -> None:
    """Chunks are copied, and say themselves how their image was rounded."""
    exact = build(tmp_path / "exact.zarr", make_plan(image_error=0))
    merged = merge([pristine, exact], tmp_path / "merged", ["a", "b"])
    assert merged.plan.image_error == 1
    plain = zarr.open_group(str(merged.path), mode="r")["train/image"][...]
    assert np.array_equal(plain, merged["train"].raw("image", 0, len(merged["train"])))
    for label, root in (("a", pristine), ("b", exact)):
        dataset = open_dataset(root)
        names = [merged.plan.subjects[k] for k in merged["train"].index.subject]
        mine = [i for i, name in enumerate(names) if name.startswith(label)]
        assert np.array_equal(plain[mine], dataset["train"].raw("image", 0, len(dataset["train"])))


def test_a_dataset_of_other_settings_keeps_them(tmp_path: Path) -> None:
    """Chunks are copied, so all that says how they are read has to come along."""
    settings = {"codecs": "standard", "depth_scale": 4e-5, "image_error": 0, "clip": 2, "samples_per_shard": 6}
    source = open_dataset(small_build(tmp_path / "source", "bea", **settings))
    for made in (
        subset(source.path, tmp_path / "part", Selection.parse(["frame=0,4"])),
        merge([source.path, small_build(tmp_path / "other", "cid", **settings)], tmp_path / "merged"),
    ):
        assert {name: getattr(made.plan, name) for name in settings} == settings
        assert verify_dataset(made.path).ok
        assert_same_samples(made, source, "train", {name for name in by_name(source, "train") if name[3] != 3})


def test_a_subset_holds_what_was_asked_for(pristine: Path, tmp_path: Path) -> None:
    chosen = Selection.parse(["camera=cam0[02]", "frame=0:3:2,5", "subject=b*,dan"])
    part = subset(pristine, tmp_path / "part", chosen, samples_per_shard=4)
    assert verify_dataset(part.path).ok
    expected = {("ben", s, c, f) for s in ("neutral", "smile") for c in ("cam00", "cam02") for f in (0, 2, 5)}
    assert set(by_name(part, "train")) == expected
    assert len(part["val"]) == 12
    assert part.plan.subjects == ("ben", "dan")
    assert_same_samples(part, open_dataset(pristine), "train", expected)
    assert json.loads(part.plan.manifest)["combined"][0]["uuid"] == open_dataset(pristine).uuid
    review = subset(pristine, tmp_path / "review", Selection.parse(["verdict=review", "split=train"]))
    assert {name[3] for name in by_name(review, "train")} == {1}
    assert len(review["val"]) == 0


def test_combining_goes_on_where_it_stopped_and_gives_the_same_bytes(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = small_build(tmp_path / "other", "bea")
    merge([pristine, other], tmp_path / "undisturbed")
    replace, calls = os.replace, 0

    def refuse(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise KeyboardInterrupt
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(KeyboardInterrupt):
            merge([pristine, other], tmp_path / "merged")
    with pytest.raises(DatasetError, match="not finished"):
        open_dataset(tmp_path / "merged")
    merge([pristine, other], tmp_path / "merged")
    assert tree(tmp_path / "merged") == tree(tmp_path / "undisturbed")
    merge([pristine, other], tmp_path / "merged")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {"head": "ict", "half_extent": 0.15}}, "differ in space: .*head 'anny' and 'ict'"),
        ({"depth_scale": 4e-5}, "differ in depth_scale"),
        ({"regions": {"background": 0, "cheeks": 2, "forehead": 1}}, "differ in regions"),
        ({"codecs": "standard"}, "differ in codecs: 'compact' and 'standard'"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(
    pristine: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    other = small_build(tmp_path / "other", "bea", **changes)
    with pytest.raises(DatasetError, match=words):
        merge([pristine, other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_no_subject_gets_into_two_splits_and_no_sample_in_twice(pristine: Path, tmp_path: Path) -> None:
    leaking = small_build(tmp_path / "leaking", "ada", "val")
    with pytest.raises(DatasetError, match="subject ada would be in train and in val"):
        merge([pristine, leaking], tmp_path / "merged")
    with pytest.raises(DatasetError, match="ada/neutral/cam00/0 is in"):
        merge([pristine, pristine], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    labelled = merge([pristine, leaking], tmp_path / "merged", ["a", "b"])
    assert set(labelled.plan.splits["val"]) == {"a-dan", "b-ada"}
    with pytest.raises(InputError, match="1 labels for 2"):
        merge([pristine, leaking], tmp_path / "x", ["a"])


def test_a_folder_with_something_else_is_left_alone(pristine: Path, tmp_path: Path) -> None:
    everything = Selection()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the user")
    other = small_build(tmp_path / "other", "bea")
    before = tree(other)
    for out in (tmp_path / "mine", other):
        with pytest.raises((DatasetError, StorageError), match=r"notes\.txt: in the way|holds another dataset"):
            subset(pristine, out, everything)
    assert tree(other) == before


def test_a_damaged_chunk_is_not_copied(pristine: Path, tmp_path: Path) -> None:
    source = small_build(tmp_path / "source", "bea")
    flip(source / "train/normal/c.0.0.0.0", 30)
    with pytest.raises(CorruptDatasetError, match="array normal, shard 0, sample 0"):
        subset(source, tmp_path / "part", Selection())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("camera", "the condition 'camera'"),
        ("colour=red", "a key of split"),
        ("camera=", "the condition"),
        ("frame=a:b", "the frames 'a:b'"),
        ("frame=5:1:-1", "step of 1 or more"),
        ("subject=zoe", "no subject of the dataset fits 'zoe'"),
    ],
)
def test_conditions_that_cannot_be_met_are_refused(pristine: Path, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        subset(pristine, tmp_path / "part", Selection.parse([text]))
    with pytest.raises(InputError, match="no sample is chosen"):
        subset(pristine, tmp_path / "part", Selection.parse(["frame=100:"]))


def test_tars_hold_the_samples_as_pictures_and_numbers(pristine: Path, tmp_path: Path) -> None:
    from PIL import Image

    content = export_webdataset(pristine, tmp_path / "tars", samples_per_tar=40)
    assert {name: tar["samples"] for name, tar in content["tars"].items()} == {
        "train-000000.tar": 40,
        "train-000001.tar": 32,
        "val-000000.tar": 24,
    }
    dataset = open_dataset(pristine)
    with tarfile.open(tmp_path / "tars" / "train-000001.tar") as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    assert len(members) == 32 * 7
    meta = json.loads(members["train-00000045.meta.json"])
    sample = dataset["train"].sample(45)
    assert (meta["subject"], meta["camera"], meta["frame"]) == (sample.subject, sample.camera, sample.frame)
    image = np.asarray(Image.open(io.BytesIO(members["train-00000045.image.png"])))
    assert np.array_equal(np.moveaxis(image, -1, 0), sample.image)
    depth = np.asarray(Image.open(io.BytesIO(members["train-00000045.depth.png"]))).astype(np.uint16)
    assert np.allclose(depth * meta["depth_scale_m"], sample.depth, atol=1e-7)
    maps = np.load(io.BytesIO(members["train-00000045.maps.npz"]))
    canonical = maps["canonical"] * (2 / meta["canonical_levels"]) - 1
    assert np.allclose(canonical, sample.canonical, atol=1e-6)
    assert np.array_equal(maps["intrinsics"], sample.intrinsics)


def test_an_interrupted_export_goes_on_with_the_same_bytes(pristine: Path, tmp_path: Path) -> None:
    export_webdataset(pristine, tmp_path / "whole", samples_per_tar=40)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_webdataset(pristine, tmp_path / "broken", samples_per_tar=40, on_samples=stop)
    assert json.loads((tmp_path / "broken" / "export.json").read_text())["finished"] is False
    export_webdataset(pristine, tmp_path / "broken", samples_per_tar=40)
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")
    with pytest.raises(DatasetError, match="one with other settings"):
        export_webdataset(pristine, tmp_path / "whole", samples_per_tar=41)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the user")
    with pytest.raises(DatasetError, match=r"notes\.txt, which is not part of an export"):
        export_webdataset(pristine, tmp_path / "mine")


def test_the_webdataset_package_reads_the_tars(pristine: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="read with the webdataset package where it is installed")
    export_webdataset(pristine, tmp_path / "tars", samples_per_tar=40)
    urls = [str(tmp_path / "tars" / name) for name in ("train-000000.tar", "train-000001.tar")]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == sum(len(SUBJECTS["train"]) * n for n in (24,))
    assert samples[3]["image.png"].shape == (28, 28, 3)
    assert samples[3]["maps.npz"]["canonical"].shape == (3, 28, 28)
