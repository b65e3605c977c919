"""HTML pages: the one place that makes them, so that whatever a name holds, a page shows it and does not obey it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote


def render_page(package: str, folder: str, template: str, **content: Any) -> bytes:
    """Fill in a template.

    Every value is escaped, whatever the template's file is called. Two filters are for places where that is not enough:
    ``link`` makes the path of a file beside the page the value of ``href`` or ``src``, and ``tojson`` puts data into a
    script element.

    Parameters
    ----------
    package, folder : str
        Where the template lies: an importable package, and a folder in it. Styles and scripts that pages share lie in
        ``datagen/common/page_parts`` and are included by name.

    Returns
    -------
    bytes
        UTF-8; halves of characters, as names of files may have them, are spelt out.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, folder), PackageLoader("datagen.common", "page_parts")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["link"] = _link
    return environment.get_template(template).render(**content).encode("utf-8", "backslashreplace")


def _link(path: str) -> str:
    # A colon would make what stands before it a scheme, such as javascript:.
    return quote(path, safe="/", errors="surrogateescape")
