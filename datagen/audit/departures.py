"""What of a dataset does not follow from its recipe alone: frames with settings of their own, or left out."""

from __future__ import annotations

from datagen.common.documents import parse_json

_NAMED = 5


def departures(recipe: str) -> list[tuple[str, str]]:
    """Return facts for a report: of the frames chosen to try a recipe, and of settings that frames have of their own.

    Parameters
    ----------
    recipe : str
        As a dataset keeps it.
    """
    try:
        content = dict(parse_json(recipe))
    except (ValueError, TypeError):
        return []
    facts = []
    if "partial" in content:
        told = content["partial"]
        facts.append(("partial", f"{told['frames']} of {told['of_frames']} frames, chosen to try the recipe"))
    by_text: dict[str, list[str]] = {}
    for frame, settings in content.get("own_settings", {}).items():
        by_text.setdefault(", ".join(f"{key} {value}" for key, value in settings.items()), []).append(frame)
    for text, frames in by_text.items():
        more = f" and {len(frames) - _NAMED} more" if len(frames) > _NAMED else ""
        facts.append(("own settings", f"{', '.join(frames[:_NAMED])}{more}: {text}"))
    return facts
