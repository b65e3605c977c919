"""Sources of captures by kind: a new one is a file of this folder that reads them, and an entry of :data:`SOURCES`.

An entry is the section that a recipe has for the source. It says what is known of the captures before anything heavy
is loaded, and where the code is that reads them: ``module:name``, imported when they are opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_serializer

from datagen.common.errors import ManifestError
from datagen.common.settings import Name, Section
from datagen.heads.registry import HEADS
from datagen.sources.whereabouts import refuse_url, url_of

if TYPE_CHECKING:
    from datagen.sources.frame import Captures, SequenceInfo

    SimulatedHeadName = str
else:
    # Names of the registry as a type; type checkers cannot read a dictionary.
    SimulatedHeadName = Literal[tuple(name for name, entry in HEADS.items() if entry.simulated)]


class SelectConfig(Section):
    """Which frames of each sequence are taken: those that differ most."""

    count: int = Field(
        ge=1, le=1_000_000, description="frames of a sequence; a shorter one is taken whole", examples=[48]
    )
    by: tuple[Literal["expression", "pose"], ...] = Field(
        ("expression", "pose"),
        min_length=1,
        description="what they differ in, told by registrations or landmarks",
    )


class Source(Section, ABC):
    """What a recipe says of its captures, and what a build asks of any kind of them.

    Attributes
    ----------
    identity : tuple of str
        Keys of the manifest, beside the source's kind and root, of which another value makes another dataset.
    """

    kind: str
    identity: ClassVar[tuple[str, ...]] = ()

    @property
    def simulated_head(self) -> str | None:
        """Head model the captures are simulated with, in whose space their truth is; None for all that are not."""
        return None

    @property
    @abstractmethod
    def origin(self) -> dict[str, str]:
        """Name and licence, as the dataset states them."""

    def canonical_root(self, named: Path | None) -> Path | None:
        """Folder with the canonical head model's files, where its own setting names this one or none."""
        return named

    def registration_root(self, canonical: Path | None) -> Path | None:
        """Folder with the files of the head model that registrations are in; ``canonical`` has the canonical one's."""
        return canonical

    @abstractmethod
    def sequences(self, seed: int) -> Sequence[SequenceInfo]:
        """List the captures there are, or will be once they are simulated with the recipe's seed.

        Raises
        ------
        datagen.common.errors.CanonfaceError
            If there are none, or they cannot be read.
        """

    def chosen(
        self, sequences: Sequence[SequenceInfo], frozen: Mapping[str, tuple[int, ...]]
    ) -> Sequence[SequenceInfo]:
        """Return sequences with the frames that the recipe takes: all, where it says nothing.

        Parameters
        ----------
        frozen : mapping of ``subject/sequence`` to frames
            What an earlier run of the build chose.
        """
        del frozen
        return sequences

    @property
    def selection(self) -> str:
        """How frames are chosen, in a line; empty if all are taken."""
        return ""

    @abstractmethod
    def captures(self, made: Path) -> Captures:
        """Open the captures; those that a build makes itself are in the folder ``made``.

        Raises
        ------
        datagen.common.errors.InputError
            If they are missing.
        """

    def opened(self, made: Path) -> Captures:
        """As :meth:`captures`, for those who ask for sequences by their names: where it can be helped, none is listed.

        Raises
        ------
        datagen.common.errors.InputError
            If the folder is missing.
        """
        return self.captures(made)


class SimulatedSource(Source):
    """Captures made on the spot, with known truth."""

    kind: Literal["simulated"]
    head: SimulatedHeadName = Field("anny", description="head model the subjects are drawn from")
    people: Literal["model", "real"] = Field(
        "model",
        description="shapes and expressions of the head model, or of people that it cannot represent: the typical real "
        "face, components of scanned people and what these lack, and expressions of their own (head anny)",
    )
    motion: Literal["procedural", "arkit"] = Field(
        "procedural", description="smooth random expressions, or the recorded ARKit motion under `root`"
    )
    root: Path | None = Field(
        None, description="folder with `ict_facekit/` and `arkit_motion/`, for those who use them"
    )
    subjects: int = Field(8, ge=1, le=100_000, description="people")
    take: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="which recording of these people: another one has another motion, light, backdrop and cameras",
    )
    frames: int = Field(8, ge=1, le=100_000, description="frames per sequence")
    fps: float = Field(12.0, gt=0, description="frames per second")
    cameras: int = Field(8, ge=1, le=1000, description="cameras around the head")
    image_size: int = Field(384, ge=32, le=8192, description="pixels a side of the simulated sensor")
    scan_vertices: int = Field(
        25_000, ge=500, le=10_000_000, description="points of a scan, about; stray pieces come on top"
    )
    scan_noise_mm: float = Field(0.1, ge=0, description="standard deviation of the scan's noise along its normal")
    registration_error_mm: float = Field(2.0, ge=0, description="RMS of the smooth error of the supplied registration")
    landmark_noise_mm: float = Field(0.5, ge=0, description="standard deviation of the supplied landmarks")
    identity: ClassVar[tuple[str, ...]] = ("source.head", "seed")

    @property
    def simulated_head(self) -> str:
        """The model the subjects are drawn from."""
        return self.head

    @property
    def origin(self) -> dict[str, str]:
        """Name and licence, which are the head model's."""
        return {"name": f"simulated {self.head}", "licence": HEADS[self.head].licence}

    def canonical_root(self, named: Path | None) -> Path | None:
        """The folder named, or else that of the simulation."""
        return named or self.root

    def registration_root(self, canonical: Path | None) -> Path | None:
        """The simulation's folder."""
        del canonical
        return self.root

    def sequences(self, seed: int) -> Sequence[SequenceInfo]:
        """Plan them."""
        return [plan.info for plan in resolve_name("datagen.simulation.plan:plan_sequences")(self, seed)]

    def captures(self, made: Path) -> Captures:
        """Open those that were simulated; they are in the folder layout."""
        return FolderSource(kind="folder", root=made).captures(made)

    def opened(self, made: Path) -> Captures:
        """Open those that were simulated, without a list."""
        return FolderSource(kind="folder", root=made).opened(made)


