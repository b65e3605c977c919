"""Which point of a file is which of iBUG's 68: by the file's own numbers, by its order, or as the user says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import LandmarkError
from datagen.common.names import shown
from datagen.geometry.landmark_formats import MarkedPoints

SIZE = 68
FROM_ONE = "_from_1"
Order = str | tuple[int, ...]

# MediaPipe's annotated points that are by definition the same place as one of iBUG's: corners of eyes and mouth, the
# middle of each lip border, nose tip and base. Those between them are spread by another rule and are left out.
_MEDIAPIPE = {
    **{33: 36, 133: 39, 362: 42, 263: 45, 1: 30, 2: 33},
    **{61: 48, 0: 51, 291: 54, 17: 57, 78: 60, 13: 62, 308: 64, 14: 66},
}
# Index in iBUG's scheme by a point's number in the order.
_ORDERS: dict[str, dict[int, int]] = {
    "ibug68": {k: k for k in range(68)},
    "ibug51": {k: k + 17 for k in range(51)},
    "flame51": {k: k + 17 for k in range(51)},
    "mediapipe478": _MEDIAPIPE,
}
_SIZES = {"ibug68": {68}, "ibug51": {51}, "flame51": {51}, "mediapipe478": {468, 478}}
ORDERS = (*_ORDERS, *(f"{name}{FROM_ONE}" for name in _ORDERS if name != "mediapipe478"))
_FIX = "Name the order: --landmark-order, or `order` of `landmarks` in capture.json; a list such as 36,45,30 says which"


def order_problem(order: Order) -> str | None:
    """Say why an order is none; None if it is one."""
    if isinstance(order, str):
        return None if order in ORDERS else f"one of {', '.join(ORDERS)}, or a list of iBUG's numbers, from 0"
    if not order or len(set(order)) < len(order) or not all(0 <= k < SIZE for k in order):
        return f"numbers of iBUG's points, 0 to {SIZE - 1}, each once"
    return None


def parse_order(text: str) -> Order:
    """Return the order that a command line names: a name, or numbers such as ``36,45,30``.

    Raises
    ------
    LandmarkError
        If it is none.
    """
    numbers = re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", text)
    order: Order = tuple(int(word) for word in text.split(",")) if numbers else text
    problem = order_problem(order)
    if problem is not None:
        raise LandmarkError(f"the landmark order {shown(text)} is not known", problem, "Choose one of them")
    return order


def ibug_indices(marked: MarkedPoints, order: Order | None, path: Path) -> npt.NDArray[np.int64]:
    """Return the index (N,) in iBUG's scheme of each point of a file, -1 for those it has no place for.

    Without an order, points that are called by numbers have these, from 0, and others are known by how many they are.

    Raises
    ------
    LandmarkError
        If that is not known, or there are not as many points as the order has.
    """
    count, labels = len(marked.points), marked.labels
    numbered = labels is not None and all(label.isascii() and label.isdigit() for label in labels)
    if order is None:
        by_count = next((name for name in ("ibug68", "mediapipe478") if count in _SIZES[name]), None)
        order = "ibug68" if numbered else by_count
    if order is None:
        what = f", called {', '.join(labels[:4])}, …" if labels and any(labels) else ""
        raise LandmarkError(
            f"landmark file {path}, {marked.kind}, has {count} points without a number{what}",
            f"an order ({', '.join(ORDERS)}), or as many numbers as points",
            _FIX,
        )
    if not isinstance(order, str):
        if len(order) != count:
            raise LandmarkError(
                f"landmark file {path}, {marked.kind}, has {count} points, but {len(order)} numbers are given",
                "a number for each point, in the file's order",
                _FIX,
            )
        return np.array(order, np.int64)
    name, first = order.removesuffix(FROM_ONE), int(order.endswith(FROM_ONE))
    places = _ORDERS[name]
    if numbered and labels is not None:
        numbers = [int(label) - first for label in labels]
        wrong = [label for label, number in zip(labels, numbers, strict=True) if not 0 <= number < max(_SIZES[name])]
        if wrong:
            raise LandmarkError(
                f"landmark file {path}, {marked.kind}, has a point {wrong[0]}",
                f"numbers from {first} to {max(_SIZES[name]) - 1 + first} of {order}",
                "Check the order: do its numbers count from 0 or from 1?",
            )
    else:
        if count not in _SIZES[name]:
            raise LandmarkError(
                f"landmark file {path}, {marked.kind}, has {count} points",
                f"all {' or '.join(map(str, sorted(_SIZES[name])))} of {name}, in its order",
                _FIX,
            )
        numbers = list(range(count))
    found = np.array([places.get(number, -1) for number in numbers], np.int64)
    used = found[found >= 0]
    if len(np.unique(used)) < len(used):
        raise LandmarkError(f"landmark file {path} names a point twice", "each once", "Remove one")
    return found
