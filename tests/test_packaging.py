"""The files that ship the worker against what they name: no engine is needed to see that they fit."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from kafka_server import IMAGE, server_properties
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from worker.cli import app
from worker.settings import Settings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES = dict(re.findall(r"^  ([a-z]+):\n((?:(?:    .*)?\n)+)", COMPOSE.partition("services:\n")[2], re.MULTILINE))
PINS = dict(
    line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")
)


def environment(service):
    """Give the service's variables; one that the user must set has the value that its message shows."""
    variables = dict(re.findall(r"^      ([A-Z_]+): (.+)$", SERVICES[service], re.MULTILINE))
    return {name: re.sub(r"^\$\{.* (\S+)\}$", r"\1", value).strip('"') for name, value in variables.items()}


def commands():
    """Give every command line that is handed to the entry point."""
    lines = re.findall(r"^ *(?:CMD|command:) (\[.*\])$", DOCKERFILE + COMPOSE, re.MULTILINE)
    return [json.loads(line) for line in lines]


def test_services_are_the_ones_expected():
    assert set(SERVICES) == {"kafka", "topics", "worker"}


def test_kafka_is_the_version_and_set_up_as_the_tests_know_it():
    assert re.findall(r"image: (\S+)", COMPOSE) == [IMAGE]
    properties = server_properties(bind="", host="kafka", port=9092, controller_port=9093)
    expected = {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in properties.items()}
    assert expected.items() <= environment("kafka").items()


def test_every_variable_is_a_setting():
    prefix = Settings.model_config["env_prefix"]
    named = set(re.findall(rf"\b{prefix}(\w+)", DOCKERFILE + COMPOSE))
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_workers_variables_are_all_that_it_needs(monkeypatch):
    prefix = Settings.model_config["env_prefix"]
    for name in list(os.environ):
        if name.startswith(prefix):
            monkeypatch.delenv(name)
    for name, value in environment("worker").items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.broker == "kafka:9092"
    assert settings.dry_run is True


def test_port_is_the_workers_own():
    port = Settings.model_fields["web_port"].default
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(port)]
    assert f'"{port}:{port}"' in SERVICES["worker"]


def test_entry_point_and_commands_exist():
    [entry_point] = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[1])
    assert entry_point in PROJECT["scripts"]
    assert commands()
    for line in commands():
        command = get_command(app)
        for word in line:
            assert word in command.commands, f"{line}: allowed here is {sorted(command.commands)}"
            command = command.commands[word]
        assert not hasattr(command, "commands"), f"{line}: a group, not a command"


def test_image_has_the_python_and_the_files_that_it_copies():
    version = re.search(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, re.MULTILINE)[1]
    assert PROJECT["requires-python"] == f">={version}"
    for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("dependency", PROJECT["dependencies"])
def test_pins_are_within_the_ranges(dependency):
    requirement = Requirement(dependency)
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_requirements_are_exact_versions_and_nothing_else():
    for name, version in PINS.items():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
        assert re.fullmatch(r"[0-9][A-Za-z0-9.]*", version)


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/test", ".ci/run"])
def test_scripts_can_be_run(name):
    assert os.access(ROOT / name, os.X_OK)
    assert (ROOT / name).read_text().startswith("#!/usr/bin/env bash\n")
