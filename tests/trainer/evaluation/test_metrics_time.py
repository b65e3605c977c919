"""Tracks, jitter, the screen-space motion error, and which frames are looked at together."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.evaluation.frames import LONGEST_RUN, SampleTable, instants_of_views, pairs_of_subjects, runs_of_frames
from trainer.evaluation.tracking import MAX_WINDOW, MotionErrors, TrackingErrors, jitter, track_errors

NAN = float("nan")


def test_average_and_survival_of_tracks() -> None:
    errors = np.array(
        [
            [1.0, 1.0, NAN, 2.0],
            [1.0, 9.0, NAN, NAN],  # the second is lost here
            [1.0, 1.0, NAN, np.inf],  # and stays lost; the fourth has no answer
            [1.0, 1.0, NAN, 2.0],
        ]
    )
    mean, survival = track_errors(errors[:, :2], lost_px=5)
    assert mean == pytest.approx((4 * 1 + 3 * 1 + 9) / 8)
    assert survival == pytest.approx((1 + 1 / 4) / 2)
    assert track_errors(errors, 5)[1] == pytest.approx((1 + 1 / 4 + 1 / 3) / 3)  # never seen: no track
    assert np.isnan(track_errors(errors[:, 2:3], 5)).all()


def test_jitter_is_what_differs_from_the_true_acceleration() -> None:
    t = np.arange(6.0)
    true = np.stack([t**2, 3 * t], -1)[:, None]  # one point that accelerates
    seen = np.ones((6, 1), bool)
    assert jitter(true + np.array([2.0, -1.0]), true, seen).max() == pytest.approx(0)  # off, but steady
    assert jitter(true + t[:, None, None] * 0.5, true, seen).max() == pytest.approx(0)  # drifting, but steady
    shake = np.where(t % 2 == 0, 0.1, -0.1)[:, None, None] * [1.0, 0.0]
    np.testing.assert_allclose(jitter(true + shake, true, seen), 0.4)
    assert len(jitter(true + shake, true, seen)) == 4
    seen[2] = False
    assert len(jitter(true + shake, true, seen)) == 1  # only frames 3, 4, 5 are three in a row


def test_figures_of_tracks_that_are_off_by_three_and_four() -> None:
    collected = TrackingErrors(side_px=100)
    true = np.zeros((4, 5, 2))
    found = true + np.array([3.0, 4.0])
    found[0] = 0
    visible = np.ones((4, 5), bool)
    collected.add(found, true, visible, np.full((3, 5), 7.0))
    collected.add(found, true, np.zeros((4, 5), bool), np.full((3, 5), NAN))  # nothing visible: says nothing
    figures = collected.metrics()
    assert figures["tracking_mean_px"] == pytest.approx(5)
    assert figures["tracking_mean_mm"] == pytest.approx(7)
    assert figures["tracking_survival"] == 1  # 5 px are 5 % of 100, not more
    assert figures["tracking_jitter_px"] == pytest.approx(5 / 2)  # the jump at the start, in one of two triples
    assert np.isnan(TrackingErrors(100).metrics()["tracking_mean_px"])


def test_motion_error_averages_over_frames_then_windows() -> None:
    collected = MotionErrors(("face", "nose"))
    every = {"face": np.ones(8, bool), "nose": np.arange(8) < 4}
    errors = np.full(8, 2.0)
    errors[:4] = 1.0
    collected.add(1, errors, every)
    collected.add(1, errors + 2, every)  # another start frame
    hidden = np.where(np.arange(8) < 2, NAN, 6.0)
    collected.add(3, hidden, every)  # two of the nose's points are left: too few to speak for it
    collected.add(MAX_WINDOW + 1, errors, every)  # beyond the protocol
    np.testing.assert_allclose(collected.curve("face")[[0, 2]], [(1.5 + 3.5) / 2, 6])
    assert np.isnan(collected.curve("face")[[1, *range(3, MAX_WINDOW)]]).all()
    figures = collected.metrics()
    assert figures["ssme_face_px"] == pytest.approx((2.5 + 6) / 2)
    assert figures["ssme_nose_px"] == pytest.approx((1 + 3) / 2)
    assert figures["ssme_face_h1_px"] == pytest.approx(2.5)
    assert figures["ssme_windows"] == 2


def table(subjects: int, cameras: int, frames: list[int]) -> SampleTable:
    grid = np.array([(s, 0, c, f) for s in range(subjects) for c in range(cameras) for f in frames])
    return SampleTable(*grid.T)


def test_runs_hold_every_sample_once_and_break_at_gaps() -> None:
    samples = table(2, 3, [0, 2, 4, 10, 12])
    runs = runs_of_frames(samples)
    assert sorted(np.concatenate(runs).tolist()) == list(range(30))
    for run in runs:
        assert len({(samples.subject[i], samples.camera[i]) for i in run.tolist()}) == 1
        assert (np.diff(samples.frame[run]) == 2).all()
    assert {len(run) for run in runs} == {3, 2}
    long = runs_of_frames(table(1, 1, list(range(100))))
    assert [len(run) for run in long] == [LONGEST_RUN, LONGEST_RUN, 100 - 2 * LONGEST_RUN]
    assert LONGEST_RUN > MAX_WINDOW
    few = runs_of_frames(samples, limit=8)
    assert 0 < sum(len(run) for run in few) <= 12
    assert runs_of_frames(samples, limit=1)[0].size == 1
    assert runs_of_frames(SampleTable(*np.zeros((4, 0), int))) == []


def test_instants_are_seen_by_several_cameras() -> None:
    samples = table(2, 4, [0, 1, 2])
    groups = instants_of_views(samples, 3, 4, np.random.default_rng(0))
    assert len(groups) == 4
    for group in groups:
        assert len(group) == len(set(samples.camera[group].tolist())) == 3
        assert len(set(zip(samples.subject[group].tolist(), samples.frame[group].tolist(), strict=True))) == 1
    assert instants_of_views(table(2, 1, [0, 1]), 3, 4, np.random.default_rng(0)) == []
    again = instants_of_views(samples, 3, 4, np.random.default_rng(0))
    assert [g.tolist() for g in again] == [g.tolist() for g in groups]


def test_pairs_are_of_two_people_before_one_camera() -> None:
    samples = table(3, 2, [0, 1])
    pairs = pairs_of_subjects(samples, 20, np.random.default_rng(0))
    assert len(pairs) == 20
    for a, b in pairs:
        assert samples.subject[a] != samples.subject[b]
        assert samples.camera[a] == samples.camera[b]
    assert pairs_of_subjects(table(1, 2, [0, 1]), 20, np.random.default_rng(0)) == []