class RecordedSource(Source):
    """Captures under a folder, of any layout.

    Attributes
    ----------
    reader : str
        Where the class is that reads them, a :class:`datagen.sources.frame.Captures`. It is called with ``root``; a
        source whose reader takes more has a :meth:`captures` of its own.
    licence : str
        Of the captures, as datasets made from them state it.
    name : str
        What datasets call the captures.
    """

    name: Name = Field("captures", description="what datasets call these captures among their sources")

    root: Path = Field(
        description="folder that holds <subject>/<sequence>/, or s3://bucket/prefix, which a build makes a copy of",
        examples=["captures"],
    )
    head_root: Path | None = Field(
        None, description="folder with the files of the head model the registrations are in, where it is not embedded"
    )
    select: SelectConfig | None = Field(None, description="frames to take, where not all of a sequence are")
    scale: Literal["given", "landmarks"] = Field(
        "given",
        description="landmarks: the unit is not known, and each sequence's scale is found from its landmarks and the "
        "size of adults' faces",
    )
    reader: ClassVar[str]
    licence: ClassVar[str]

    @field_serializer("root", when_used="json")
    def _root_text(self, root: Path) -> str:
        # A path has lost one slash of a URL.
        return url_of(root) or str(root)

    @property
    def origin(self) -> dict[str, str]:
        """Name and licence. Nothing of the folder: the same captures give the same dataset wherever they lie."""
        return {"name": f"{self.kind} {self.name}", "licence": self.licence}

    def registration_root(self, canonical: Path | None) -> Path | None:
        """The source's own folder of them, or else the canonical head's."""
        return self.head_root or canonical

    def sequences(self, seed: int) -> Sequence[SequenceInfo]:
        """List what is under the folder."""
        del seed
        if not self.root.is_dir():
            refuse_url(self.root)
            raise ManifestError(
                f"source.root {self.root} is not a folder",
                "the folder that holds <subject>/<sequence>/",
                "Correct the manifest or pass --set source.root=FOLDER",
            )
        return self.captures(self.root).sequences()

    def chosen(
        self, sequences: Sequence[SequenceInfo], frozen: Mapping[str, tuple[int, ...]]
    ) -> Sequence[SequenceInfo]:
        """Return sequences with the frames that differ most, each chosen by itself.

        Raises
        ------
        datagen.common.errors.InputError
            If nothing tells the frames of one apart.
        """
        if self.select is None:
            return sequences
        pick, captures = resolve_name("datagen.sources.selection:selected"), self.captures(self.root)
        return [pick(captures, info, self.select, frozen) for info in sequences]

    @property
    def selection(self) -> str:
        """How many frames, and by what."""
        if self.select is None:
            return ""
        return f"up to {self.select.count} frames of each sequence, by {' and '.join(self.select.by)}"

    def captures(self, made: Path) -> Captures:
        """Open what is under the folder."""
        del made
        return self._scaled(resolve_name(self.reader)(self.root))

    def _scaled(self, captures: Captures) -> Captures:
        if self.scale == "given":
            return captures
        scaled: Captures = resolve_name("datagen.sources.scale:ScaledCaptures")(captures)
        return scaled


class FolderSource(RecordedSource):
    """Captures in the layout of docs/capture-format.md."""

    kind: Literal["folder"]
    reader: ClassVar[str] = "datagen.sources.folder:FolderCaptures"
    licence: ClassVar[str] = "as agreed with the owner of the captures"

    @property
    def origin(self) -> dict[str, str]:
        """Name and licence; those that captures state themselves, and what they ask to be cited."""
        terms: dict[str, str] = resolve_name("datagen.sources.terms:stated_terms")(self.root, self.licence)
        return {**super().origin, **terms}

    def captures(self, made: Path) -> Captures:
        """Open what is under the folder."""
        del made
        return self._read(listed=True)

    def opened(self, made: Path) -> Captures:
        """Open what is under the folder, without a list."""
        del made
        return self._read(listed=False)

    def _read(self, *, listed: bool) -> Captures:
        unscaled = self.scale != "given"
        reader = resolve_name(self.reader)
        return self._scaled(reader(self.root, head_root=self.head_root, unscaled=unscaled, listed=listed))


SOURCES: dict[str, type[Source]] = {"simulated": SimulatedSource, "folder": FolderSource}
