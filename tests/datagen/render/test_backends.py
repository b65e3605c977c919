"""Choosing a backend."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from datagen.common.errors import CanonfaceError, DependencyError, InputError
from datagen.render.registry import make_renderer


def test_names():
    assert make_renderer("numba").name == "numba"
    assert make_renderer("open3d").name == "open3d"


def test_auto_takes_warp_only_where_there_is_a_gpu():
    if find_spec("warp") is None:
        assert make_renderer().name == "numba"
        return
    import warp

    assert make_renderer().name == ("nvwarp" if warp.is_cuda_available() else "numba")


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
