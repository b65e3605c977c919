"""Rows and shards of a group that grew in steps, against counting one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datagen.shards.growth import GroupShards


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(1, 7))
def test_every_row_has_a_place_of_its_own_and_no_step_shares_a_shard(counts: list[int], per_shard: int) -> None:
    shards = GroupShards("train", per_shard, tuple(counts))
    places, shard = [], 0
    for count in counts:
        places += [(shard + k // per_shard, k % per_shard) for k in range(count)]
        shard += -(-count // per_shard)
    assert (shards.rows, len(shards)) == (sum(counts), shard)
    rows = np.arange(shards.rows)
    assert [shards.place(int(row)) for row in rows] == places
    assert shards.shard_of(rows).tolist() == [shard for shard, _ in places]
    stored = shards.stored(rows)
    assert stored.tolist() == [shard * per_shard + position for shard, position in places]
    assert shards.stored_rows == (stored[-1] + 1 if len(stored) else 0)
    back = np.full(shards.stored_rows + 2, -1)
    back[stored] = rows
    assert np.array_equal(shards.counted(np.arange(-1, shards.stored_rows + 1)), np.roll(back, 1))
    units = list(shards.units())
    assert [row for unit in units for row in range(unit.start, unit.stop)] == rows.tolist()
    assert [unit.index for unit in units] == list(range(shard))
    assert all(places[row][0] == unit.index for unit in units for row in range(unit.start, unit.stop))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.integers(0, 20), st.integers(1, 7))
def test_a_further_step_moves_nothing(counts: list[int], added: int, per_shard: int) -> None:
    before = GroupShards("train", per_shard, tuple(counts))
    after = GroupShards("train", per_shard, (*counts, added))
    assert list(after.units())[: len(before)] == list(before.units())
    rows = np.arange(before.rows)
    assert np.array_equal(before.stored(rows), after.stored(rows))
