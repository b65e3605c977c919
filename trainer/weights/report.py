"""What became of every weight of a checkpoint and of every weight of the network."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 6


@dataclass
class WeightsReport:
    """Filled by :func:`trainer.weights.load.load_weights`.

    Attributes
    ----------
    source, layout : str
    matched : list of str
        Weights of the network that were filled as they were found.
    converted : list of str
        Weights that were filled after a change, which is named: interpolated positions, rescaled depth.
    fresh : list of str
        Weights of the network that this kind of checkpoint does not have; they keep their random start.
    missing : list of str
        Weights of the network that this kind of checkpoint should fill and does not.
    mismatched : list of str
        Weights of another shape, with both shapes.
    left_over : list of str
        Weights of the checkpoint without a place in the network as configured.
    unused : list of str
        Weights of the checkpoint that are known to have no place here.
    """

    source: str
    layout: str
    matched: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything that should fit did."""
        return not (self.missing or self.mismatched or self.left_over)

    def text(self) -> str:
        """One line for each kind that occurs."""
        kinds = {
            "matched": f"{len(self.matched)}",
            "converted": _some(self.converted),
            "kept at their random start": _some(_groups(self.fresh)),
            "missing": _some(self.missing),
            "of another shape": _some(self.mismatched),
            "left over": _some(self.left_over),
            "known and not used": _some(_groups(self.unused)),
        }
        lines = [f"  {kind}: {what}" for kind, what in kinds.items() if what]
        return "\n".join([f"weights of {self.source} ({self.layout})", *lines])

    def problems(self) -> str:
        """What does not fit, in one sentence."""
        kinds = {"missing": self.missing, "of another shape": self.mismatched, "left over": self.left_over}
        return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"


def _groups(names: list[str]) -> list[str]:
    """The first two parts of the names, each once, in order."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
