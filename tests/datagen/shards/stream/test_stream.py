"""The order of a stream: one sequence for any number of ranks, nothing lost or repeated, well mixed, resumable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import InputError
from datagen.shards import IndexTables, StreamConfig
from datagen.shards.growth import GroupShards
from datagen.shards.stream.clips import Layout
from datagen.shards.stream.order import EpochOrder, OrderInputs


def tables(subjects: int, cameras: int, frames: int, *, missing: float = 0.0, seed: int = 0) -> IndexTables:
    """Index tables of a split in stored order, some samples missing at random."""
    subject, camera, frame = (a.ravel() for a in np.indices((subjects, cameras, frames)))
    kept = np.random.default_rng(seed).random(len(subject)) >= missing
    kept[0] = True  # a split without a sample is refused before it is ordered
    columns = [a[kept].astype(np.int32) for a in (subject, np.zeros_like(subject), camera, frame)]
    return IndexTables(
        *columns,
        time=columns[3] / np.float32(12),
        valid=np.ones(len(columns[0]), np.uint8),
        frame_row=np.full(len(columns[0]), -1),
    )


def inputs(index: IndexTables, config: StreamConfig, *, per_shard: int = 16, digest: str = "uuid") -> OrderInputs:
    """What an order is made from, with nothing filtered or weighted."""
    n = len(index)
    return OrderInputs(
        Layout.of(index),
        config,
        config.digest(digest, "train"),
        GroupShards("train", per_shard, (n,)),
        np.ones(n, bool),
        np.ones(n),
    )


CONFIGS = st.builds(
    lambda lengths, batch, ratio, stride, jitter, shuffle, window, seed: StreamConfig(
        seed=seed,
        lengths=tuple(lengths),
        frames_per_batch=batch,
        view_ratio=ratio,
        stride=stride,
        jitter=min(jitter, stride - 1),
        shuffle=shuffle,
        window=window,
    ),
    st.sets(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
    st.integers(1, 9),
    st.integers(0, 3),
)
TABLES = st.builds(
    tables,
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 13),
    missing=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(TABLES, CONFIGS, st.integers(0, 2))
def test_no_sample_comes_twice_and_none_is_lost_where_single_frames_are_allowed(
    index: IndexTables, config: StreamConfig, epoch: int
) -> None:
    order = EpochOrder(inputs(index, config), epoch)
    sequence = order.sequence()
    assert len(np.unique(sequence)) == len(sequence)
    if 1 in config.lengths:
        assert sorted(sequence.tolist()) == list(range(len(index)))


@settings(max_examples=60, deadline=None)
@given(TABLES, CONFIGS)
def test_a_clip_is_one_camera_evenly_spread_or_one_instant(index: IndexTables, config: StreamConfig) -> None:
    order = EpochOrder(inputs(index, config), 0)
    frames = {s: np.unique(index.frame[index.subject == s]) for s in np.unique(index.subject)}
    for number in range(len(order)):
        clips = order.batch(number)
        assert 1 <= len(clips) <= config.clips_per_batch(clips.shape[1])
        for clip in clips:
            assert len(set(index.subject[clip].tolist())) == 1
            if order.is_views(number):
                assert len(set(index.frame[clip].tolist())) == 1
                assert len(set(index.camera[clip].tolist())) == len(clip)
            else:
                assert len(set(index.camera[clip].tolist())) == 1
                place = np.searchsorted(frames[index.subject[clip[0]]], index.frame[clip])
                assert (np.abs(np.diff(place) - config.stride) <= config.jitter * 2).all()
                assert (np.diff(place) > 0).all()
                assert config.jitter or (np.diff(place) == config.stride).all()


@settings(max_examples=40, deadline=None)
@given(TABLES, CONFIGS, st.integers(1, 5), st.integers(0, 2**31))
def test_ranks_share_one_sequence_from_any_place_on(
    index: IndexTables, config: StreamConfig, ranks: int, place: int
) -> None:
    """The parts of all ranks, put together, are the batches one rank would read."""
    order = EpochOrder(inputs(index, config), 1)
    again = EpochOrder(inputs(index, config), 1)
    if not order.clips:
        return
    number, skip = again.locate(place % order.clips)
    rest = again.batch(number)[skip:]
    clips = np.split(order.sequence(), np.cumsum([s.size for s in map(order.batch, range(len(order)))])[:-1])
    np.testing.assert_array_equal(clips[number][skip * rest.shape[1] :], rest.ravel())
    parts = [again.batch(number)[rank::ranks] for rank in range(ranks)]
    together = np.empty_like(again.batch(number))
    for rank, part in enumerate(parts):
        together[rank::ranks] = part
    np.testing.assert_array_equal(together, order.batch(number))


def test_order_changes_with_seed_epoch_and_content_and_with_nothing_else() -> None:
    index = tables(3, 4, 20)
    config = StreamConfig(lengths=(1, 2, 4), view_ratio=0.5)
    first = EpochOrder(inputs(index, config), 0).sequence()
    np.testing.assert_array_equal(first, EpochOrder(inputs(index, config), 0).sequence())
    others = (
        EpochOrder(inputs(index, config), 1),
        EpochOrder(inputs(index, replace(config, seed=1)), 0),
        EpochOrder(inputs(index, config, digest="another"), 0),
    )
    for other in others:
        assert sorted(other.sequence().tolist()) == sorted(first.tolist())
        assert (other.sequence() != first).mean() > 0.9


def test_order_of_today_is_the_order_of_tomorrow() -> None:
    """Written down once: runs go on after an upgrade. Whoever changes the order raises ORDER_VERSION."""
    order = EpochOrder(inputs(tables(2, 2, 6), StreamConfig(lengths=(1, 2), view_ratio=0.5)), 0)
    assert [order.batch(k).tolist() for k in range(2)] == [[[6, 0], [1, 7]], [[8, 9], [13, 14], [4, 5], [15, 16]]]


@pytest.mark.parametrize("window", [1, 4, 1000])
def test_order_is_not_correlated_with_storage(window: int) -> None:
    """Spearman's coefficient of place in storage and place in the epoch; its deviation by chance is 1 / √N."""
    index = tables(40, 4, 50)
    for lengths in ((1,), (4,), (1, 2, 4)):
        order = EpochOrder(inputs(index, StreamConfig(lengths=lengths, window=window), per_shard=64), 0)
        sequence = order.sequence()
        # Clips of one shard come near each other: there are as many independent places as shards.
        assert abs(rank_correlation(sequence)) < 4 / np.sqrt(125)
        other = EpochOrder(inputs(index, StreamConfig(lengths=lengths, window=window), per_shard=64), 1)
        common = np.intersect1d(sequence, other.sequence())
        place, place_of_other = np.argsort(sequence), np.argsort(other.sequence())
        if len(common) == len(sequence) == len(index):
            assert abs(np.corrcoef(place, place_of_other)[0, 1]) < 4 / np.sqrt(125)


