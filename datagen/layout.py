"""Where everything of one build lies on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datagen.sources.frame import SequenceKey
from datagen.warp.storage import PERSON_FOLDER

WARP = "warp.npz"
VERDICT = "verdict.json"
RECORD = "record.json"


@dataclass(frozen=True)
class BuildLayout:
    """The folders and files of one build.

    Attributes
    ----------
    root : Path
        The folder named by ``--out``.
    """

    root: Path

    @property
    def manifest(self) -> Path:
        """The recipe the build follows, every default spelt out."""
        return self.root / "manifest.json"

    @property
    def captures(self) -> Path:
        """Simulated captures, in the layout of the folder source."""
        return self.root / "captures"

    @property
    def truth(self) -> Path:
        """True canonical coordinates of simulated scans; only the audit reads them."""
        return self.root / "truth"

    @property
    def bridges(self) -> Path:
        """One folder per topology of registrations that is not the canonical head's."""
        return self.root / "bridges"

    @property
    def warps(self) -> Path:
        """One folder per frame."""
        return self.root / "warps"

    @property
    def dataset(self) -> Path:
        """The dataset itself."""
        return self.root / "dataset.zarr"

    @property
    def report(self) -> Path:
        """The audit report."""
        return self.root / "report"

    @property
    def lock(self) -> Path:
        """Held by the one build that may write here."""
        return self.root / ".lock"

    @property
    def prefect_home(self) -> Path:
        """What Prefect keeps, so that nothing is left in the user's home."""
        return self.root / ".prefect"

    def sequence_warps(self, key: SequenceKey) -> Path:
        """Folder with the warps of one sequence."""
        return self.warps / key.subject / key.sequence

    def person(self, key: SequenceKey) -> Path:
        """Folder with ``person.npz`` and ``record.json`` of what the frames of one sequence share."""
        return self.sequence_warps(key) / PERSON_FOLDER

    def frame_warp(self, key: SequenceKey, frame: int) -> Path:
        """Folder with ``warp.npz``, ``verdict.json`` and ``record.json`` of one frame."""
        return self.sequence_warps(key) / f"{frame:06d}"
