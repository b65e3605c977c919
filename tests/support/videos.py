"""Small videos whose frames are known again by their brightness."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

MS = Fraction(1, 1000)


def shade(k: int) -> int:
    """Return the brightness of frame ``k``: neighbours differ by more than any codec loses."""
    return 25 + 12 * ((7 * k) % 17)


def write_video(
    path: Path,
    times_ms: Sequence[int],
    pictures: Sequence[np.ndarray] | None = None,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    gop: int = 12,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """Write pictures (H, W, 3) uint8, or flat ones of growing :func:`shade`, at these times."""
    import av

    how: dict[str, Any] = {} if options is None else {"options": options}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, **how)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = MS
        stream.codec_context.gop_size = gop
        for k, time_ms in enumerate(times_ms):
            flat = np.full((size[1], size[0], 3), shade(k), np.uint8)
            picture = av.VideoFrame.from_ndarray(flat if pictures is None else pictures[k], format="rgb24")
            picture.pts, picture.time_base = time_ms, MS
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
