"""The order of the tests' files: the longest first, so that the workers of a run end at about the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Files of about ten seconds of one core and more, roughly the longest first. The first makes the build that many share,
# and compiles its kernels; those after it need neither. Together with ``--no-loadscope-reorder``, without which
# pytest-xdist begins with the files of the most tests, and they are not the longest.
LONGEST = (
    "tests/test_breaker.py",
    "tests/trainer/test_fit.py",
    "tests/trainer/weights/test_export.py",
    "tests/trainer/test_optimiser.py",
    "tests/trainer/test_overfit.py",
    "tests/datagen/flows/test_person.py",
    "tests/datagen/flows/test_quarantine.py",
    "tests/datagen/flows/test_runners.py",
    "tests/datagen/flows/test_diagnosis.py",
    "tests/datagen/warp/test_bridge.py",
    "tests/datagen/flows/test_demo.py",
    "tests/datagen/flows/test_hosts.py",
    "tests/datagen/flows/test_build.py",
    "tests/datagen/warp/test_warp_bad_input.py",
    "tests/datagen/warp/test_face_search.py",
    "tests/datagen/shards/test_durable.py",
    "tests/datagen/flows/test_drive.py",
    "tests/benchmarks/test_warp.py",
    "tests/datagen/warp/test_truth.py",
    "tests/test_ownership.py",
    "tests/test_docs_site.py",
    "tests/trainer/avatar/test_avatar.py",
    "tests/trainer/prediction/test_predict.py",
    "tests/trainer/prediction/test_predict_matching.py",
    "tests/datagen/commands/test_cli.py",
    "tests/datagen/common/test_compiled.py",
    "tests/benchmarks/test_train.py",
    "tests/datagen/warp/test_transport.py",
    "tests/test_command_lines.py",
    "tests/datagen/warp/test_fold_repair.py",
    "tests/datagen/audit/test_audit.py",
    "tests/datagen/warp/test_head_size.py",
    "tests/test_wheel.py",
)


def longest_first(items: list[Any], longest: Sequence[str] = LONGEST) -> None:
    """Sort collected tests in place by their files; the others follow in the order they came in."""
    rank = {name: place for place, name in enumerate(longest)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))
