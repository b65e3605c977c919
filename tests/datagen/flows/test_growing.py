"""A build that gets more captures writes what is new, and nothing that was finished changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datagen.common.errors import InputError, ManifestError
from datagen.flows.build import build
from datagen.flows.history import History, read_history
from datagen.flows.runners.contract import RunnerConfig
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, SplitConfig, parse_manifest
from datagen.shards import open_dataset
from datagen.sources.frame import SequenceKey
from tests.conftest import TINY_MANIFEST
from tests.support.build_trees import copy_build
from tests.support.shard_faces import build_steps, make_template
from tests.support.shard_samples import tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult


def recipe(captures: Path) -> Manifest:
    return parse_manifest(
        {
            **TINY_MANIFEST,
            "source": {"kind": "folder", "root": str(captures)},
            "splits": {"val": 0, "test": 0},
            "shards": {"clip": 1, "samples_per_shard": 3},
        }
    )


def test_a_person_who_comes_later_is_rendered_alone(tiny_build: BuildResult, tmp_path: Path) -> None:
    captures, out = tmp_path / "captures", tmp_path / "out"
    person = tiny_build.root / "captures" / "s001"
    shutil.copytree(person, captures / "mia")
    first = build(recipe(captures), out, RunnerConfig("serial"))
    assert (first.warped, first.rendered) == (1, 4)
    before = tree(out / "dataset.zarr")
    # Before everybody else in the alphabet, so that sorted tables would number all of them anew.
    shutil.copytree(tiny_build.root / "captures" / "s000", captures / "ada")
    second = build(recipe(captures), out, RunnerConfig("serial"))
    assert (second.warped, second.rendered) == (1, 4)
    assert second.verification.ok
    after = tree(out / "dataset.zarr")
    shards = {key for key in before if "/c." in key or key.startswith("records/")}
    assert {key: after.get(key) for key in shards} == {key: before[key] for key in shards}
    dataset = open_dataset(out)
    assert dataset.plan.subjects == ("mia", "ada")
    assert [dict(step)["train"] for step in dataset.plan.steps] == [4, 4]
    train = dataset["train"]
    assert [train.sample(i).subject for i in range(8)] == ["mia"] * 4 + ["ada"] * 4
    assert train.index.frame_row.tolist() == [0] * 4 + [1] * 4
    # In one go it would be another order: what was there first stays first.
    third = build(recipe(captures), out, RunnerConfig("serial"))
    assert (third.warped, third.rendered) == (0, 0)
    assert tree(out / "dataset.zarr") == after
    # What was decided outlives the loss of the file that says so, and of the recipe.
    decided = (out / "history.json").read_bytes()
    (out / "history.json").unlink()
    build(recipe(captures), out, RunnerConfig("serial"))
    (out / "manifest.json").unlink()
    build(recipe(captures), out, RunnerConfig("serial"))
    assert (out / "history.json").read_bytes() == decided
    assert tree(out / "dataset.zarr") == after
    # One who is gone takes their own shards along, and no others.
    shutil.rmtree(captures / "ada")
    fourth = build(recipe(captures), out, RunnerConfig("serial"))
    assert fourth.rendered == 0
    assert {key: data for key, data in tree(out / "dataset.zarr").items() if key in shards} == {
        key: before[key] for key in shards
    }
    assert open_dataset(out).plan.counts["train"] == 4


def frames(**listed: list[int]) -> list[tuple[SequenceKey, int]]:
    return [(SequenceKey(subject, "talk"), frame) for subject, numbers in listed.items() for frame in numbers]


def test_a_history_only_grows(tmp_path: Path) -> None:
    one = History().grown(frames(ben=[0, 1, 5]), ["b", "a"], {"ben": "train"})
    assert (one.subjects, one.cameras) == (("ben",), ("a", "b"))
    assert one.steps == ({"ben/talk": (0, 1, 5)},)
    assert one.grown(frames(ben=[0, 5]), ["a"], {"ben": "train"}) == one
    two = one.grown(frames(ada=[3], ben=[0, 2, 5]), ["0"], {"ada": "val", "ben": "train"})
    assert (two.subjects, two.cameras) == (("ben", "ada"), ("a", "b", "0"))
    assert two.steps == (*one.steps, {"ada/talk": (3,), "ben/talk": (2,)})
    assert [(step, 5 in frames, 2 in frames) for step, frames in two.steps_of()["ben/talk"]] == [
        (0, True, False),
        (1, False, True),
    ]
    layout = BuildLayout(tmp_path)
    assert read_history(layout) == History()
    layout.history.write_bytes(two.to_bytes())
    assert read_history(layout) == two


@pytest.mark.parametrize(
    "change", [{"splits": {"ben": "test"}}, {"steps": 3}, {"version": 1}, {"splits": {"ben": "x"}}]
)
def test_a_history_that_was_changed_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    layout = BuildLayout(tmp_path)
    history = History().grown(frames(ben=[0]), ["a"], {"ben": "train"})
    layout.history.write_text(json.dumps({**json.loads(history.to_bytes()), **change}))
    with pytest.raises(InputError, match=r"history\.json cannot be used"):
        read_history(layout)
    digits = layout.history.write_text(
        history.to_bytes().decode().replace("     0\n    ]", "     1000000000000000\n    ]")
    )
    assert digits > len(history.to_bytes())
    with pytest.raises(InputError, match="its digest is of other content"):
        read_history(layout)
    layout.history.write_text("[")
    with pytest.raises(InputError, match=r"history\.json cannot be used"):
        read_history(layout)


def test_only_a_replaced_build_moves_a_subject(tiny_build: BuildResult, tmp_path: Path) -> None:
    out = copy_build(tiny_build.root, tmp_path / "out")
    recipe = BuildLayout(out).read_manifest()
    swapped = recipe.model_copy(update={"splits": SplitConfig(val=("s000",), test=0)})
    before = tree(out)
    with pytest.raises(ManifestError, match=r"splits\.val names s000 \(in train\).*or pass --replace"):
        build(swapped, out, RunnerConfig("serial"))
    assert tree(out) == before
    build(swapped, out, RunnerConfig("serial"), replace=True)
    assert open_dataset(out).splits == {"train": ("s001",), "val": ("s000",), "test": ()}
    assert read_history(BuildLayout(out)).splits == {"s000": "val", "s001": "train"}
    assert build(swapped, out, RunnerConfig("serial")).rendered == 0


def test_a_dataset_tells_the_history_of_its_build(tmp_path: Path) -> None:
    assert History.of_dataset(tmp_path) == History()
    steps = [
        {"train": [("mia", "talk", "b", 3), ("mia", "talk", "b", 9)], "val": [("ben", "talk", "b", 0)]},
        {"train": [("mia", "talk", "a", 5), ("ada", "talk", "b", 1)]},
    ]
    build_steps(tmp_path / "dataset.zarr", steps, make_template())
    told = read_history(BuildLayout(tmp_path))
    expected = History().grown(frames(mia=[3, 9], ben=[0]), ["b"], {"mia": "train", "ben": "val"})
    assert told == expected.grown(frames(mia=[5], ada=[1]), ["a"], {"ada": "train"})
    # Of a damaged table at least nobody's split is lost.
    (tmp_path / "dataset.zarr/train/frames/frame/c.1").write_bytes(b"")
    damaged = read_history(BuildLayout(tmp_path))
    assert (damaged.splits, damaged.subjects, damaged.steps) == (told.splits, told.subjects, ())
