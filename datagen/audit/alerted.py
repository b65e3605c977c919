"""The frames that alerts name: what a table, a card and the choice of pictures have to know of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datagen.audit.alerts import ORDER, Alert
from datagen.audit.results import SEVERITY, FrameResult

# Alerts of one kind may name every frame: of each, one is pictured.
PICTURED = 6


def alerts_of_frames(alerts: Sequence[Alert]) -> dict[str, list[Alert]]:
    """Return by frame the alerts that name it, in their order."""
    found: dict[str, list[Alert]] = {}
    for alert in alerts:
        for name in alert.frames:
            found.setdefault(name, []).append(alert)
    return found


def first_alerts(alerts: Sequence[Alert], of_frames: Mapping[str, Sequence[Alert]]) -> dict[str, int]:
    """Return by frame the number of the gravest alert that names it; of several, the one that names fewest frames."""
    number = {id(alert): k for k, alert in enumerate(alerts)}
    return {
        name: number[id(min(own, key=lambda a: (ORDER[a.severity], len(a.frames))))] for name, own in of_frames.items()
    }


def alerted_first(ranked: Sequence[FrameResult], of_frames: Mapping[str, Sequence[Alert]]) -> list[FrameResult]:
    """Put, among frames of one verdict, those first that the gravest and most alerts name; else the order stays."""

    def place(result: FrameResult) -> tuple[int, ...]:
        own = [alert.severity for alert in of_frames.get(result.name, ())]
        return SEVERITY.get(result.verdict.status, 0), *(-own.count(severity) for severity in ORDER)

    return sorted(ranked, key=place)


def to_picture(alerts: Sequence[Alert], results: Mapping[str, FrameResult], shown: Sequence[str]) -> list[FrameResult]:
    """Return a frame of each alert that names none of those which are pictured already."""
    chosen: list[FrameResult] = []
    have = set(shown)
    for alert in alerts:
        named = [name for name in alert.frames if name in results and results[name].has_warp]
        if named and have.isdisjoint(named) and len(chosen) < PICTURED:
            chosen.append(results[named[0]])
            have.add(named[0])
    return chosen
