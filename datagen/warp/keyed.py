"""A cache for what depends on a prepared template alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

from datagen.warp.template import WarpTemplate

T = TypeVar("T")


class _ByIdentity:
    """A template as a cache key: prepared templates are made once per process."""

    def __init__(self, template: WarpTemplate) -> None:
        self.template = template

    def __hash__(self) -> int:
        return id(self.template)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.template is self.template


def once_per_template(make: Callable[[WarpTemplate], T]) -> Callable[[WarpTemplate], T]:
    """Decorate a function of a prepared template, so that it is computed once for each of the last few templates."""

    @lru_cache(maxsize=4)
    def cached(key: _ByIdentity) -> T:
        return make(key.template)

    @wraps(make)
    def wrapped(template: WarpTemplate) -> T:
        return cached(_ByIdentity(template))

    return wrapped
