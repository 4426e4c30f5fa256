"""The files in docker/ agree with the project: versions, extras, paths, entry points, commands.

No container engine is asked.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from annotations_schema.storage import RemotePath, location
from curation import cli
from training.recipes import RECIPES

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILES = {"curation.Dockerfile": "insight-curate", "training.Dockerfile": "insight-train"}
YAML_FILES = ("compose.yaml", "kuberay.yaml", "ray-up.yaml")
IMAGES = {
    f"open-insighttok-{name}:{PROJECT['project']['version']}" for name in ("curation", "training")
}


def instructions(name: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments) of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def of_kind(name: str, kind: str) -> list[str]:
    return [arguments for instruction, arguments in instructions(name) if instruction == kind]


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((DOCKER / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def constraint(package: str) -> str:
    pattern = rf"^{re.escape(package)}==([\w.]+)"
    found = re.search(pattern, (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def every(node: Any, key: str) -> list[Any]:
    """Every value under a key, anywhere in a YAML document."""
    if isinstance(node, list):
        return [found for one in node for found in every(one, key)]
    if not isinstance(node, dict):
        return []
    here = [node[key]] if key in node else []
    return here + [found for one in node.values() for found in every(one, key)]


def test_every_file_is_on_the_page_and_checked_here() -> None:
    page = (DOCKER / "README.md").read_text()
    names = {path.name for path in DOCKER.iterdir()}
    ignored = {f"{name}.dockerignore" for name in DOCKERFILES}
    assert names == {*DOCKERFILES, *YAML_FILES, *ignored, "README.md"}
    for name in (*DOCKERFILES, *YAML_FILES):
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_python_of_an_image_is_one_that_the_project_supports(name: str) -> None:
    (tag,) = of_kind(name, "ARG")
    minor = re.fullmatch(r"PYTHON=3\.(\d+)\.\d+-slim-\w+", tag)
    assert minor is not None
    low, high = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    assert int(low) <= int(minor[1]) < int(high)
    assert all(source.startswith("python:${PYTHON}") for source in of_kind(name, "FROM"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_made_in_two_stages_from_the_constraints(name: str) -> None:
    stages = of_kind(name, "FROM")
    assert len(stages) == 2
    assert stages[0].endswith(" AS build")
    (install,) = [one for one in of_kind(name, "RUN") if one.startswith("pip install")]
    assert "--constraint constraints.txt" in install
    extras = re.search(r"'\.\[([\w,]+)\]'", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    first, last = (DOCKER / name).read_text().split("\nFROM ")[1:]
    assert "build-essential" in first
    assert "build-essential" not in last
    assert "COPY --from=build /opt/venv /opt/venv" in last


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_is_not_ignored(name: str) -> None:
    ignore = (DOCKER / f"{name}.dockerignore").read_text().splitlines()
    sources = [
        source
        for arguments in of_kind(name, "COPY")
        if not arguments.startswith("--from=build ")
        for source in arguments.split()[:-1]
    ]
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignore
    assert "*" in ignore


@pytest.mark.parametrize(("name", "script"), DOCKERFILES.items())
def test_an_image_runs_our_command_as_a_user_without_rights(name: str, script: str) -> None:
    assert of_kind(name, "ENTRYPOINT") == [f'["{script}"]']
    assert script in PROJECT["project"]["scripts"]
    (user,) = of_kind(name, "USER")
    assert user not in ("root", "0")
    assert f"useradd --create-home --uid 10001 {user}" in " ".join(of_kind(name, "RUN"))
    kinds = [kind for kind, _ in instructions(name)]
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")


@pytest.mark.parametrize("name", [*DOCKERFILES, *YAML_FILES])
def test_nothing_is_called_latest(name: str) -> None:
    assert "latest" not in (DOCKER / name).read_text()


@pytest.mark.parametrize("name", YAML_FILES)
def test_images_have_the_version_of_the_project(name: str) -> None:
    images = every(load(name), "image")
    assert images
    assert {one for one in images if isinstance(one, str)} <= IMAGES


def test_the_ray_of_the_cluster_is_the_ray_of_the_constraints() -> None:
    assert every(load("kuberay.yaml"), "rayVersion") == [constraint("ray")]


def test_the_services_of_the_compose_file_name_what_is_there() -> None:
    compose = load("compose.yaml")
    services = compose["services"]
    assert {"head", "worker", "run"} <= set(services)
    for service in services.values():
        build = service["build"]
        context = (DOCKER / build["context"]).resolve()
        assert (context / build["dockerfile"]).is_file()
        assert [volume.partition(":")[0] for volume in service["volumes"]] == ["data"]
        assert set(service.get("depends_on", {})) <= set(services)
    assert set(compose["volumes"]) == {"data"}
    assert services["head"]["entrypoint"][:3] == ["ray", "start", "--head"]
    port = re.search(r"--port=(\d+)", " ".join(services["head"]["command"]))
    assert port is not None
    for name in ("worker", "run"):
        assert f"--address=head:{port[1]}" in " ".join(services[name]["entrypoint"])


def test_the_run_of_the_compose_file_parses_and_joins_the_cluster() -> None:
    services = load("compose.yaml")["services"]
    assert services["run"]["entrypoint"][2].endswith('exec insight-curate "$$@"')
    command = cli.parse(services["run"]["command"])
    assert isinstance(command, cli.Run)
    assert (command.runner.runner, command.runner.ray_address) == ("ray", "auto")
    assert str(command.out).startswith("/data/")
    assert "entrypoint" not in services["doctor"]
    assert isinstance(cli.parse(services["doctor"]["command"]), cli.Doctor)


def test_the_job_on_kubernetes_parses_and_lies_in_an_object_store() -> None:
    job = load("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    script, *arguments = shlex.split(job["spec"]["entrypoint"])
    command = cli.parse(arguments)
    assert script == "insight-curate"
    assert isinstance(command, cli.Run)
    assert isinstance(location(str(command.out)), RemotePath)
    assert command.runner.runner == "ray"


def test_the_run_that_ray_up_explains_parses() -> None:
    text = re.sub(r"\n#\s*", " ", (DOCKER / "ray-up.yaml").read_text())
    typed = re.search(r'"insight-curate (run [^"]+)"', text)
    assert typed is not None
    assert isinstance(cli.parse(shlex.split(typed[1])), cli.Run)
    config = load("ray-up.yaml")
    assert config["provider"]["type"] == "local"
    assert "--port=6379" in " ".join(config["head_start_ray_commands"])
    assert ":6379" in " ".join(config["worker_start_ray_commands"])


def test_the_commands_on_the_page_parse() -> None:
    text = re.sub(r"\\\n\s*", "", (DOCKER / "README.md").read_text())
    curate = re.findall(r"open-insighttok-curation:[\d.]+ +(\S.*)", text)
    parsed = [type(cli.parse(shlex.split(one))) for one in curate if not one.startswith(".")]
    assert parsed == [cli.Doctor, cli.Run]
    (train,) = re.findall(r"open-insighttok-training:[\d.]+ +(tokenizer .*)", text)
    assert shlex.split(train)[1] in RECIPES
