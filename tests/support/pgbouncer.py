"""A real PgBouncer in transaction mode before a database of the dev stack, for the length of a `with` block.

Used by the contract tests of the PostgreSQL catalog. It is taken from where it is installed and never downloaded.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dev.pipeline import wait_until
from dev.postgres import as_server_user
from dev.settings import free_port

# Debian installs it where only root's PATH leads.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
INSTALL = "pgbouncer is not on PATH: install the package pgbouncer"
SETTINGS = """
[databases]
{name} = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
query_wait_timeout = {wait_seconds}
server_login_retry = 1
"""


@contextmanager
def pooler_to(url: str, folder: Path, *, pool_size: int = 2, wait_seconds: int = 30) -> Iterator[str]:
    """The URL of a pooler that has at most `pool_size` connections to the database of `url`.

    A client that gets none of them within `wait_seconds` is sent away.
    """
    address = urlsplit(url)
    own_port = free_port()
    settings = SETTINGS.format(
        name=address.path[1:],
        host=address.hostname,
        port=address.port,
        user=address.username,
        password=address.password,
        own_port=own_port,
        pool_size=pool_size,
        wait_seconds=wait_seconds,
    )
    file = folder / "pgbouncer.ini"
    file.write_text(settings)
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(as_server_user([str(PROGRAM), file]), stdout=log, stderr=log)
    try:
        wait_until(lambda: _is_listening(process, own_port), what="PgBouncer")
        yield f"postgresql://anybody@127.0.0.1:{own_port}{address.path}"
    finally:
        process.kill()
        process.wait()


def _is_listening(process: subprocess.Popen[bytes], port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"pgbouncer ended with {process.returncode}")
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
