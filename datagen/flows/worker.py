"""What a worker process opens once, however many of its threads ask: head models, and the captures of a build."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock

from datagen.common.blas import use_one_blas_thread
from datagen.evidence.look import TextureLook
from datagen.fit.stored import FittedCaptures
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.contents import template_contents
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.render.registry import make_renderer
from datagen.shards.faces import TemplateContents
from datagen.sources.frame import Captures
from datagen.sources.registry import Source
from datagen.warp.template import prepare_template, subdivision_levels

_LOCK = Lock()


@lru_cache(maxsize=4)
def _load(name: str, root: Path | None) -> HeadModel:
    return load_head(name, root)


def shared_head(name: str, root: Path | None) -> HeadModel:
    """Load a head model, or return the one this process has loaded already.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        As :func:`datagen.heads.registry.load_head`.
    """
    use_one_blas_thread()
    with _LOCK:
        return _load(name, root)


def prepared_head(name: str, root: Path | None, subdivisions: int | None) -> HeadModel:
    """As :func:`shared_head`, with the template's regularisers factorised once for all threads."""
    # Before the template is factorised, which is as much a part of every result as the task itself.
    use_one_blas_thread()
    with _LOCK:
        head = _load(name, root)
        prepare_template(head.template, subdivisions)
    return head


@lru_cache(maxsize=4)
def _look(template: HeadTemplate) -> TextureLook:
    # One renderer for all machines, so that all see the same.
    return TextureLook.of(template, make_renderer("numba"))


def texture_look(template: HeadTemplate) -> TextureLook:
    """Return what looks at pictures through a template, prepared once in this process."""
    use_one_blas_thread()
    with _LOCK:
        return _look(template)


@lru_cache(maxsize=4)
def _contents(name: str, root: Path | None, subdivisions: int | None) -> TemplateContents:
    head = _load(name, root)
    return template_contents(head, subdivision_levels(head.template, subdivisions))


def shared_contents(name: str, root: Path | None, subdivisions: int | None) -> TemplateContents:
    """Return what a dataset holds of a head model, made once in this process; raises as :func:`shared_head`."""
    use_one_blas_thread()
    with _LOCK:
        return _contents(name, root, subdivisions)


@lru_cache(maxsize=4)
def open_captures(source: Source, made: Path) -> Captures:
    """Open the captures of a build, which keeps those it makes itself in the folder ``made``.

    Frames are always read from the disk.

    Raises
    ------
    datagen.common.errors.InputError
        If they are missing.
    """
    return source.opened(made)


@lru_cache(maxsize=4)
def fitted_captures(source: Source, layout: BuildLayout, head: str, head_root: Path | None) -> FittedCaptures:
    """Open the captures of a build, those without a surface with the heads that it fitted to their pictures.

    Raises
    ------
    datagen.common.errors.InputError
        As :func:`open_captures`.
    """
    captures = open_captures(source, layout.captures)
    return FittedCaptures(captures, layout.fits, lambda: shared_head(head, head_root).template)
