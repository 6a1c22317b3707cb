"""The Dockerfile and the files it is built from: pinned, hash-locked, small rights, and one version everywhere.

They are read as text and linted with hadolint; no image is built here.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dev.helm import CHART, find_hadolint

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
LOCKED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)")


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, with continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def arguments(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def final_stage() -> list[tuple[str, str]]:
    steps = instructions()
    start = max(index for index, (word, _) in enumerate(steps) if word == "FROM")
    return steps[start:]


def lock_entries() -> list[str]:
    """One entry of requirements.lock on one line each, without comments."""
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    return re.sub(r" *\\\n\s*", " ", "\n".join(lines)).splitlines()


def project() -> dict[str, Any]:
    metadata: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return metadata


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = subprocess.run([find_hadolint(), "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert hadolint.stdout + hadolint.stderr == ""
    assert hadolint.returncode == 0


def test_every_stage_has_the_same_base_with_an_exact_tag() -> None:
    bases = {rest.split()[0] for rest in arguments("FROM")}
    assert bases == {"python:3.13-slim-bookworm"}


def test_the_image_runs_as_a_user_that_kubernetes_can_tell_from_root() -> None:
    assert [rest for word, rest in final_stage() if word == "USER"] == ["65532:65532"]


def test_a_user_that_nobody_has_heard_of_has_a_home_and_a_name() -> None:
    """kopf asks for the user's name and would end without one."""
    (environment,) = [rest for word, rest in final_stage() if word == "ENV"]
    assert {"HOME=/tmp", "USER=taskdeletion"} <= set(environment.split())


def test_the_command_needs_no_shell() -> None:
    assert arguments("ENTRYPOINT") == ['["taskdeletion"]']
    assert arguments("CMD") == ['["operator"]']
    assert project()["scripts"]["taskdeletion"] == "taskdeletion.__main__:main"


def test_the_final_stage_installs_nothing() -> None:
    runs = " ".join(rest for word, rest in final_stage() if word == "RUN")
    assert " install" not in runs
    assert "pip uninstall" in runs


@pytest.mark.parametrize("installs", [rest for rest in arguments("RUN") if " -r " in rest])
def test_packages_are_installed_only_as_wheels_with_known_hashes(installs: str) -> None:
    assert "--require-hashes" in installs
    assert "--only-binary=:all:" in installs


def test_the_lock_is_nothing_but_versions_with_hashes() -> None:
    assert [entry for entry in lock_entries() if LOCKED.fullmatch(entry) is None] == []


def test_the_lock_names_no_host_and_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert re.search(r"^--", text, re.MULTILINE) is None


@pytest.mark.parametrize("dependency", project()["dependencies"])
def test_the_lock_satisfies_each_dependency(dependency: str) -> None:
    requirement = Requirement(dependency)
    locked = {match["name"]: match["version"] for match in map(LOCKED.fullmatch, lock_entries()) if match}
    assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_chart_and_image_carry_the_version_of_the_project() -> None:
    version = project()["version"]
    assert f"VERSION={version}" in arguments("ARG")
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    copied = {name for rest in arguments("COPY") if not rest.startswith("--") for name in rest.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
