"""The pictures that the demo's page shows while the rest is being made: each is drawn once, as soon as it can be."""

from __future__ import annotations

from collections.abc import Callable

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.audit.samples import resize, samples_picture
from datagen.audit.warp_pictures import canonical_picture, template_picture
from datagen.common.errors import CanonfaceError
from datagen.common.files import make_folders, write_owned_bytes
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.warp.result import WARP_FILE
from datagen.warp.storage import read_warp

FOLDER = "pictures"
TILE_PX = 220
COLUMNS = 5
SAMPLES_PER_SPLIT = 2


def draw_pictures(layout: BuildLayout, manifest: Manifest) -> bool:
    """Draw what is not drawn yet and can be, into ``pictures/`` of the demo's folder; return if anything was."""
    drawn = False
    for name, draw in _DRAWERS.items():
        path = layout.root / FOLDER / name
        if path.is_file():
            continue
        try:
            picture = draw(layout, manifest)
            if picture is not None:
                make_folders(path.parent)
                write_owned_bytes(path, pictures.png_bytes(picture))
                drawn = True
        except CanonfaceError:
            # What it is drawn from is not whole yet, or never will be, which the step that needs it says.
            continue
    return drawn


def _cameras(layout: BuildLayout, manifest: Manifest) -> Picture | None:
    """The first frame of the first person there is, from every camera."""
    if not layout.captures.is_dir():
        return None
    captures = manifest.source.captures(layout.captures)
    sequences = captures.sequences()
    if not sequences:
        return None
    images = captures.frame(sequences[0].key, sequences[0].frames[0]).images
    return pictures.contact_sheet([(name, resize(read(), TILE_PX)) for name, read in images.items()], COLUMNS)


def _template(layout: BuildLayout, manifest: Manifest) -> Picture | None:
    """The head that all are registered to."""
    del layout
    return template_picture(load_head(manifest.canonical.head, manifest.head_root).template)


def _warp(layout: BuildLayout, manifest: Manifest) -> Picture | None:
    """A registered scan beside the template."""
    first = next((folder for _, _, folder in layout.verdicts() if (folder / WARP_FILE).is_file()), None)
    if first is None:
        return None
    return canonical_picture(read_warp(first), load_head(manifest.canonical.head, manifest.head_root).template)


def _samples(layout: BuildLayout, manifest: Manifest) -> Picture | None:
    """Some samples of every split."""
    del manifest
    return samples_picture(layout.dataset, SAMPLES_PER_SPLIT) if layout.dataset.is_dir() else None


_DRAWERS: dict[str, Callable[[BuildLayout, Manifest], Picture | None]] = {
    "template.png": _template,
    "cameras.png": _cameras,
    "warp.png": _warp,
    "samples.png": _samples,
}
