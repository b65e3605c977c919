"""Frame tables and templates: what is stored comes back, and a dataset grows without a shard that changes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr

from datagen.common.errors import CorruptDatasetError, DatasetError, InputError
from datagen.shards import Dataset, open_dataset, verify_dataset
from datagen.shards.frames import encode_frames, encode_spread, encode_vertices
from datagen.shards.plan import frames_of
from datagen.shards.tools.combine import Selection, merge, subset
from datagen.shards.tools.publish import publish
from tests.support.shard_faces import Key, build_steps, make_row, make_template, plan_steps, write_all
from tests.support.shard_samples import flip, tree

pytestmark = pytest.mark.usefixtures("without_fsync")

INDEPENDENT_READER = Path(__file__).parents[2] / "support" / "independent_reader.py"
SMALL = {"samples_per_shard": 4, "clip": 1}


def keys(subjects: str, frames: range = range(2)) -> list[Key]:
    return list(product(subjects.split(), ("talk",), ("cam0", "cam1"), frames))


# Three runs: the first decides the splits; the second adds a person before the others in the alphabet, a camera and a
# sequence of a person that is there; the third a frame in the middle of a performance.
STEPS: list[dict[str, list[Key]]] = [
    {"train": keys("ben cleo dan"), "val": keys("eve")},
    {"train": [*keys("ada"), ("ben", "smile", "cam2", 0)], "val": keys("fay", range(1))},
    {"train": [("cleo", "talk", camera, 7) for camera in ("cam0", "cam1")]},
]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grown") / "dataset.zarr"
    for count in (1, 2, 3):
        build_steps(root, STEPS[:count], make_template(), **SMALL)
    return root


def names_of(dataset: Dataset, split: str) -> list[Key]:
    plan, index = dataset.plan, dataset[split].index
    return [
        (plan.subjects[s], plan.sequences[q], plan.cameras[c], int(f))
        for s, q, c, f in zip(index.subject, index.sequence, index.camera, index.frame, strict=True)
    ]


def test_a_further_run_writes_its_own_shards_alone_and_no_file_of_another_changes(tmp_path: Path) -> None:
    root, template = tmp_path / "dataset.zarr", make_template()
    before: dict[str, bytes] = {}
    written = []
    for count in (1, 2, 3):
        written.append(build_steps(root, STEPS[:count], template, **SMALL))
        after = tree(root)
        shards = {key: data for key, data in before.items() if "/c." in key or key.startswith("records/")}
        assert {key: after.get(key) for key in shards} == shards
        assert verify_dataset(root).ok
        before = after
    # Samples of 4 a shard: 12 + 4; 5 + 2; 2. Frames: 6 + 2; 3 + 1; 1. And the template.
    assert written == [3 + 1 + 2 + 1 + 1, 2 + 1 + 1 + 1, 1 + 1]


def test_what_was_added_is_where_it_belongs(grown: Path) -> None:
    dataset = open_dataset(grown)
    assert dataset.plan.subjects == ("ben", "cleo", "dan", "eve", "ada", "fay")
    assert dataset.plan.cameras == ("cam0", "cam1", "cam2")
    for split in ("train", "val"):
        wanted = [key for step in STEPS for key in step.get(split, [])]
        found = names_of(dataset, split)
        assert sorted(found) == sorted(wanted)
        for i, key in enumerate(found):
            sample = dataset[split].sample(i)
            assert (sample.subject, sample.sequence, sample.camera, sample.frame) == key
    assert dataset.splits["val"] == ("eve", "fay")
    # Frames that came later are no part of a clip with those before them.
    assert len(dataset["train"].clips(2)) == 4 * 2
    assert not dataset["train"].clips(3)
    at_once = {tuple(sorted(names_of(dataset, "train")[i] for i in view)) for view in dataset["train"].views()}
    assert (("cleo", "talk", "cam0", 7), ("cleo", "talk", "cam1", 7)) in at_once


def test_rows_of_frames_are_found_by_the_samples_that_show_them(grown: Path) -> None:
    dataset, template = open_dataset(grown), make_template()
    for split in ("train", "val"):
        frames, index = dataset[split].frames, dataset[split].index
        assert len(frames) == len({(s, q, f) for s, q, _, f in names_of(dataset, split)})
        for i, (subject, sequence, _, frame) in enumerate(names_of(dataset, split)):
            row = int(index.frame_row[i])
            want = make_row(subject, sequence, frame, template)
            assert np.abs(frames.vertices([row])[0] - want.vertices).max() <= 0.51e-5
            above = frames.spread([row])[0] - want.spread_m
            assert above.min() > -1e-8
            assert above.max() < 1e-3 / 16
            assert np.array_equal(frames.identity[row], want.identity)
            assert np.array_equal(frames.expression[row], want.expression)
            assert np.array_equal(frames.model_to_head[row], want.model_to_head)
            assert (int(frames.frame[row]), float(frames.time[row])) == (frame, want.time_s)
            assert dataset.plan.subjects[frames.subject[row]] == subject
            assert float(frames.parameter_rms_mm[row]) == want.parameter_rms_mm


def test_a_split_s_table_is_read_once(grown: Path) -> None:
    dataset = open_dataset(grown)
    assert dataset["train"].frames.identity is dataset["train"].frames.identity


def test_zarr_alone_reads_rows_by_the_number_that_is_stored(grown: Path) -> None:
    group, dataset = zarr.open_group(str(grown), mode="r"), open_dataset(grown)
    subjects = group.attrs["subjects"]
    valid = group["train/valid"][:]
    assert valid.tolist() == [1] * 12 + [1] * 5 + [0] * 3 + [1] * 2  # what a run leaves free stays empty
    for i in np.flatnonzero(valid):
        row = int(group["train/frame_row"][i])
        want = make_row(
            subjects[int(group["train/subject"][i])],
            group.attrs["sequences"][int(group["train/sequence"][i])],
            int(group["train/frame"][i]),
            make_template(),
        )
        assert int(group["train/frames/valid"][row]) == 1
        assert np.abs(group["train/frames/vertices"][row] * 1e-5 - want.vertices).max() <= 0.51e-5
    template = dataset.template
    for name in ("vertices", "faces", "uv", "uv_faces", "expression_basis", "landmark_weights"):
        assert np.array_equal(group[f"template/{name}"][:], getattr(template, name))


def test_a_reader_written_from_the_document_reads_the_faces_too(grown: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, INDEPENDENT_READER, grown, tmp_path / "read.npz"], check=True, cwd=tmp_path)
    read, dataset = np.load(tmp_path / "read.npz"), open_dataset(grown)
    assert set(read) == {f"{group}/{name}" for group in dataset.plan.groups for name in dataset.plan.arrays(group)}
    template = dataset.template
    for name in dataset.plan.arrays("template"):
        assert np.array_equal(read[f"template/{name}"], getattr(template, name)), name
    for split in ("train", "val"):
        frames = dataset[split].frames
        rows = range(len(frames))
        np.testing.assert_allclose(read[f"{split}/frames/vertices"], frames.vertices(rows), atol=1e-7)
        np.testing.assert_allclose(read[f"{split}/frames/spread"], frames.spread(rows), atol=1e-8)
        for name in ("identity", "expression", "model_to_head", "head_to_world", "frame", "time", "verdict"):
            assert np.array_equal(read[f"{split}/frames/{name}"], getattr(frames, name)), name
        assert read[f"{split}/subject"].tolist() == [names[0] for names in names_of(dataset, split)]


@pytest.mark.parametrize(("identity", "expression"), [(0, 0), (2, 0), (2, 3)])
def test_a_template_comes_back_whatever_it_lacks(tmp_path: Path, identity: int, expression: int) -> None:
    template = make_template(identity, expression)
    build_steps(tmp_path / "d", STEPS[:1], template, **SMALL)
    assert verify_dataset(tmp_path / "d").ok
    with open_dataset(tmp_path / "d") as dataset:
        back = dataset.template
        assert back.to_attrs() == template.to_attrs()
        for name in ("vertices", "faces", "uv", "mean", "identity_basis", "expression_basis", "landmark_faces"):
            assert np.array_equal(getattr(back, name), getattr(template, name)), name
        assert dataset["train"].frames.identity.shape == (6, identity)
        assert dataset["train"].frames.expression.shape == (6, expression)


def test_a_sample_that_names_the_row_of_another_frame_is_found(tmp_path: Path) -> None:
    template = make_template()
    plan, samples, rows = plan_steps([{"train": keys("ada ben")}], template)
    named = [replace(sample, frame_row=max(sample.frame_row, 1)) for sample in samples["train"]]
    write_all(tmp_path, plan, {"train": named}, rows, template)
    report = verify_dataset(tmp_path, "quick")
    assert [(p.split, p.sample) for p in report.problems] == [
        ("train/frames", 1),
        ("train/frames", 1),
        ("train/frames", 0),
    ]
    first, second, third = (p.message for p in report.problems)
    assert first.startswith("is not of the frame of sample 0")
    assert second.startswith("is not of the frame of sample")
    assert third == "no sample names it"


def test_a_template_that_contradicts_itself_is_damage(tmp_path: Path) -> None:
    template = make_template()
    plan, samples, rows = plan_steps([{"train": keys("ada")}], template)
    wrong = replace(template)
    wrong.faces[3, 1] = len(template.vertices)
    write_all(tmp_path, plan, samples, rows, wrong)
    with pytest.raises(CorruptDatasetError, match=r"split template.* faces from 0 to 12"):
        _ = open_dataset(tmp_path).template
    assert [str(p) for p in verify_dataset(tmp_path).problems] == [
        "template, shard 0, sample 0: faces point outside their table"
    ]


def test_a_dataset_without_faces_says_so(pristine: Path) -> None:
    dataset = open_dataset(pristine)
    assert set(dataset["train"].index.frame_row) == {-1}
    with pytest.raises(DatasetError, match="holds no frame table"):
        _ = dataset["train"].frames
    with pytest.raises(DatasetError, match="holds no frame table"):
        _ = dataset.template


def read_all_faces(dataset: Dataset) -> None:
    for split in ("train", "val"):
        frames = dataset[split].frames
        assert len(frames.frame) == len(frames.vertices(range(len(frames))))
    assert len(dataset.template.faces)


@pytest.mark.parametrize("path", ["train/frames/vertices/c.1.0.0", "val/frames/frame/c.0", "template/faces/c.0.0"])
def test_damage_of_a_face_is_named(grown: Path, tmp_path: Path, path: str) -> None:
    import shutil

    copy = shutil.copytree(grown, tmp_path / "dataset.zarr")
    flip(copy / path, 3)
    report = verify_dataset(copy, level="digests")
    assert {problem.split for problem in report.problems} == {path.rsplit("/", 2)[0]}
    dataset = open_dataset(copy)
    with pytest.raises(CorruptDatasetError, match=path.replace(".", r"\.")):
        read_all_faces(dataset)


def test_a_subset_and_a_merger_keep_the_faces_of_their_samples(grown: Path, tmp_path: Path) -> None:
    first = subset(grown, tmp_path / "first", Selection.parse(["subject=ben,cleo,eve"]))
    other = subset(grown, tmp_path / "other", Selection.parse(["subject=ada,dan,fay"]))
    merged = merge([tmp_path / "other", tmp_path / "first"], tmp_path / "merged")
    whole = open_dataset(grown)
    for dataset in (first, other, merged):
        assert verify_dataset(dataset.path).ok
        assert len(dataset.plan.steps) == 1
        for split in ("train", "val"):
            for i, key in enumerate(names_of(dataset, split)):
                j = names_of(whole, split).index(key)
                rows = int(dataset[split].index.frame_row[i]), int(whole[split].index.frame_row[j])
                got, want = dataset[split].frames, whole[split].frames
                assert np.array_equal(got.vertices([rows[0]]), want.vertices([rows[1]]))
                assert np.array_equal(got.expression[rows[0]], want.expression[rows[1]])
    assert sorted(names_of(merged, "train")) == sorted(names_of(whole, "train"))
    assert np.array_equal(merged.template.uv, whole.template.uv)


def test_faces_of_another_model_are_not_merged(grown: Path, pristine: Path, tmp_path: Path) -> None:
    build_steps(tmp_path / "other", [{"train": keys("zoe")}], make_template(2, 0), **SMALL)
    for other in (tmp_path / "other", pristine):
        with pytest.raises(DatasetError, match="differ in faces"):
            merge([grown, other], tmp_path / "merged")


def test_faces_are_pushed_with_the_rest(grown: Path, tmp_path: Path) -> None:
    publish(grown, str(tmp_path / "there"))
    assert tree(tmp_path / "there") == tree(grown)


def test_rows_that_do_not_fit_the_plan_are_refused() -> None:
    template = make_template()
    plan, _, rows = plan_steps(STEPS[:1], template, **SMALL)
    unit = next(unit for unit in plan.units if unit.group == frames_of("train"))
    good = rows[unit.group][unit.start : unit.stop]
    assert len(list(encode_frames(plan, unit, good))) == 4
    far = good[0].vertices.copy()
    far[3, 1] = 0.4
    for bad, words in (
        ([replace(good[0], vertices=far), *good[1:]], "a vertex is 0.400 m from the head's origin"),
        ([replace(good[0], identity=np.zeros(5, np.float32)), *good[1:]], r"identity has shape \(5,\)"),
        ([replace(good[0], subject="eve"), *good[1:]], "does not belong there"),
        ([good[1], good[0], *good[2:]], "out of order or a repeat"),
        (good[:3], "got 3 rows"),
        ([*good, good[-1]], "does not belong there"),
    ):
        with pytest.raises(InputError, match=words):
            list(encode_frames(plan, unit, bad))


def test_steps_of_vertices_and_spread() -> None:
    rng = np.random.default_rng(0)
    vertices = rng.uniform(-0.32, 0.32, (100, 3))
    assert np.abs(encode_vertices(vertices) * 1e-5 - vertices).max() <= 0.5e-5 * 1.0001
    spread = np.array([0, 1e-9, 1e-3 / 16, 1e-3 / 16 + 1e-9, 5e-3, 0.0159, 1.0])
    assert encode_spread(spread).tolist() == [0, 1, 1, 2, 80, 255, 255]  # never said to be surer than it is
