"""What starts builds elsewhere: the compose file, Prefect's deployments, the image; each names what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.places import ROOT


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


def test_deployments_are_of_a_flow_that_takes_their_parameters(deployments: list[dict[str, Any]]) -> None:
    from datagen.flows import prefect_flow

    assert {deployment["name"] for deployment in deployments} == {"process", "docker", "kubernetes"}
    for deployment in deployments:
        path, _, name = deployment["entrypoint"].partition(":")
        assert (ROOT / path) == Path(prefect_flow.__file__)
        flow = getattr(prefect_flow, name)
        assert flow.name == "build"
        flow.validate_parameters(deployment["parameters"])
    with pytest.raises(Exception, match="workers"):
        prefect_flow.build.validate_parameters({"manifest": "demo", "out": "x", "workers": 0})


def test_the_flow_takes_what_the_command_takes() -> None:
    from datagen.commands.build import build_command
    from datagen.flows import prefect_flow

    command = set(inspect.signature(build_command).parameters) - {"json_output", "stage", "part"}
    assert set(inspect.signature(prefect_flow.build.fn).parameters) == command
