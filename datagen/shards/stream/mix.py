"""Batches of several datasets, if their canonical coordinates mean the same."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from datagen.common.errors import DatasetError, InputError
from datagen.shards.dataset import Dataset
from datagen.shards.stream.stream import ShardStream, StreamBatch


def check_same_space(datasets: Sequence[Dataset]) -> None:
    """Refuse datasets whose canonical coordinates cannot be compared.

    Raises
    ------
    DatasetError
        Naming two datasets and what differs.
    """
    for other in datasets[1:]:
        one, two = datasets[0].plan.space, other.plan.space
        differing = sorted(key for key in {*one, *two} if one.get(key) != two.get(key))
        if differing:
            told = ", ".join(f"{key} ({one.get(key)!r} and {two.get(key)!r})" for key in differing)
            raise DatasetError(
                f"{datasets[0].url} and {other.url} have different canonical spaces: {told}",
                "datasets whose canonical coordinates mean the same",
                "Build them with the same head model and settings, or use them apart",
            )


class StreamMix:
    """Take batches from several streams in turn, in shares as near to the weights as whole batches allow.

    Each stream runs through its own epochs. The turns are a function of the weights alone, so that all ranks take
    them alike.

    Parameters
    ----------
    weights : sequence of float
        Shares of the batches, above 0; they need not add up to 1.

    Raises
    ------
    DatasetError
        If their canonical spaces differ.
    InputError
        If the weights do not fit the streams.
    """

    def __init__(self, streams: Sequence[ShardStream], weights: Sequence[float]) -> None:
        if not streams or len(weights) != len(streams) or min(weights) <= 0:
            raise InputError(
                f"weights {list(weights)} for {len(streams)} streams", "one weight above 0 for each stream", ""
            )
        check_same_space([stream.dataset for stream in streams])
        self.streams = tuple(streams)
        self._shares = [weight / sum(weights) for weight in weights]
        self._counts = [0] * len(streams)

    def forever(self) -> Generator[tuple[int, StreamBatch], None, None]:
        """Yield the number of a stream and its next batch, without end."""
        sources = [stream.forever() for stream in self.streams]
        try:
            while True:
                turn = self._next_turn()
                batch = next(sources[turn])
                self._counts[turn] += 1
                yield turn, batch
        finally:
            for source in sources:
                with closing(source):
                    pass

    def state_dict(self) -> dict[str, Any]:
        """Return where all streams stand; plain JSON data."""
        return {"counts": list(self._counts), "streams": [stream.state_dict() for stream in self.streams]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a mix of the same streams stood; InputError if it was another mix."""
        counts, states = list(state.get("counts", ())), list(state.get("streams", ()))
        if not len(counts) == len(states) == len(self.streams):
            raise InputError(
                f"the state is of {len(states)} streams", f"of {len(self.streams)}", "Use the same streams"
            )
        for stream, one in zip(self.streams, states, strict=True):
            stream.load_state_dict(one)
        self._counts = [int(count) for count in counts]

    def close(self) -> None:
        """End the workers of all streams."""
        for stream in self.streams:
            stream.close()

    def _next_turn(self) -> int:
        """Return the stream that lags most behind its share."""
        taken = sum(self._counts) + 1
        behind = [share * taken - count for share, count in zip(self._shares, self._counts, strict=True)]
        return behind.index(max(behind))
