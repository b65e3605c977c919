"""The pictures that the demo's page shows while the rest is being made: each is drawn as soon as it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.audit.samples import resize, samples_picture
from datagen.audit.warp_pictures import canonical_picture, template_picture
from datagen.common.errors import CanonfaceError
from datagen.common.files import make_folders, write_owned_bytes
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.sources.capture_file import CAPTURE_FILE
from datagen.sources.frame import SequenceKey
from datagen.warp.result import WARP_FILE
from datagen.warp.storage import read_warp

FOLDER = "pictures"
TILE_PX = 220
COLUMNS = 5
SAMPLES_PER_SPLIT = 2


def draw_pictures(layout: BuildLayout, manifest: Manifest) -> bool:
    """Draw what can be drawn and is not, or is older than what it shows, into ``pictures/``; return if anything was."""
    drawn = False
    for name, (find, draw) in _DRAWERS.items():
        path = layout.root / FOLDER / name
        try:
            source = find(layout)
            if source is None or (path.is_file() and path.stat().st_mtime >= source.stat().st_mtime):
                continue
            picture = draw(layout, manifest, source)
            if picture is not None:
                make_folders(path.parent)
                write_owned_bytes(path, pictures.png_bytes(picture))
                drawn = True
        except (CanonfaceError, OSError):
            # What it is drawn from is not whole yet, or never will be, which the step that needs it says.
            continue
    return drawn


def _cameras(layout: BuildLayout, manifest: Manifest, source: Path) -> Picture | None:
    """The first frame of the first person there is, from every camera."""
    captures = manifest.source.captures(layout.captures)
    key = SequenceKey(source.parent.parent.name, source.parent.name)
    first = next(sequence for sequence in captures.sequences() if sequence.key == key)
    images = captures.frame(key, first.frames[0]).images
    return pictures.contact_sheet([(name, resize(read(), TILE_PX)) for name, read in images.items()], COLUMNS)


def _template(layout: BuildLayout, manifest: Manifest, source: Path) -> Picture | None:
    """The head that all are registered to."""
    del layout, source
    return template_picture(load_head(manifest.canonical.head, manifest.head_root).template)


def _warp(layout: BuildLayout, manifest: Manifest, source: Path) -> Picture | None:
    """A registered scan beside the template."""
    del layout
    return canonical_picture(read_warp(source.parent), load_head(manifest.canonical.head, manifest.head_root).template)


def _samples(layout: BuildLayout, manifest: Manifest, source: Path) -> Picture | None:
    """Some samples of every split."""
    del manifest, source
    return samples_picture(layout.dataset, SAMPLES_PER_SPLIT)


def _first(paths: Iterable[Path]) -> Path | None:
    return min(paths, default=None)


Find = Callable[[BuildLayout], Path | None]
Draw = Callable[[BuildLayout, Manifest, Path], Picture | None]
# Each picture's file, and what it is drawn from: nothing is there to be shown before that.
_DRAWERS: dict[str, tuple[Find, Draw]] = {
    "template.png": (lambda layout: _first([layout.manifest]), _template),
    "cameras.png": (lambda layout: _first(layout.captures.glob(f"*/*/{CAPTURE_FILE}")), _cameras),
    "warp.png": (lambda layout: _first(layout.warps.glob(f"*/*/*/{WARP_FILE}")), _warp),
    "samples.png": (lambda layout: _first(layout.dataset.glob("zarr.json")), _samples),
}
