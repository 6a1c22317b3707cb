"""Programs that the benchmark alone needs: `rmz`, which is shown beside `rm`.

Called by `bench.lines.directories`. What is needed to run the product or its tests belongs to `dev.binaries`.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

from dev.cache import Cache, cache_root
from dev.origins import UnavailableError
from dev.progress import Elapsed, print_to_stderr

RMZ: Final = "rmz"
RMZ_VERSION: Final = "3.2.1"
_LINES_SHOWN: Final = 10


def provide_rmz() -> Path:
    """The program, of always the same version, built by cargo the first time. UnavailableError says why not."""
    cache = Cache(cache_root())
    if not cache.directory(RMZ, RMZ_VERSION).exists():
        with cache.locked(print_to_stderr):
            cache.filled(RMZ, RMZ_VERSION, partial(_install, crate=RMZ, version=RMZ_VERSION))
    return cache.directory(RMZ, RMZ_VERSION) / "bin" / RMZ


def _install(directory: Path, crate: str, version: str) -> None:
    if shutil.which("cargo") is None:
        raise UnavailableError(f"{crate} is built by cargo, which cannot be found: install Rust")
    elapsed = Elapsed(f"building {crate} {version} with cargo (once, some minutes)", print_to_stderr)
    options = ["--quiet", "--locked", "--version", f"={version}", "--root", str(directory)]
    command = ["cargo", "install", *options, crate]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        last = "\n".join(built.stderr.splitlines()[-_LINES_SHOWN:])
        raise UnavailableError(f"cargo could not build {crate} {version}:\n{last}")
    elapsed.done()
