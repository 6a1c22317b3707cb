"""What one stack has chosen for itself: ports, passwords, binaries; kept in its state directory as `stack.json`.

Ports and passwords are drawn when first asked for and kept, so that a service comes back where it was. The service
modules read it, `dev.stack` saves and loads it; it must not start anything.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTINGS_FILE = "stack.json"


@dataclass
class Settings:
    """The choices of one stack."""

    state_dir: Path
    services: tuple[str, ...]
    audit_log: bool = True
    binaries: dict[str, Path] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    is_ready: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def port(self, name: str) -> int:
        with self.lock:
            return self.ports[name] if name in self.ports else self.draw_port(name)

    def draw_port(self, name: str) -> int:
        """Choose another port for `name`, free now and not chosen for anything else in this stack."""
        with self.lock:
            while (port := free_port()) in self.ports.values():
                continue
            self.ports[name] = port
            return port

    def secret(self, name: str) -> str:
        with self.lock:
            return self.secrets.setdefault(name, secrets.token_hex(16))

    def keep_from(self, earlier: Settings) -> None:
        """Take over the secrets of an earlier run in the same directory, and its ports that are still free."""
        self.secrets.update(earlier.secrets)
        self.ports.update({name: port for name, port in earlier.ports.items() if is_free(port)})

    def save(self, endpoints: Mapping[str, Any]) -> None:
        """Write `stack.json`; the endpoints in it are for people and other tools, `load` does not read them."""
        document = {
            "state_dir": str(self.state_dir),
            "services": self.services,
            "audit_log": self.audit_log,
            "is_ready": self.is_ready,
            "binaries": {name: str(path) for name, path in self.binaries.items()},
            "ports": self.ports,
            "secrets": self.secrets,
            "endpoints": endpoints,
        }
        write_private(self.state_dir / SETTINGS_FILE, json.dumps(document, indent=2) + "\n")

    @classmethod
    def load(cls, state_dir: Path) -> Settings | None:
        """The settings saved in `state_dir`, or None."""
        try:
            document = json.loads((state_dir / SETTINGS_FILE).read_text())
        except FileNotFoundError:
            return None
        return cls(
            state_dir=state_dir,
            services=tuple(document["services"]),
            audit_log=document["audit_log"],
            binaries={name: Path(path) for name, path in document["binaries"].items()},
            ports=document["ports"],
            secrets=document["secrets"],
            is_ready=document["is_ready"],
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
