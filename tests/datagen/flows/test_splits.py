"""Who is held out: by order, by share, by name; and that nobody ever changes splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.common.errors import InputError, ManifestError
from datagen.flows.planning import plan_build
from datagen.flows.splits import Splits, assign_splits, describe_splits
from datagen.manifest import SplitConfig, parse_manifest

NAMES = [f"s{i:02d}" for i in range(12)]
SUBJECTS = st.sets(st.sampled_from(NAMES), min_size=1)
COUNTS = st.builds(SplitConfig, val=st.integers(0, 3), test=st.integers(0, 3))
SHARES = st.builds(lambda val, test: SplitConfig(by="hash", val=val, test=test), st.floats(0, 0.49), st.floats(0, 0.49))


def owners(splits: Splits) -> dict[str, str]:
    return {subject: split for split, subjects in splits.items() for subject in subjects}


def assigned(subjects: set[str], config: SplitConfig, earlier: dict[str, str], seed: int = 0) -> dict[str, str]:
    """The split of every subject; what is refused is refused for want of people to learn from, and nothing else."""
    try:
        splits = assign_splits(subjects, config, earlier, seed=seed)
    except ManifestError as error:
        if "no subject is left for training" not in str(error):
            raise
        return {}
    found = owners(splits)
    assert set(found) == subjects
    assert sum(map(len, splits.values())) == len(subjects)
    assert all(list(names) == sorted(names) for names in splits.values())
    return found


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 5))
def test_every_subject_is_in_one_split_and_the_last_are_held_out(n: int, val: int, test: int) -> None:
    subjects = [f"s{i:03d}" for i in range(n)]
    config = SplitConfig(val=val, test=test)
    if val + test >= n:
        with pytest.raises(ManifestError, match="no subject is left for training"):
            assign_splits(subjects, config)
        return
    splits = assign_splits(reversed(subjects), config)
    assert [*splits["train"], *splits["val"], *splits["test"]] == subjects
    assert (len(splits["val"]), len(splits["test"])) == (val, test)


def test_named_subjects_are_held_out_before_counted_ones() -> None:
    splits = assign_splits(["d", "c", "b", "a"], SplitConfig(val=("d",), test=1))
    assert splits == {"train": ("a", "b"), "val": ("d",), "test": ("c",)}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SplitConfig(val=("x",), test=0), "splits.val names x"),
        (SplitConfig(val=("a",), test=("a",)), "are in splits.test too"),
        (SplitConfig(val=-1, test=0), "splits.val is -1"),
        (SplitConfig(val=("a", "b"), test=0), "no subject is left for training"),
    ],
)
def test_splits_that_do_not_fit_are_refused(config: SplitConfig, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        assign_splits(["a", "b"], config)


@given(st.lists(SUBJECTS, min_size=1, max_size=4), st.lists(COUNTS | SHARES, min_size=4, max_size=4), st.integers(0, 9))
def test_nobody_moves_whoever_comes_or_goes_and_whatever_the_recipe_says(
    batches: list[set[str]], configs: list[SplitConfig], seed: int
) -> None:
    history: dict[str, str] = {}
    for k, subjects in enumerate(batches):
        found = assigned(subjects, configs[k], history, seed=k * seed)
        assert {s: found[s] for s in subjects & history.keys() if found} == {
            s: history[s] for s in subjects & history.keys() if found
        }
        history = {**found, **history}


@given(SUBJECTS, SUBJECTS, SHARES, st.integers(0, 9))
def test_by_hash_a_split_never_depends_on_who_else_there_is(
    some: set[str], more: set[str], config: SplitConfig, seed: int
) -> None:
    alone, together = assigned(some, config, {}, seed), assigned(some | more, config, {}, seed)
    if alone:  # those of `some` that are learnt from are there still
        assert {subject: together[subject] for subject in some} == alone


@given(SUBJECTS, st.floats(0, 0.49), st.floats(0, 0.49), st.floats(0, 0.49))
def test_a_larger_share_of_one_takes_from_training_alone(
    subjects: set[str], val: float, test: float, more: float
) -> None:
    before = assigned(subjects, SplitConfig(by="hash", val=min(val, more), test=test), {})
    after = assigned(subjects, SplitConfig(by="hash", val=max(val, more), test=test), {})
    if before and after:
        moved = {subject for subject in subjects if before[subject] != after[subject]}
        assert all((before[subject], after[subject]) == ("train", "val") for subject in moved)


def test_shares_are_about_what_was_asked_and_depend_on_the_seed() -> None:
    subjects = [f"person-{i}" for i in range(4000)]
    config = SplitConfig(by="hash", val=0.1, test=0.25)
    splits = assign_splits(subjects, config)
    assert abs(len(splits["val"]) / 4000 - 0.1) < 0.02
    assert abs(len(splits["test"]) / 4000 - 0.25) < 0.03
    assert owners(assign_splits(subjects, config, seed=1)) != owners(splits)
    # Written down once: another hash would move everybody.
    assert assign_splits(NAMES, SplitConfig(by="hash", val=0.2, test=0.2)) == PINNED


PINNED: Splits = {
    "train": ("s00", "s02", "s03", "s04", "s05", "s08", "s11"),
    "val": ("s06", "s07", "s09", "s10"),
    "test": ("s01",),
}


@given(SUBJECTS, st.sets(st.sampled_from(NAMES), min_size=1), COUNTS)
def test_new_subjects_fill_only_what_the_numbers_lack(first: set[str], second: set[str], config: SplitConfig) -> None:
    history = assigned(first, config, {})
    if not history:
        return
    found = assigned(first | second, config, history)
    for split in ("val", "test"):  # already held out in full, so whoever is new is learnt from
        assert sum(owner == split for owner in found.values()) == getattr(config, split)
    assert {found[subject] for subject in second - first} <= {"train"}


@pytest.mark.parametrize(
    ("new", "val", "test"),
    [((), (), ()), (("x",), ("x",), ()), (("x", "y"), ("x",), ("y",)), (("x", "y", "z"), ("y",), ("z",))],
)
def test_a_number_that_was_raised_is_filled_with_new_subjects_val_first(
    new: tuple[str, ...], val: tuple[str, ...], test: tuple[str, ...]
) -> None:
    earlier = {"a": "train", "b": "train"}
    splits = assign_splits(["a", "b", *new], SplitConfig(val=1, test=1), earlier)
    assert (splits["val"], splits["test"]) == (val, test)
    assert set(splits["train"]) == {"a", "b", *new} - {*val, *test}


def test_those_held_out_before_count_also_where_the_number_was_lowered() -> None:
    earlier = {"a": "train", "b": "val", "c": "val"}
    config = SplitConfig(val=1, test=0)
    splits = assign_splits(["a", "b", "c", "d"], config, earlier)
    assert splits == {"train": ("a", "d"), "val": ("b", "c"), "test": ()}
    assert describe_splits(splits, config, earlier) == (
        "the last in order (val 1, test 0); 3 of 4 subjects stay where earlier runs put them; so val has 2"
    )
    # Whoever is gone does not count.
    assert assign_splits(["a", "d"], config, earlier)["val"] == ("d",)


@pytest.mark.parametrize("by", ["order", "hash"])
def test_a_name_that_would_move_somebody_is_refused(by: str) -> None:
    earlier = {"a": "train", "b": "train", "c": "val"}
    config = SplitConfig.model_validate({"by": by, "val": ("c",), "test": ("a",)})
    with pytest.raises(ManifestError, match=r"splits.test names a \(in train\).*another --out, or pass --replace"):
        assign_splits(["a", "b", "c"], config, earlier)
    assert assign_splits(["d", "b", "c"], config.model_copy(update={"test": ("d",)}), earlier)["test"] == ("d",)


def test_a_history_of_other_splits_is_refused() -> None:
    with pytest.raises(InputError, match="in dev"):
        assign_splits(["a", "b"], SplitConfig(val=0, test=0), {"a": "dev"})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"val": 0.1}, "val 0.1 is a share, which needs by: hash"),
        ({"by": "hash", "val": 2}, "val 2 is a number of subjects, which needs by: order"),
        ({"by": "hash", "test": 1.0}, "test 1 is no share"),
        ({"by": "hash", "test": -0.1}, "test -0.1 is no share"),
        ({"by": "hash", "val": 0.5, "test": 0.5}, "add up to 1"),
        ({"by": "name"}, "order"),
    ],
)
def test_recipes_that_mix_numbers_and_shares_are_refused(splits: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest({"name": "x", "source": {"kind": "simulated"}, "splits": splits})


def test_a_recipe_by_hash_has_shares_by_default_and_reads_back() -> None:
    manifest = parse_manifest({"name": "x", "source": {"kind": "simulated"}, "splits": {"by": "hash"}})
    assert (manifest.splits.val, manifest.splits.test) == (0.1, 0.1)
    assert parse_manifest(manifest.model_dump(mode="json")) == manifest


def test_a_plan_keeps_whom_it_is_told_and_says_so(tmp_path: Path) -> None:
    source = {"kind": "simulated", "subjects": 4, "frames": 1, "cameras": 1}
    manifest = parse_manifest({"name": "x", "source": source})
    plan = plan_build(manifest, {"s000": "val", "s001": "test"})
    assert plan.splits == {"train": ("s002", "s003"), "val": ("s000",), "test": ("s001",)}
    assert plan.split_policy == ("the last in order (val 1, test 1); 2 of 4 subjects stay where earlier runs put them")
    assert plan_build(manifest).split_policy == "the last in order (val 1, test 1)"
