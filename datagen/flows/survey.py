"""What of a build is already on disk."""

from __future__ import annotations

from collections.abc import Callable

from datagen.common.errors import InputError
from datagen.flows.planning import BuildPlan
from datagen.flows.stages.bridge import bridge_of, plan_bridges
from datagen.flows.stages.person import StoredPerson, finished_person, plan_persons
from datagen.flows.stages.warp import FrameKeys, frame_state
from datagen.heads.base import HeadModel
from datagen.layout import BuildLayout
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey


def is_warped(plan: BuildPlan, layout: BuildLayout, load_head: Callable[[], HeadModel]) -> bool:
    """Whether every frame has a verdict that still holds for its input, the settings and the template.

    Parameters
    ----------
    plan : BuildPlan
    layout : BuildLayout
    load_head : callable
        Loads the canonical head; called only if a first look says that it may be worth it.
    """
    if not all(layout.frame_warp(s.key, frame).is_dir() for s in plan.sequences for frame in s.frames):
        return False
    try:
        source = FolderCaptures(layout.captures_of(plan.manifest))
    except InputError:
        return False
    template = load_head().template
    bridges = plan_bridges(plan, layout)
    if not all(bridge.stored.finished for bridge in bridges.values()):
        return False
    persons: dict[SequenceKey, StoredPerson | None] = {}
    for task in plan_persons(plan, layout, bridges):
        finished, persons[task.sequence.key] = finished_person(task, source, template)
        if not finished:
            return False
    keys = {
        s.key: FrameKeys(plan.manifest, template.digest, bridge_of(bridges, s.registration), persons.get(s.key))
        for s in plan.sequences
    }
    return all(
        frame_state(layout.frame_warp(s.key, frame), source, s.key, frame, keys[s.key])[0] is not None
        for s in plan.sequences
        for frame in s.frames
    )
