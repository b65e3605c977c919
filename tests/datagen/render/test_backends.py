"""Choosing a backend."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from datagen.common.errors import CanonfaceError, DependencyError, InputError
from datagen.render import registry
from datagen.render.registry import RENDERERS, check_backend, make_renderer, resolve_backend


def test_names():
    assert make_renderer("numba").name == "numba"
    assert make_renderer("open3d").name == "open3d"


def test_auto_takes_a_gpu_only_where_there_is_one():
    if find_spec("warp") is None:
        assert make_renderer().name == "numba"
        return
    import warp

    fast = "nvdiffrast" if find_spec("nvdiffrast") else "nvwarp"
    assert make_renderer().name == (fast if warp.is_cuda_available() else "numba")


@pytest.mark.parametrize(
    ("driver", "nvdiffrast", "nvwarp", "expected"),
    [
        (True, True, True, "nvdiffrast"),
        (True, False, True, "nvwarp"),
        (True, False, False, "numba"),
        (False, True, True, "numba"),
    ],
)
def test_auto_is_the_best_that_works_here(
    driver: bool, nvdiffrast: bool, nvwarp: bool, expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "_has_cuda_driver", lambda: driver)
    monkeypatch.setattr(registry, "_nvdiffrast_ready", lambda: nvdiffrast)
    monkeypatch.setattr(registry, "_warp_cuda_ready", lambda: nvwarp)
    assert resolve_backend("auto") == expected
    assert [resolve_backend(name) for name in RENDERERS] == list(RENDERERS)


def test_what_cannot_work_here_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch):
    check_backend("numba")
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    check_backend("numba")
    for name in ("nvwarp", "nvdiffrast"):
        with pytest.raises(DependencyError, match=f"the {name} backend was asked for"):
            check_backend(name)


@pytest.mark.skipif(find_spec("warp") is None, reason="needs NVIDIA Warp")
def test_tasks_of_one_process_share_the_device_and_its_memory():
    assert make_renderer("nvwarp") is make_renderer("nvwarp")
    assert make_renderer("numba") is not make_renderer("numba")


def test_unknown_names_list_the_choices():
    with pytest.raises(InputError, match="numba, open3d, nvdiffrast, nvwarp"):
        make_renderer("opengl")


@pytest.mark.skipif(find_spec("nvdiffrast") is not None, reason="nvdiffrast is installed")
def test_a_missing_backend_says_how_to_get_it():
    with pytest.raises(DependencyError, match=r"research use only.*numba") as caught:
        make_renderer("nvdiffrast")
    assert isinstance(caught.value, CanonfaceError)


@pytest.mark.skipif(find_spec("warp") is not None, reason="NVIDIA Warp is installed")
def test_missing_warp_names_the_package_and_the_extra():
    with pytest.raises(DependencyError, match=r"warp-lang.*nvwarp.*numba"):
        make_renderer("nvwarp")