def rank_correlation(sequence: np.ndarray) -> float:
    return float(np.corrcoef(np.arange(len(sequence)), np.argsort(np.argsort(sequence)))[0, 1])


def test_window_mixes_more_and_keeps_more_shards_open() -> None:
    index, per_shard = tables(40, 4, 50), 64
    mixed, spread = [], []
    for window in (1, 4, 16):
        sequence = EpochOrder(inputs(index, StreamConfig(window=window), per_shard=per_shard), 0).sequence()
        shard = sequence // per_shard
        mixed.append(float((shard[1:] == shard[:-1]).mean()))
        visits = [np.flatnonzero(shard == k) for k in range(shard.max() + 1)]
        spread.append(max(int(v.max() - v.min()) for v in visits) / per_shard)
    assert mixed[0] > mixed[1] > mixed[2]
    assert mixed[2] < 0.1  # neighbours of one shard: 1/16 where a window is mixed evenly
    assert spread[0] < spread[1] < spread[2]
    assert all(span <= 2 * window + 2 for span, window in zip(spread, (1, 4, 16), strict=True))  # read, then done with
    stored = EpochOrder(inputs(index, StreamConfig(shuffle=False), per_shard=per_shard), 3).sequence()
    assert stored.tolist() == list(range(len(index)))


