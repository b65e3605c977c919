"""Make the film of tracks of the README: skin points followed by the warps of a build, drawn on one camera's pictures.

    datagen build manifests/demo.yaml --out runs/film --set source.subjects=1 --set source.frames=36 \\
        --set source.cameras=8 --set source.image_size=448 --set warp.share_identity=true \\
        --set render.resolution=448 --set splits.val=0
    python scripts/film.py runs/film --camera cam03 --out docs/images/tracks.webp

A point is followed by its place on the registered template alone; nothing is smoothed over time, and nothing of the
simulation's truth is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from datagen.audit.pictures import canonical_colours, render_values
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.warp.storage import read_warp

POINTS = 90
TRAIL = 12  # frames
NEAR_M = 2e-3  # how far behind the nearest surface a point may lie and still be seen


def main() -> None:
    """Read the command line and write the film."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--camera", default="cam03")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fps", type=float, default=12.0)
    given = parser.parse_args()
    layout = BuildLayout(given.build)
    recipe = layout.read_manifest()
    captures = recipe.source.captures(layout.captures)
    first = captures.sequences()[0]
    template = load_head(recipe.canonical.head, recipe.head_root).template
    chosen = spread_out(template.vertices, mask_of(template.regions, FACE_REGIONS), POINTS)
    # Red, green and blue by canonical coordinate, as in every picture of the project.
    colours = [
        tuple(c) for c in (canonical_colours(template.space.normalise(template.vertices[chosen])) * 255).astype(int)
    ]
    pictures, tracks, seen = [], [], []
    for index in first.frames:
        frame = captures.frame(first.key, index)
        (camera,) = (c for c in frame.cameras if c.name == given.camera)
        warp = read_warp(layout.frame_warp(first.key, index))
        pixels, depth = camera.project(warp.registered_vertices[chosen])
        surface = render_values(warp.registered_vertices, warp.registered_faces, warp.registered_vertices, camera)
        pictures.append(frame.images[given.camera]())
        tracks.append(pixels)
        seen.append(depth - nearest(surface.depth, 2 * pixels) < NEAR_M)
    frames = [
        drawn(picture, np.array(tracks[max(0, k - TRAIL) : k + 1]), seen[k], colours)
        for k, picture in enumerate(pictures)
    ]
    # Forwards and backwards, so that it has no jump.
    frames += frames[-2:0:-1]
    duration_ms = round(1000 / given.fps)
    frames[0].save(
        given.out, save_all=True, append_images=frames[1:], duration=duration_ms, loop=0, quality=60, method=6
    )


def nearest(image: npt.NDArray[np.floating], pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.floating]:
    """Return an image (H, W) at the pixels (N, 2) it holds; infinity outside."""
    x, y = np.floor(pixels).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    values = np.full(len(pixels), -np.inf)
    values[inside] = image[y[inside], x[inside]]
    return values


def drawn(
    picture: npt.NDArray[np.uint8],
    trail: npt.NDArray[np.float64],
    seen: npt.NDArray[np.bool_],
    colours: Sequence[tuple[int, ...]],
) -> Image.Image:
    """Return a picture with each point that is seen, and where it was in the frames before, (T, N, 2) pixels."""
    image = Image.fromarray(picture).resize((2 * picture.shape[1], 2 * picture.shape[0]), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(image)
    for k in np.flatnonzero(seen).tolist():
        path = [tuple(2 * p) for p in trail[:, k]]
        if len(path) > 1:
            pen.line(path, fill=colours[k], width=3)
        x, y = path[-1]
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colours[k], outline=(255, 255, 255))
    return image.resize((picture.shape[1], picture.shape[0]), Image.Resampling.LANCZOS)


def spread_out(points: npt.NDArray[np.float64], allowed: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.int64]:
    """Return the indices of ``count`` allowed points (N, 3), each as far as can be from those before it."""
    candidates = np.flatnonzero(allowed)
    chosen = [int(candidates[np.argmax(points[candidates, 2])])]
    distance = np.full(len(candidates), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.linalg.norm(points[candidates] - points[chosen[-1]], axis=1))
        chosen.append(int(candidates[np.argmax(distance)]))
    return np.array(chosen)


if __name__ == "__main__":
    main()
