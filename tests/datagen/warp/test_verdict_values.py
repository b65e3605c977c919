"""Every metric of a warp between perfect and hopeless, and every limit of the verdict from just below and above."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from datagen.heads.regions import FACE_REGIONS, REGIONS
from datagen.manifest import VerdictLimits
from datagen.warp.surface import SurfacePoints
from datagen.warp.template import WarpTemplate
from datagen.warp.transport import Transported
from datagen.warp.verdict import face_confidence, head_size, judge, measure, registration_shift_mm
from tests.support.round_head import prepared

CONFIG = VerdictLimits(pass_residual_mm=0.8, fail_residual_mm=2.5)
# What a metric may be for a pass and for more than a fail, and which side of that is worse.
LIMITS = {
    "residual_median_mm": (0.8, 2.5, 1),
    "residual_p95_mm": (3.0, 6.0, 1),
    "face_confidence": (0.42, 0.15, -1),
    "face_coverage": (0.7, 0.35, -1),
    "flipped_fraction": (0.002, 0.02, 1),
    "crossing_fraction": (0.002, 0.02, 1),
    "lip_overlap_mm": (2.0, np.inf, 1),
    "registration_shift_mm": (4.0, 25.0, 1),
    "landmark_rms_mm": (4.0, 12.0, 1),
}
GOOD = {
    "residual_median_mm": 0.1,
    "residual_p95_mm": 0.3,
    "face_confidence": 0.6,
    "face_coverage": 0.9,
    "flipped_fraction": 0.0,
    "crossing_fraction": 0.0,
    "lip_overlap_mm": 0.0,
    "registration_shift_mm": 0.5,
    "landmark_rms_mm": 1.0,
}


@pytest.fixture(scope="module")
def template() -> WarpTemplate:
    """With every region of the face somewhere on it."""
    plain = prepared(3)
    regions = plain.regions.copy()
    skin = np.flatnonzero(plain.regions != REGIONS["left_eyeball"])
    height = np.argsort(np.argsort(plain.canonical_m[skin, 1] + 0.3 * plain.canonical_m[skin, 0]))
    front = plain.canonical_m[skin, 2] > 0
    names = ("chin", "lower_lip", "upper_lip", "cheeks", "nose", "left_eye", "right_eye", "brows", "forehead")
    regions[skin] = np.where(front, np.array([REGIONS[n] for n in names])[height * 9 // len(skin)], REGIONS["scalp"])
    return dataclasses.replace(plain, regions=regions)


def transported(offset_m: np.ndarray, region: np.ndarray, matched: np.ndarray) -> Transported:
    n = len(offset_m)
    feet = SurfacePoints(np.zeros((n, 3)), np.zeros((n, 3)), np.zeros(n, np.int64), np.zeros((n, 3)), np.zeros(n, bool))
    return Transported(np.zeros((n, 3)), region, feet, offset_m, np.zeros(n), np.ones(n), matched)


def scan_points() -> tuple[Transported, np.ndarray]:
    """Heights of both signs; those far off are not matched, or not on the face."""
    rng = np.random.default_rng(1)
    region = rng.choice([REGIONS["cheeks"], REGIONS["chin"], REGIONS["scalp"], REGIONS["neck"], 14], 400).astype(
        np.uint8
    )
    on_face = (region == REGIONS["cheeks"]) | (region == REGIONS["chin"])
    matched = rng.uniform(size=400) < 0.8
    offset = rng.normal(-0.4e-3, 0.3e-3, 400)
    offset[~on_face] = -0.004
    offset[~matched] = 0.007
    return transported(offset, region, matched), offset[on_face & matched]


def test_residuals_count_on_both_sides_of_the_surface_and_on_the_matched_face_alone(template: WarpTemplate) -> None:
    carried, offset = scan_points()
    metrics = measure(template, template.canonical_m, np.ones(len(template.canonical_m)), carried)
    height = np.sort(np.sqrt((offset * 1000) ** 2))
    n = len(height)
    assert (offset < 0).mean() > 0.7
    assert metrics["residual_median_mm"] == pytest.approx((height[(n - 1) // 2] + height[n // 2]) / 2)
    low = int(0.95 * (n - 1))
    assert metrics["residual_p95_mm"] == pytest.approx(
        height[low] + (0.95 * (n - 1) - low) * (height[low + 1] - height[low])
    )
    assert metrics["face_vertices"] == n
    assert metrics["scan_vertices"] == 400
    assert metrics["matched_fraction"] == pytest.approx(carried.matched.sum() / 400)


def test_without_a_point_on_the_face_the_residual_is_infinite(template: WarpTemplate) -> None:
    scalp = transported(np.zeros(5), np.full(5, REGIONS["scalp"], np.uint8), np.ones(5, bool))
    metrics = measure(template, template.canonical_m, np.ones(len(template.canonical_m)), scalp)
    assert metrics["residual_median_mm"] == metrics["residual_p95_mm"] == np.inf
    assert judge(metrics, CONFIG).status == "fail"


@pytest.mark.parametrize("seed", [0, 1])
def test_coverage_is_held_area_over_area_for_each_part_of_the_face(template: WarpTemplate, seed: int) -> None:
    """With holes that are larger on one side, against a loop over triangles."""
    rng = np.random.default_rng(seed)
    anchored = rng.uniform(0.05, 0.3, len(template.canonical_m))
    anchored[template.canonical_m[:, 0] > 0.01 + 0.02 * seed] *= 0.5
    carried, _ = scan_points()
    metrics = measure(template, template.canonical_m, anchored, carried)

    face_labels = {REGIONS[name] for name in FACE_REGIONS}
    held: dict[str, float] = {}
    whole: dict[str, float] = {}
    for triangle in template.faces:
        labels = sorted(int(label) for label in template.regions[triangle])
        if not set(labels) <= face_labels:
            continue
        a, b, c = template.canonical_m[triangle]
        area = np.linalg.norm(np.cross(b - a, c - a)) / 2
        name = next(key for key, label in REGIONS.items() if label == labels[1])
        if name == "cheeks":
            name = "left_cheek" if (a + b + c)[0] > 0 else "right_cheek"
        for part in (name, "all"):
            whole[part] = whole.get(part, 0.0) + area
            held[part] = held.get(part, 0.0) + area * sum(anchored[v] > 0.1 for v in triangle) / 3
    assert metrics["face_coverage"] == pytest.approx(held["all"] / whole["all"])
    found = {name.removeprefix("coverage_"): value for name, value in metrics.items() if name.startswith("coverage_")}
    assert found == pytest.approx({name: held[name] / whole[name] for name in whole if name != "all"})
    assert len(found) == len(FACE_REGIONS) + 1
    assert found["left_cheek"] < 0.95 * found["right_cheek"]


def test_the_confidence_is_the_mean_over_the_matched_face() -> None:
    carried, _ = scan_points()
    stated = np.linspace(0, 1, 400)
    on_face = np.isin(carried.region, [REGIONS["cheeks"], REGIONS["chin"]]) & carried.matched
    assert face_confidence(carried, stated) == pytest.approx(stated[on_face].sum() / on_face.sum())
    nowhere = transported(np.zeros(5), np.full(5, REGIONS["scalp"], np.uint8), np.ones(5, bool))
    assert face_confidence(nowhere, np.ones(5)) == 0.0


def test_every_limit_is_the_users() -> None:
    """Each metric between its default limits is a review; with the limits moved beyond it, a pass; or a fail."""
    keys = {
        "residual_median_mm": "residual_mm",
        "face_confidence": "confidence",
        "face_coverage": "coverage",
        "flipped_fraction": "flipped",
        "crossing_fraction": "crossing",
        "registration_shift_mm": "shift_mm",
    }
    for name, (passing, failing, _) in LIMITS.items():
        key = keys.get(name, name)
        value = (passing + failing) / 2 if np.isfinite(failing) else passing + 1
        amiss = {**GOOD, name: value}
        assert judge(amiss, CONFIG).status == "review", name
        assert judge(amiss, CONFIG.model_copy(update={f"pass_{key}": value})).status == "pass", name
        if np.isfinite(failing):
            assert judge(amiss, CONFIG.model_copy(update={f"fail_{key}": passing})).status == "fail", name
    sizes = VerdictLimits(least_head_size=0.5, most_head_size=0.6)
    assert [judge({**GOOD, "head_size": s}, sizes).status for s in (0.49, 0.55, 0.61)] == ["review", "pass", "review"]
    bare = VerdictLimits(least_region_coverage=0.3)
    assert [judge({**GOOD, "coverage_chin": c}, bare).status for c in (0.29, 0.3)] == ["review", "pass"]


def test_flips_are_counted_on_the_face_alone_and_against_all_of_its_triangles(template: WarpTemplate) -> None:
    carried, _ = scan_points()
    face = np.isin(template.regions, [REGIONS[n] for n in FACE_REGIONS])[template.faces].all(axis=1)
    scalp = (template.regions == REGIONS["scalp"])[template.faces].all(axis=1)
    folded = template.canonical_m.copy()
    counts = []
    for group in (np.flatnonzero(face)[[5, 60]], np.flatnonzero(scalp)[[3]]):
        for triangle in template.faces[group]:
            a, b, c = folded[triangle]
            # One corner is drawn over the opposite edge.
            folded[triangle[0]] = a + 1.4 * ((b + c) / 2 - a)
        metrics = measure(template, folded, np.ones(len(folded)), carried)
        counts.append(metrics["flipped_triangles"])
        assert metrics["flipped_fraction"] == pytest.approx(counts[-1] / face.sum())
    assert 2 <= counts[0] < 20
    assert counts[1] == counts[0]


def test_the_shift_is_the_median_over_the_face_in_millimetres(template: WarpTemplate) -> None:
    V = len(template.head.vertices)
    face = np.isin(template.regions, [REGIONS[n] for n in FACE_REGIONS])
    rng = np.random.default_rng(0)
    distance = np.where(face, rng.uniform(1e-3, 9e-3, len(face)), 0.05)
    direction = rng.normal(size=(len(face), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    start = template.head.vertices + rng.normal(0, 0.002, (V, 3))
    registered = template.subdivide @ start + distance[:, None] * direction
    assert registration_shift_mm(template, registered, start) == pytest.approx(1000 * np.median(distance[face]))


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_of_the_verdict_holds_to_the_last_digit(name: str) -> None:
    passing, failing, sign = LIMITS[name]

    def status(value: float) -> str:
        return judge({**GOOD, name: value}, CONFIG).status

    assert judge(GOOD, CONFIG).status == "pass"
    worse = sign * 1e-9
    assert status(passing) == "pass"
    assert status(passing + worse) == "review"
    if np.isfinite(failing):
        assert status(failing) == "review"
        assert status(failing - worse) == "review"
        assert status(failing + worse) == "fail"
    else:
        assert status(1e6) == "review"


@pytest.mark.parametrize("name", LIMITS)
def test_the_reason_names_the_metric_and_the_limit(name: str) -> None:
    passing, failing, sign = LIMITS[name]
    (reason,) = judge({**GOOD, name: passing + sign * 0.001}, CONFIG).reasons
    word = "above" if sign > 0 else "below"
    assert f"{passing + sign * 0.001:.3g}" in reason
    assert reason.endswith(f"{word} the review limit of {passing:g}")
    if np.isfinite(failing):
        (reason,) = judge({**GOOD, name: failing + sign * 0.01}, CONFIG).reasons
        assert reason.endswith(f"{word} the fail limit of {failing:g}")
    without = {key: value for key, value in GOOD.items() if key != name}
    assert judge(without, CONFIG).status == "pass"


def test_the_worst_metric_decides_and_each_has_its_sentence() -> None:
    verdict = judge({**GOOD, "landmark_rms_mm": 13.0, "residual_median_mm": 0.9}, CONFIG)
    assert verdict.status == "fail"
    assert len(verdict.reasons) == 2
    assert verdict.metrics["landmark_rms_mm"] == 13.0


@pytest.mark.parametrize(("size", "status"), [(0.8699, "review"), (0.87, "pass"), (1.18, "pass"), (1.181, "review")])
def test_a_head_of_another_size_than_people_have_asks_for_a_review_with_the_figure(size: float, status: str) -> None:
    verdict = judge({**GOOD, "head_size": size}, CONFIG)
    assert verdict.status == status
    assert (f"{size:.2f} times the template's size (adults: 0.87 to 1.18" in "".join(verdict.reasons)) == (
        status == "review"
    )


@given(
    scale=st.floats(0.5, 2.0),
    turn=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    unseen=st.sampled_from(["none", "half", "all"]),
)
@settings(max_examples=20, deadline=None)
def test_the_size_is_that_of_the_seen_face_wherever_the_head_stands(
    template: WarpTemplate, scale: float, turn: list[float], unseen: str
) -> None:
    face = np.flatnonzero(np.isin(template.regions, [REGIONS[n] for n in FACE_REGIONS]))
    registered = scale * template.canonical_m @ Rotation.from_rotvec(turn).as_matrix().T + turn
    anchored = np.ones(len(registered))
    anchored[{"none": face[:0], "half": face[::2], "all": face}[unseen]] = 0
    if unseen == "half":
        # Only guessed, and wrongly; as are scalp and neck.
        registered[anchored == 0] *= 1.3
    registered[np.setdiff1d(np.arange(len(registered)), face)] *= 1.1
    assert head_size(template, registered, anchored) == pytest.approx(scale)


def test_a_landmark_far_off_is_named_where_something_is_amiss() -> None:
    amiss = {**GOOD, "landmark_rms_mm": 13.0, "landmark_worst": 17.0, "landmark_worst_mm": 55.2}
    assert "landmark 17 is farthest off, 55 mm" in judge(amiss, CONFIG).reasons[1]
    assert judge({**GOOD, "landmark_worst": 17.0, "landmark_worst_mm": 55.2}, CONFIG).reasons == ()


@pytest.mark.parametrize(("coverage", "status"), [(0.05, "pass"), (0.0499, "review"), (0.0, "review")])
def test_a_bare_region_asks_for_a_review(coverage: float, status: str) -> None:
    verdict = judge({**GOOD, "coverage_left_cheek": coverage, "coverage_chin": 0.6}, CONFIG)
    assert verdict.status == status
    assert verdict.reasons == ((("there is no scan data at: left cheek"),) if status == "review" else ())
    failed = judge({**GOOD, "coverage_chin": 0.0, "face_coverage": 0.2}, CONFIG)
    assert failed.status == "fail"


def test_a_frame_without_its_person_says_so_and_passes() -> None:
    alone = judge({**GOOD, "person_used": 0.0}, CONFIG)
    assert alone.status == "pass"
    assert "sequence's person" in alone.reasons[0]
    assert judge({**GOOD, "person_used": 1.0}, CONFIG).reasons == ()


def test_turned_faces_are_noted_and_judge_nothing() -> None:
    verdict = judge({**GOOD, "faces_turned": 1.0}, CONFIG)
    assert verdict.status == "pass"
    assert "point inwards" in verdict.reasons[0]
