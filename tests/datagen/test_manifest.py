"""Manifests: what is accepted, how mistakes are named, and the digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datagen.common.errors import ManifestError
from datagen.manifest import Manifest, load_manifest, parse_manifest
from datagen.sources.registry import FolderSource, SimulatedSource
from tests.support.places import ROOT

MANIFESTS = ROOT / "manifests"
MINIMAL = {"name": "t", "source": {"kind": "simulated"}}


def save(folder: Path, text: str) -> Path:
    path = folder / "m.yaml"
    path.write_text(text)
    return path


def test_every_recipe_of_the_repository_is_valid():
    recipes = sorted(MANIFESTS.glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert load_manifest(path).name


def test_recipes_leave_the_limits_of_verdicts_to_the_program():
    """They are measured; a copy in a recipe that people copy would stay what it was."""
    for path in sorted(MANIFESTS.glob("*.yaml")):
        assert "verdict" not in (yaml.safe_load(path.read_text()).get("warp") or {}), path.name


def test_defaults_are_spelt_out_and_read_again():
    manifest = parse_manifest(MINIMAL)
    assert isinstance(manifest.source, SimulatedSource)
    again = Manifest.model_validate_json(manifest.text())
    assert again == manifest
    assert again.digest == manifest.digest


def test_the_digest_sees_values_and_not_the_order_of_keys():
    a = parse_manifest({"name": "t", "seed": 3, "source": {"kind": "simulated", "subjects": 2, "frames": 4}})
    b = parse_manifest({"source": {"frames": 4, "subjects": 2, "kind": "simulated"}, "seed": 3, "name": "t"})
    c = parse_manifest({"source": {"frames": 5, "subjects": 2, "kind": "simulated"}, "seed": 3, "name": "t"})
    assert a.digest == b.digest != c.digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**MINIMAL, "rendr": {}}, ("unknown key rendr", "did you mean render?")),
        ({"name": "t", "source": {"kind": "simulated", "subject": 2}}, ("source.subject", "did you mean subjects?")),
        ({**MINIMAL, "render": {"resolutoin": 504}}, ("render.resolutoin", "did you mean resolution?")),
        ({**MINIMAL, "seed": "many"}, ("seed", "integer", "'many'")),
        ({**MINIMAL, "render": {"resolution": 500}}, ("render.resolution", "multiple of 14", "500")),
        ({**MINIMAL, "render": {"backend": "opengl"}}, ("render.backend", "numba", "'opengl'")),
        ({"name": "t", "source": {"kind": "simulated", "subjects": 0}}, ("source.subjects", "0")),
        ({"name": "t", "source": {"kind": "folder"}}, ("source.root is missing",)),
        ({"name": "t", "source": {"kind": "video"}}, ("source", "video")),
        ({"name": "a/b", "source": {"kind": "simulated"}}, ("name", "a/b")),
        ({"source": {"kind": "simulated"}}, ("name is missing",)),
        # Counts that no machine can hold would otherwise be planned until memory or patience runs out.
        ({"name": "t", "source": {"kind": "simulated", "subjects": 10**12}}, ("source.subjects", "100000")),
        ({"name": "t", "source": {"kind": "simulated", "image_size": 10**8}}, ("source.image_size", "8192")),
        ({**MINIMAL, "warp": {"max_distance_mm": float("inf")}}, ("warp.max_distance_mm", "finite")),
    ],
)
def test_a_mistake_is_named_with_its_place(content: dict[str, object], words: tuple[str, ...]):
    with pytest.raises(ManifestError) as caught:
        parse_manifest(content, "m.yaml")
    message = str(caught.value)
    assert all(word in message for word in ("m.yaml", "datagen schema", *words)), message


def test_a_key_in_the_wrong_section_is_not_its_own_advice():
    with pytest.raises(ManifestError) as caught:
        parse_manifest({"name": "t", "source": {"kind": "folder", "root": "/data", "frames": 2}})
    assert "unknown key source.frames" in str(caught.value)
    assert "did you mean frames?" not in str(caught.value)


def test_a_huge_wrong_value_is_quoted_in_short():
    with pytest.raises(ManifestError) as caught:
        parse_manifest({**MINIMAL, "seed": ["x" * 1000] * 1000})
    assert "seed" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ManifestError) as caught:
        parse_manifest({**MINIMAL, "sed": 1, "warp": {"subdivisions": 9}})
    assert "sed" in str(caught.value)
    assert "warp.subdivisions" in str(caught.value)


def test_overrides_replace_and_add_values_as_yaml(tmp_path: Path):
    path = save(tmp_path, yaml.safe_dump(MINIMAL))
    manifest = load_manifest(path, ["source.subjects=3", "warp.use_registration=false", "splits.val=[a, b]"])
    assert isinstance(manifest.source, SimulatedSource)
    assert manifest.source.subjects == 3
    assert manifest.warp.use_registration is False
    assert manifest.splits.val == ("a", "b")


def test_an_override_may_change_the_kind_of_source(tmp_path: Path):
    path = save(tmp_path, yaml.safe_dump(MINIMAL))
    source = load_manifest(path, ["source.kind=folder", "source.root=/data"]).source
    assert source == FolderSource(kind="folder", root=Path("/data"))


@pytest.mark.parametrize("override", ["source.subjects", "=3", "name.first=3", "seed=[1", "source.subjcts=3"])
def test_a_bad_override_is_named(tmp_path: Path, override: str):
    path = save(tmp_path, yaml.safe_dump(MINIMAL))
    with pytest.raises(ManifestError) as caught:
        load_manifest(path, [override])
    assert override.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b", "3", "a: [", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str):
    path = save(tmp_path, text)
    with pytest.raises(ManifestError, match=r"m\.yaml"):
        load_manifest(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ManifestError, match="does not exist"):
        load_manifest(tmp_path / "none.yaml")


def test_a_manifest_does_not_change_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        parse_manifest(MINIMAL).seed = 3


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"pass_residual_mm": 3.0}, "fail_residual_mm 2 is below pass_residual_mm 3"),
        ({"fail_confidence": 0.5}, "fail_confidence 0.5 is above pass_confidence 0.42"),
        ({"pass_coverage": 0.2}, "fail_coverage 0.35 is above pass_coverage 0.2"),
        ({"fail_landmark_rms_mm": 1.0}, "fail_landmark_rms_mm 1 is below pass_landmark_rms_mm 4"),
        ({"least_head_size": 1.2}, "least_head_size 1.2 is above most_head_size 1.18"),
        ({"pass_coverage": 1.1}, "less than or equal to 1"),
    ],
)
def test_limits_of_the_verdict_out_of_order_are_refused(limits: dict[str, float], said: str) -> None:
    with pytest.raises(ManifestError, match=r"warp\.verdict") as caught:
        parse_manifest({"name": "x", "source": {"kind": "simulated"}, "warp": {"verdict": limits}})
    assert said in str(caught.value)


def test_limits_at_their_old_place_are_refused_with_the_new_one() -> None:
    with pytest.raises(ManifestError, match=r"warp: fail_residual_mm moved to verdict\.fail_residual_mm"):
        parse_manifest({"name": "x", "source": {"kind": "simulated"}, "warp": {"fail_residual_mm": 2.0}})
