"""The benchmark of writing measures what it says, on the samples it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from datagen.shards import ARRAYS


def test_it_measures_a_whole_shard_beside_compression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["write", "--resolution", "56", "--samples", "4", "--repeats", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments, "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr()
    assert caught.value.code == 0, told.err
    content = json.loads(told.out)
    figures, parts = content["figures"], content["parts_ms"]
    assert figures["ratio_compression"] == pytest.approx(parts["compress"] / parts["write"])
    assert figures["samples_per_s"] == pytest.approx(1000 / parts["write"])
    # Packing compresses, and writing packs: neither can be cheaper than what it contains.
    assert 0 < content["cpu_ms"]["compress"] < content["cpu_ms"]["write"]
    assert figures["bytes_per_sample"] == pytest.approx(sum(content["array_bytes"].values()))
    assert set(content["array_bytes"]) == set(ARRAYS)
    assert not list(tmp_path.iterdir())
