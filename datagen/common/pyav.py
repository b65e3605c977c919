"""PyAV, the optional package behind videos and deep pictures."""

from __future__ import annotations

from typing import Any

from datagen.common.errors import DependencyError


def import_av(instead: str = "give images and `--without videos`") -> Any:
    """Return PyAV.

    Parameters
    ----------
    instead : str
        What can be done without it.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    try:
        import av
    except ImportError:
        raise DependencyError(
            "videos need PyAV, which is not installed",
            "the extra `video`",
            f"Install it with `pip install 'canonface[video]'`, or {instead}",
        ) from None
    return av


def have_video() -> bool:
    """Say whether videos can be read and written."""
    from importlib.util import find_spec

    return find_spec("av") is not None