def test_window_holds_whole_performances_where_clips_reach_across_them() -> None:
    index, per_shard, window = tables(40, 4, 50), 16, 4
    config = StreamConfig(lengths=(2,), view_ratio=0.5, window=window, frames_per_batch=2)
    sequence = EpochOrder(inputs(index, config, per_shard=per_shard), 0).sequence()
    place = np.argsort(sequence)
    spans = [np.ptp(place[index.subject == subject]) for subject in range(40)]
    assert max(spans) <= (window + 1) * 200 * 1.5  # 200 samples a performance; without units: most of the epoch
    assert len(set(index.subject[sequence[:400]].tolist())) >= window - 1


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_shares_of_kinds_and_lengths(ratio: float, low: float, high: float) -> None:
    index = tables(60, 4, 16)
    order = EpochOrder(inputs(index, StreamConfig(lengths=(2, 4), view_ratio=ratio)), 0)
    batches = [(order.is_views(k), order.batch(k)) for k in range(len(order))]
    frames = sum(b.size for _, b in batches)
    assert low <= sum(b.size for views, b in batches if views) / frames <= high
    assert 0.4 < sum(b.size for _, b in batches if b.shape[1] == 2) / frames < 0.6


def test_what_does_not_fill_a_clip_is_left_out_and_comes_in_other_epochs() -> None:
    index = tables(2, 2, 11)
    config = StreamConfig(lengths=(4,))
    seen = [set(EpochOrder(inputs(index, config), epoch).sequence().tolist()) for epoch in range(40)]
    assert all(len(one) == 4 * 8 for one in seen)  # two clips of four in each run of eleven
    assert set().union(*seen) == set(range(len(index)))


def test_weights_set_how_often_to_within_one() -> None:
    index = tables(4, 2, 25)
    config = StreamConfig(subject_weights={"a": 3.0})
    weight = np.where(index.subject == 0, 3.0, np.where(index.subject == 1, 0.0, 1.0))
    given_weights = replace(inputs(index, config), weight=weight)
    expected = weight * len(index) / weight.sum()
    for epoch in range(5):
        counts = np.bincount(EpochOrder(given_weights, epoch).sequence(), minlength=len(index))
        assert counts.sum() == len(index)
        assert (counts >= np.floor(expected - 1e-9)).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()


def test_filtered_samples_leave_gaps_no_clip_spans() -> None:
    index = tables(1, 1, 12)
    keep = np.ones(12, bool)
    keep[5] = False
    order = EpochOrder(replace(inputs(index, StreamConfig(lengths=(1, 3))), keep=keep), 0)
    sequence = order.sequence()
    assert sorted(sequence.tolist()) == [k for k in range(12) if k != 5]
    for number in range(len(order)):
        assert (np.diff(order.batch(number), axis=1) == 1).all()


def test_jitter_moves_frames_apart_and_back() -> None:
    order = EpochOrder(inputs(tables(4, 1, 60), StreamConfig(lengths=(4,), stride=3, jitter=2)), 0)
    gaps = np.concatenate([np.diff(order.batch(k), axis=1).ravel() for k in range(len(order))])
    assert set(gaps.tolist()) == {1, 2, 3, 4, 5}


def test_drop_last_gives_every_rank_full_batches() -> None:
    index = tables(3, 3, 7)
    order = EpochOrder(inputs(index, StreamConfig(lengths=(1, 2), frames_per_batch=8, drop_last=True)), 0)
    assert {len(order.batch(k)) * order.batch(k).shape[1] for k in range(len(order))} == {8}


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": ()},
        {"jitter": 1},
        {"view_ratio": 1.5},
        {"window": 0},
        {"verdicts": ("fail",)},
        {"subject_weights": {"a": -1.0}},
    ],
)
def test_impossible_choices_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        StreamConfig(**changes)  # type: ignore[arg-type]


def test_nothing_to_stream_is_said() -> None:
    index = tables(1, 1, 3)
    with pytest.raises(InputError, match="no clip of"):
        inputs(index, StreamConfig(lengths=(9,))).check()
    with pytest.raises(InputError, match="filters leave no sample"):
        replace(inputs(index, StreamConfig()), keep=np.zeros(3, bool)).check()
    with pytest.raises(InputError, match="weight 0"):
        replace(inputs(index, StreamConfig()), weight=np.zeros(3)).check()


def test_a_million_samples_are_ordered_at_once() -> None:
    """Resuming needs the order of the epoch: about half a second on a slow core."""
    import time

    index = tables(500, 20, 100)
    given_inputs = inputs(index, StreamConfig(lengths=(1, 2, 4, 8), view_ratio=0.5), per_shard=64)
    started = time.process_time()
    order = EpochOrder(given_inputs, 7)
    assert time.process_time() - started < 3
    number, _ = order.locate(order.clips // 2)
    assert order.batch(number).size
