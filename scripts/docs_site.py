"""MkDocs calls this while it builds the site: pages that lie outside of docs/, and lists as GitHub reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Page of the site: the file it is made of.
OUTSIDE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside of docs/."""
    from mkdocs.structure.files import File

    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=moved((ROOT / source).read_text())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Read lists as GitHub does."""
    return with_lists(markdown)


def moved(text: str) -> str:
    """Return a page of the root as one of docs/: with links from there."""
    text = text.replace("](docs/", "](")
    for page, source in OUTSIDE.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text


def with_lists(text: str) -> str:
    """Put an empty line before each list that follows a paragraph at once, outside of code."""
    lines: list[str] = []
    code = False
    for line in text.splitlines():
        code ^= line.startswith("```")
        before = lines[-1] if lines else ""
        begins = _ITEM.match(line) and before and not before[0].isspace() and not _ITEM.match(before)
        if begins and not code:
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"
