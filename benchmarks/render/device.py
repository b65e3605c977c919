"""How fast a GPU backend is when its maps stay on the device, and what share of the memory's speed that is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Protocol, runtime_checkable

from datagen.geometry.camera import Camera
from datagen.render.contract import SurfaceAttributes

# Read and written once in each direction; far larger than any cache.
COPIED_BYTES = 2**30


@runtime_checkable
class DeviceRenderer(Protocol):
    """A renderer that can leave its maps where they were made: nvwarp, and those built on it."""

    device: str

    def render_on_device(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> Iterator[Any]:
        """Yield the maps of some views at a time."""
        ...


def device_figures(
    renderer: DeviceRenderer,
    surfaces: Sequence[SurfaceAttributes],
    cameras: Sequence[Camera],
    repeats: int,
    copied_bytes: int = COPIED_BYTES,
) -> dict[str, float]:
    """Render without bringing the maps to the host, and compare with plain copies on the device.

    The mesh is sent to the device anew for every head and round, as a build does.

    Parameters
    ----------
    renderer : DeviceRenderer
    surfaces : sequence of SurfaceAttributes
    cameras : sequence of Camera
    repeats : int
    copied_bytes : int
        Size of the arrays the memory's speed is measured with.

    Returns
    -------
    dict
        ``device_views_per_s``; ``device_maps_gb_per_s``, the bytes of finished maps per second;
        ``device_copy_gb_per_s``, bytes read and written by a copy per second; ``bandwidth_share``, their ratio. The
        share counts only what must be written, so it is a lower bound of the traffic.
    """
    import warp as wp

    seconds = []
    written = 0
    for repeat in range(repeats + 1):
        for surface in surfaces:
            wp.synchronize_device(renderer.device)
            started = time.perf_counter()
            written = 0
            for chunk in renderer.render_on_device(surface, cameras):
                written += sum(bytes_of(array) for array in chunk.arrays.values())
            wp.synchronize_device(renderer.device)
            # The first round compiles and makes room.
            if repeat:
                seconds.append(time.perf_counter() - started)
    took = median(seconds)
    copy_gb_per_s = _copy_gb_per_s(renderer.device, repeats, copied_bytes)
    return {
        "device_views_per_s": len(cameras) / took,
        "device_maps_gb_per_s": written / took / 1e9,
        "device_copy_gb_per_s": copy_gb_per_s,
        "bandwidth_share": written / took / 1e9 / copy_gb_per_s,
    }


def bytes_of(array: Any) -> int:
    """Return the size of a Warp array, bytes."""
    import warp as wp

    return int(array.size) * int(wp.types.type_size_in_bytes(array.dtype))


def _copy_gb_per_s(device: str, repeats: int, copied_bytes: int) -> float:
    import warp as wp

    source, target = (wp.zeros(copied_bytes // 8, dtype=wp.float64, device=device) for _ in range(2))
    wp.copy(target, source)
    seconds = []
    for _ in range(repeats):
        wp.synchronize_device(device)
        started = time.perf_counter()
        wp.copy(target, source)
        wp.synchronize_device(device)
        seconds.append(time.perf_counter() - started)
    return 2 * bytes_of(source) / median(seconds) / 1e9
