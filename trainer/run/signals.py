"""What a run is protected from: signals at a bad moment, and numbers that are none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from datagen.common.errors import InputError
from datagen.shards import Split
from trainer.data import Batch, describe_sample
from trainer.model.joint import Prediction

_NAMED = 8


def not_finite(step: int, batch: Batch, prediction: Prediction, split: Split) -> InputError:
    """Return the error of a loss or gradient that is NaN or infinite, naming the samples it may come from."""
    maps = [batch[name] for name in ("image", "depth", "canonical", "confidence")]
    maps += [prediction.depth_m, prediction.canonical, prediction.depth_confidence, prediction.canonical_confidence]
    finite = torch.stack([m.isfinite().flatten(2).all(-1) for m in maps]).all(0)
    suspects = batch["index"][~finite] if not finite.all() else batch["index"].flatten()
    names = ", ".join(describe_sample(split, int(i)) for i in suspects.flatten()[:_NAMED])
    more = f" and {suspects.numel() - _NAMED} more" if suspects.numel() > _NAMED else ""
    what = "samples with undefined values" if not finite.all() else "its samples, all of them finite,"
    return InputError(
        f"the loss or its gradient is not finite at step {step}; {what} are {names}{more}",
        "finite numbers",
        "Look at these samples, or lower fit.learning_rate; last.pt is from before and the run can go on from it",
    )


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Set an event on SIGTERM or Ctrl-C, once; a second Ctrl-C ends at once."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def handle(number: int, _frame: object) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
