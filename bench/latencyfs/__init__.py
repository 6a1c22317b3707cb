"""A network file system in a box: a directory shown through FUSE, where every metadata operation takes a fixed time.

Called by `bench.lines.directories` and `bench.throughput`. The program is the C beside this file, built when it is
needed. One latency each: lookup, getattr, setattr, access, readlink, create, mkdir, mknod, symlink, link, unlink,
rmdir, rename, open, opendir, statfs, fsync, and the first reply of a listing. Free: reads, writes, the rest of a
listing, releases. A name costs its lookup before it can be unlinked, because there is no READDIRPLUS; a stat of it
within a second is free then, since entries and attributes are cached for as long, which is libfuse's default. As many
requests wait side by side as come, lookups of one directory too; the kernel itself sends one unlink, rmdir or rename at
a time for a directory. The program is one thread that only keeps time: it serves about 70,000 operations per second.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from bench.measuring import CannotRunError
from dev.cache import Cache, cache_root
from dev.progress import print_to_stderr

_SOURCES: Final = Path(__file__).parent
_PROGRAM: Final = "latencyfs"
_DEVICE: Final = Path("/dev/fuse")
_FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
_PACKAGES: Final = "install gcc, pkg-config, fuse3 and the headers of libfuse 3.12 or newer (Debian: libfuse3-dev)"
_END_SECONDS: Final = 10.0


@contextmanager
def mounted(source: Path, latency_seconds: float) -> Iterator[Path]:
    """A path that shows `source`, slowly, for the length of a `with` block. Raises CannotRunError."""
    program = provide()
    mount_point = Path(tempfile.mkdtemp(prefix="latencyfs-"))
    command: list[str | Path] = [program, source, mount_point, str(round(latency_seconds * 1e6))]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
            try:
                _wait_until_ready(server)
                yield mount_point
            finally:
                _end(server, mount_point)
    finally:
        mount_point.rmdir()


def provide() -> Path:
    """The program, built first if need be. CannotRunError where this machine cannot build or mount it."""
    if shutil.which("fusermount3") is None:
        raise CannotRunError(f"fusermount3 cannot be found: {_PACKAGES}")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        raise CannotRunError(f"{_DEVICE} cannot be used: load the kernel's module fuse, or run where it is allowed")
    cache, version = Cache(cache_root()), fingerprint()
    if not cache.directory(_PROGRAM, version).exists():
        with cache.locked(print_to_stderr):
            cache.filled(_PROGRAM, version, partial(_build, flags=_library_flags()))
    return cache.directory(_PROGRAM, version) / _PROGRAM


def fingerprint() -> str:
    """Of everything that the program is built from."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in sorted(_SOURCES.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:12]


def _library_flags() -> list[str]:
    missing = [name for name in ("gcc", "pkg-config") if shutil.which(name) is None]
    if missing:
        raise CannotRunError(f"{' and '.join(missing)} cannot be found: {_PACKAGES}")
    asked = ["pkg-config", "--cflags", "--libs", "fuse3 >= 3.12"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise CannotRunError(f"libfuse cannot be found: {_PACKAGES}")
    return found.stdout.split()


def _build(directory: Path, flags: Sequence[str]) -> None:
    sources = sorted(_SOURCES.glob("*.c"))
    command: list[str | Path] = ["gcc", *_FLAGS, "-o", directory / _PROGRAM, *sources, *flags]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise CannotRunError(f"gcc cannot build {_PROGRAM}: {_PACKAGES}\n{built.stderr}")


def _wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    assert server.stdout is not None
    assert server.stderr is not None
    if server.stdout.readline() != b"ready\n":
        said = server.stderr.read().decode(errors="replace").strip()
        raise CannotRunError(f"the slow file system cannot be mounted: {said}")


def _end(server: subprocess.Popen[bytes], mount_point: Path) -> None:
    """The end of its input tells the server to unmount and end. One that does not is killed, and unmounted here."""
    assert server.stdin is not None
    server.stdin.close()
    try:
        server.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if mount_point.is_mount() or _is_dead_mount(mount_point):
        subprocess.run(["fusermount3", "-u", "-z", mount_point], check=True)


def _is_dead_mount(mount_point: Path) -> bool:
    try:
        mount_point.stat()
    except OSError:  # its server is gone: "transport endpoint is not connected"
        return True
    return False
