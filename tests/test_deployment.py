"""What starts builds elsewhere: the compose file, Prefect's deployments, the image; each names what there is."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from datagen import cli
from datagen.flows.stages import STAGES
from tests.support.places import ROOT

WORKDIR = "/canonface"
# Options of `datagen build` that make no sense for a part of one stage.
REFUSED_WITH_STAGE = {"dask_address", "dask_cluster", "dask_config", "replace", "check_inputs", "deep"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def deployments() -> list[dict[str, Any]]:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    listed: list[dict[str, Any]] = content["deployments"]
    return listed


def test_services_depend_on_services_and_keep_what_they_write_in_volumes(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"prefect", "scheduler", "worker", "minio", "driver"} <= set(services)
    assert services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        assert "image" in service or "build" in service
        named = [v.split(":")[0] for v in service.get("volumes", ()) if not v.startswith(".")]
        assert set(named) <= set(compose["volumes"])
        # Nothing of it is to be reached from another machine.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    shared = {tuple(services[name]["volumes"]) for name in ("worker", "driver", "scheduler")}
    assert len(shared) == 1


def test_services_speak_to_each_other_by_the_names_they_have(compose: dict[str, Any]) -> None:
    text = (ROOT / "compose.yaml").read_text()
    for host in re.findall(r"(?:http|tcp)://([a-z]+):", text):
        assert host in compose["services"] or host == "localhost"


def test_an_image_has_what_compose_runs(compose: dict[str, Any]) -> None:
    assert "PATH=/canonface/.venv/bin:$PATH" in (ROOT / "Dockerfile").read_text()
    commands = {str(service.get("command", "")).split(" ")[0] for service in compose["services"].values()}
    assert commands <= {"prefect", "dask", "server", ""}


def test_deployments_are_of_flows_that_take_their_parameters(deployments: list[dict[str, Any]]) -> None:
    from datagen.flows import prefect_flow

    named: dict[str, set[str]] = {}
    for deployment in deployments:
        path, _, name = deployment["entrypoint"].partition(":")
        assert (ROOT / path).is_file()
        flow = getattr(import_module(path.removesuffix(".py").replace("/", ".")), name)
        assert flow.name == name
        assert flow.description
        flow.validate_parameters(deployment["parameters"])
        if "image" in deployment["work_pool"].get("job_variables", {}):
            # Prefect would look for the flow in a folder of its own.
            (step,) = deployment["pull"]
            assert step == {"prefect.deployments.steps.set_working_directory": {"directory": WORKDIR}}
            assert f"WORKDIR {WORKDIR}\n" in (ROOT / "Dockerfile").read_text()
        named.setdefault(name, set()).add(deployment["name"])
    stages = {stage.name for stage in STAGES if stage.carried}
    assert named.pop("build") == {"process", "docker", "kubernetes"}
    assert named == {name: {"parts"} for name in (*stages, "freeze", "finish")}
    with pytest.raises(Exception, match="workers"):
        prefect_flow.build.validate_parameters({"manifest": "demo", "out": "x", "workers": 0})


def test_flows_are_run_again_as_often_as_prefects_environment_says(tmp_path: Path) -> None:
    stages = [stage.name for stage in STAGES if stage.carried]
    program = (
        "from datagen.flows import prefect_flow, stage_flows\n"
        f"names = {[*stages, 'freeze', 'finish']!r}\n"
        "print(prefect_flow.build.retries, *(getattr(stage_flows, name).retries for name in names))\n"
    )

    def retries(**environment: str) -> list[str]:
        around = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        around |= {"PREFECT_HOME": str(tmp_path), **environment}
        done = subprocess.run(
            [sys.executable, "-c", program], env=around, capture_output=True, check=False, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert retries(PREFECT_FLOWS_DEFAULT_RETRIES="2") == ["2"] * (len(stages) + 3)
    assert retries() == ["0"] * (len(stages) + 3)


def test_flows_take_what_commands_take() -> None:
    from datagen.commands.build import build_command, plan_command
    from datagen.commands.parts import finish_command
    from datagen.flows import prefect_flow, stage_flows

    def parameters(function: Any) -> set[str]:
        return set(inspect.signature(function).parameters) - {"json_output"}

    of_build = parameters(build_command)
    assert parameters(prefect_flow.build.fn) == of_build - {"stage", "part"}
    of_parts = of_build - {"stage", "only", "limit", "log", "metrics_port", *REFUSED_WITH_STAGE}
    for stage in (stage for stage in STAGES if stage.carried):
        assert parameters(getattr(stage_flows, stage.name).fn) == of_parts
    assert parameters(stage_flows.freeze.fn) == parameters(plan_command) - {"freeze", "only", "limit"} | {"out"}
    assert parameters(stage_flows.finish.fn) == parameters(finish_command) - {"log", "metrics_port"}


@pytest.mark.parametrize("option", sorted(REFUSED_WITH_STAGE))
def test_what_parts_do_not_take_is_refused(
    option: str,
    tiny_manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    word = f"--{option.replace('_', '-')}"
    value = {"dask_address": ["tcp://a:1"], "dask_cluster": ["local"], "dask_config": ["a.yaml"]}.get(option, [])
    words = ["datagen", "build", str(tiny_manifest), "--out", str(tmp_path / "out"), "--stage", "warp", word, *value]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert not (tmp_path / "out").exists()
    assert "--dask" in (said := capsys.readouterr().err) or f"{word} with --stage" in said or "runner dask" in said
