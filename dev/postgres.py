"""One PostgreSQL server with a superuser who needs a password, for `dev.stack`.

PostgreSQL refuses to run as root. Root therefore runs it as `nobody` who may read every directory, with `setpriv`:
no account has to be made and no permission changed on the way to the state directory.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from dev.processes import TIER_STORAGE, Processes, StopRule
from dev.settings import Settings, write_private

NAME = "postgres"
BINARIES = ("postgres",)
PORTS = ("postgres",)
UNPRIVILEGED_USER = "nobody"
FAST_SHUTDOWN = StopRule(signal_name="SIGINT")
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    # Tests only: a crash of the machine may lose data, a crash of the server does not.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True)
class Postgres:
    """Where the server listens, and its life."""

    settings: Settings

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        return self.settings.port("postgres")

    @property
    def user(self) -> str:
        return "postgres"

    @property
    def password(self) -> str:
        return self.settings.secret("postgres-password")

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/postgres"

    @property
    def data_dir(self) -> Path:
        return self.settings.state_dir / "postgres"

    @property
    def server(self) -> Path:
        return self.settings.binaries["postgres"]

    def endpoint_document(self) -> dict[str, str]:
        return {"url": self.url}

    def start(self, processes: Processes) -> None:
        if not (self.data_dir / "PG_VERSION").exists():
            self.create_cluster(processes)
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        processes.spawn(NAME, self.command(), tier=TIER_STORAGE, stop=FAST_SHUTDOWN)
        processes.wait_ready(NAME, self.has_started)

    def stop(self, processes: Processes) -> None:
        processes.stop(NAME)

    def create_cluster(self, processes: Processes) -> None:
        """Run initdb into a directory beside the final one, so that an interrupted run is not taken for a whole one."""
        partial = self.data_dir.with_name("postgres.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        password_file = self.settings.state_dir / "postgres-password"
        write_private(password_file, self.password)
        give_to_server_user(partial)
        give_to_server_user(password_file)
        processes.run("initdb", self.initdb_command(partial, password_file), env=plain_environment())
        password_file.unlink()
        partial.rename(self.data_dir)

    def initdb_command(self, data_dir: Path, password_file: Path) -> list[str | Path]:
        options = ["--username", self.user, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        return as_server_user(
            [self.server.with_name("initdb"), "--pgdata", data_dir, f"--pwfile={password_file}", *options]
        )

    def command(self) -> list[str | Path]:
        options = OPTIONS | {"port": str(self.port)}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return as_server_user([self.server, "-D", self.data_dir, *settings])

    def has_started(self) -> bool:
        """Our own server says so in its data directory; a connection could reach another server on that port."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"


def as_server_user(command: list[str | Path]) -> list[str | Path]:
    """The command as it is, or for root: as `nobody`, who still may pass every directory and still dies with us."""
    if os.geteuid() != 0:
        return command
    user = pwd.getpwnam(UNPRIVILEGED_USER)
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    rights = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--pdeathsig=KILL"]
    return ["setpriv", *ids, *rights, "--", *command]


def can_run_as(euid: int) -> bool:
    """Whether a server can be run by this user at all."""
    return euid != 0 or shutil.which("setpriv") is not None


def give_to_server_user(path: Path) -> None:
    if os.geteuid() == 0:
        user = pwd.getpwnam(UNPRIVILEGED_USER)
        os.chown(path, user.pw_uid, user.pw_gid)


def plain_environment() -> dict[str, str]:
    """Ours, without the settings of another PostgreSQL."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
