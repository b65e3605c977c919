"""Correspondence error of the warp on simulated captures with known truth.

.venv/bin/python benchmarks/bench_warp.py --subjects 4 --frames 2
.venv/bin/python benchmarks/bench_warp.py --track landmarks --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.heads.regions import FACE_REGIONS, REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import SimulatedSource, WarpConfig
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Frame
from datagen.sources.simulated import plan_sequences, simulate_sequence
from datagen.sources.truth import read_truth
from datagen.warp.engine import warp_frame
from datagen.warp.result import Warp

TRACKS = ("registration", "landmarks")


def captured_frames(subjects: int, frames: int, seed: int) -> Iterator[tuple[Frame, npt.NDArray[np.float32]]]:
    """Simulate captures at the default noise and yield each frame with its truth."""
    config = SimulatedSource(kind="simulated", subjects=subjects, frames=frames, image_size=64)
    with tempfile.TemporaryDirectory() as folder:
        captures, truth = Path(folder) / "captures", Path(folder) / "truth"
        for plan in plan_sequences(config, seed):
            simulate_sequence(plan, captures, truth)
        source = FolderCaptures(captures)
        for info in source.sequences():
            for index in info.frames:
                yield source.frame(info.key, index), read_truth(truth, info.key, index)


def warped(frame: Frame, track: str) -> Warp:
    """Warp a frame from its registration and landmarks, or from its landmarks alone."""
    registration = frame.registration if track == "registration" else None
    return warp_frame(frame.scan, load_head("anny"), WarpConfig(), registration=registration, landmarks=frame.landmarks)


def measure(track: str, frames: list[tuple[Frame, npt.NDArray[np.float32]]]) -> dict[str, float]:
    """Return flat figures of one track, pooled over the face's scan vertices of all frames."""
    errors, regions, residuals, seconds, flips = [], [], [], [], 0.0
    warped(frames[0][0], track)  # the first warp prepares the template
    for frame, truth in frames:
        started = time.monotonic()
        warp = warped(frame, track)
        seconds.append(time.monotonic() - started)
        error = warp.space.distance_mm(warp.canonical, truth)
        known = np.isfinite(error) & mask_of(warp.region, FACE_REGIONS)
        errors.append(error[known])
        regions.append(warp.region[known])
        residuals.append(warp.verdict.figures["residual_median_mm"])
        flips += warp.verdict.figures["flipped_triangles"]
    error, region = np.concatenate(errors), np.concatenate(regions)
    figures = {
        f"{track}_median_mm": float(np.median(error)),
        f"{track}_p95_mm": float(np.percentile(error, 95)),
        f"{track}_residual_mm": float(np.median(residuals)),
        f"{track}_flips_per_frame": flips / len(frames),
        f"{track}_seconds_per_frame": float(np.median(seconds)),
    }
    for name in FACE_REGIONS:
        of_region = error[region == REGIONS[name]]
        figures[f"{track}_{name}_median_mm"] = float(np.median(of_region))
        figures[f"{track}_{name}_p95_mm"] = float(np.percentile(of_region, 95))
    return figures


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--track", choices=TRACKS, action="append")
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    frames = list(captured_frames(arguments.subjects, arguments.frames, arguments.seed))
    figures: dict[str, float] = {"frames": float(len(frames))}
    for track in arguments.track or TRACKS:
        figures |= measure(track, frames)
    if arguments.json:
        print(json.dumps({"figures": figures}, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:<40}{value:10.3f}")


if __name__ == "__main__":
    main()
