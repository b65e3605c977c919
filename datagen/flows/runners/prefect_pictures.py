"""Pictures of the worst warps as Markdown for Prefect's pages: small ones, within the text, for they see no files."""

from __future__ import annotations

import base64
import io

from datagen.common.documents import read_json
from datagen.layout import BuildLayout

# A picture takes some 40 KiB in Prefect's database.
MOST_PICTURES = 4
WIDTH_PX = 720
JPEG_QUALITY = 80


def worst_pictures(layout: BuildLayout) -> str:
    """Return what the report drew of the worst frames of a build, the worst first: scans coloured by their distance.

    Returns
    -------
    str
        Markdown with a few pictures as ``data:`` addresses; empty if there are none.

    Raises
    ------
    Exception
        If what the report left cannot be read.
    """
    from PIL import Image

    told = read_json(layout.report_numbers)
    verdicts = dict(zip(told["frames"]["name"], told["frames"]["verdict"], strict=True))
    parts = []
    for name, number in told.get("pictured", [])[:MOST_PICTURES]:
        with Image.open(layout.report / "pictures" / str(int(number)) / "residual.png") as picture:
            small = picture.convert("RGB")
            small.thumbnail((WIDTH_PX, WIDTH_PX))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=JPEG_QUALITY)
        address = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        parts.append(f"`{name}`: {verdicts[name]}\n\n![distance of the scan to the registered template]({address})\n")
    return "\n".join(parts)
