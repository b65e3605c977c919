"""Where everything of one build lies on disk, and the recipe it was made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.names import MOST_DIGITS, name_problem
from datagen.manifest import Manifest, load_manifest, parse_manifest
from datagen.shards.dataset import DATASET_FOLDER
from datagen.sources.frame import SequenceKey
from datagen.sources.registry import RecordedSource
from datagen.sources.whereabouts import url_of
from datagen.warp.result import VERDICT_FILE

# Beside every result that may be trusted: what it was made of. What else a result's folder holds is named by
# datagen.warp.result.
RECORD = "record.json"
BRIDGE_PICTURE = "bridge.png"
# Beside the frames of its sequence, which are numbers.
PERSON_FOLDER = "person"
_FRAME_FOLDER = re.compile(rf"[0-9]{{6,{MOST_DIGITS}}}")


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
    def inputs(self) -> Path:
        """Copies of captures that lie in an object store, by bucket and prefix."""
        return self.root / "inputs"

    @property
    def truth(self) -> Path:
        """True canonical coordinates of simulated scans; only the audit reads them."""
        return self.root / "truth"

    @property
    def bridges(self) -> Path:
        """One folder per topology of registrations that is not the canonical head's."""
        return self.root / "bridges"

    @property
    def fits(self) -> Path:
        """Heads fitted to pictures: one folder per sequence without a surface."""
        return self.root / "fits"

    @property
    def warps(self) -> Path:
        """One folder per frame."""
        return self.root / "warps"

    @property
    def dataset(self) -> Path:
        """The dataset itself."""
        return self.root / DATASET_FOLDER

    @property
    def report(self) -> Path:
        """The audit report."""
        return self.root / "report"

    @property
    def report_page(self) -> Path:
        """The report's page; the folder has it as soon as it is there."""
        return self.report / "index.html"

    @property
    def report_summary(self) -> Path:
        """The metrics of the report, for other programs."""
        return self.report / "summary.json"

    @property
    def report_numbers(self) -> Path:
        """All that the report's page says, frame by frame, for other programs."""
        return self.report / "report.json"

    @property
    def report_key(self) -> Path:
        """What the report describes, as a content key."""
        return self.report / "report.key"

    @property
    def history(self) -> Path:
        """What each run of the build added to the dataset, and the split of every subject."""
        return self.root / "history.json"

    @property
    def own_settings(self) -> Path:
        """Settings of their own that frames were given, line by line."""
        return self.root / "own-settings.jsonl"

    @property
    def quarantine(self) -> Path:
        """One file for each unit that was given up."""
        return self.root / "quarantine"

    @property
    def run(self) -> Path:
        """Names the run that works here now; workers elsewhere look at it before every unit."""
        return self.root / ".run"

    @property
    def plan(self) -> Path:
        """What the tasks of a build refer to, and what is known of files that were looked at."""
        return self.root / "plan"

    @property
    def leases(self) -> Path:
        """Who works here at the moment: one file for a build, or for each part of a stage."""
        return self.root / ".leases"

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

    def fit(self, key: SequenceKey) -> Path:
        """Folder with the fit of one sequence, and ``record.json``."""
        return self.fits / key.subject / key.sequence

    def person(self, key: SequenceKey) -> Path:
        """Folder with ``person.npz`` and ``record.json`` of what the frames of one sequence share."""
        return self.sequence_warps(key) / PERSON_FOLDER

    def frame_warp(self, key: SequenceKey, frame: int) -> Path:
        """Folder with ``warp.npz``, ``verdict.json`` and ``record.json`` of one frame."""
        return self.sequence_warps(key) / self.frame_name(frame)

    @staticmethod
    def frame_name(frame: int) -> str:
        """Name of the folder of a frame among those of its sequence."""
        return f"{frame:06d}"

    def own_names(self) -> set[str]:
        """Names of all that a build may have in its folder."""
        paths = (getattr(self, name) for name, value in vars(BuildLayout).items() if isinstance(value, property))
        return {path.relative_to(self.root).parts[0] for path in paths}

    def verdicts(self) -> Iterator[tuple[SequenceKey, int, Path]]:
        """Every frame with a verdict, and its folder; ordered by subject, sequence, frame."""
        found = []
        for path in self.warps.glob(f"*/*/*/{VERDICT_FILE}"):
            folder = path.parent
            names = folder.parent.parent.name, folder.parent.name
            if _FRAME_FOLDER.fullmatch(folder.name) and not any(map(name_problem, names)):
                # By number: of names with six digits and more, 1000000 would come before 999999.
                found.append((*names, int(folder.name), folder))
        for subject, sequence, frame, folder in sorted(found):
            yield SequenceKey(subject, sequence), frame, folder

    def manifest_content(self) -> dict[str, Any]:
        """Read the recipe as plain data, whatever version of this program wrote it.

        Raises
        ------
        InputError
            If this is not a build folder.
        """
        try:
            content = read_json(self.manifest)
            reason = "" if isinstance(content, dict) else f"holds a {type(content).__name__}"
        except (OSError, ValueError) as error:
            content, reason = None, str(error)
        if not isinstance(content, dict):
            raise InputError(
                f"{self.root} is not a build folder ({self.manifest.name}: {reason})",
                "the --out of `datagen build`",
                "Check the path",
            )
        return content

    def read_manifest(self) -> Manifest:
        """Read the recipe, captures of an object store where they are copied to.

        Raises
        ------
        InputError
            If this is not a build folder.
        ManifestError
            If the recipe is of another version.
        """
        return self.local(parse_manifest(self.manifest_content(), str(self.manifest)))

    def local(self, manifest: Manifest) -> Manifest:
        """Return a recipe with the folder here that captures of an object store are copied to; any other as it is."""
        source = manifest.source
        url = url_of(source.root) if isinstance(source, RecordedSource) else ""
        return _with_root(manifest, self.inputs / url.partition("://")[2]) if url else manifest

    def told(self, manifest: Manifest) -> Manifest:
        """Return the recipe that :meth:`local` made another of, as it is written down."""
        source = manifest.source
        if not isinstance(source, RecordedSource) or not source.root.is_relative_to(self.inputs):
            return manifest
        return _with_root(manifest, Path(f"s3://{source.root.relative_to(self.inputs).as_posix()}"))


def load_recipe(path: Path, overrides: Iterable[str], out: Path) -> Manifest:
    """Read the recipe of a build in ``out``, as :func:`datagen.manifest.load_manifest`.

    Where it is the one that the build folder has, captures of an object store are those that were copied: jobs of the
    build need not reach the store, and find nothing new in it.
    """
    layout, recipe = BuildLayout(out.resolve()), load_manifest(path, overrides)
    return layout.local(recipe) if path.resolve() == layout.manifest else recipe


def _with_root(manifest: Manifest, root: Path) -> Manifest:
    return manifest.model_copy(update={"source": manifest.source.model_copy(update={"root": root})})
