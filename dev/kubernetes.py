"""etcd, kube-apiserver and kube-controller-manager: a real Kubernetes API without nodes, for `dev.stack`.

The API server makes its own serving certificate; tokens of service accounts, RBAC, CRDs, admission policies, namespace
deletion and owner references work. Pods are never scheduled. It must not know the operator, except for the API group
whose requests the audit log keeps.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.processes import TIER_CLIENT, TIER_SERVICE, TIER_STORAGE, Processes, StopRule
from dev.settings import Settings, write_private

NAME = "kubernetes"
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
PORTS = ("etcd", "etcd-peer", "kube-apiserver")
AUDITED_GROUP = "datapipeline.dev"
ETCD_STARTED_MARK = "ready to serve client requests"
PROBE_TIMEOUT_SECONDS = 2.0
START_TIMEOUT_SECONDS = 120.0
# An EC private key on P-256 in its shortest form, without the public half (RFC 5915): a header, 32 bytes, the curve.
EC_KEY_HEADER = bytes.fromhex("30310201010420")
EC_KEY_CURVE = bytes.fromhex("a00a06082a8648ce3d030107")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "resourcequota-controller",
    "job-controller",
    "cronjob-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
)


@dataclass(frozen=True)
class Kubernetes:
    """Where the API server listens, how to log in, and the life of its three processes."""

    settings: Settings

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.settings.port('kube-apiserver')}"

    @property
    def directory(self) -> Path:
        return self.settings.state_dir / "kubernetes"

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "admin.kubeconfig"

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def admin_token(self) -> str:
        return self.settings.secret("kubernetes-admin-token")

    @property
    def audit_log(self) -> Path | None:
        return self.directory / "audit.log" if self.settings.audit_log else None

    @property
    def kubectl(self) -> Path:
        return self.settings.binaries["kubectl"]

    def write_kubeconfig(self, path: Path, *, token: str, namespace: str = "default") -> Path:
        """Write a kubeconfig that logs in with `token`, readable by its owner only; returns its path."""
        write_private(path, json.dumps(self.kubeconfig_document(token=token, namespace=namespace), indent=2) + "\n")
        return path

    def kubeconfig_document(self, *, token: str, namespace: str) -> dict[str, Any]:
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        context = {"cluster": "dev", "user": "dev", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "dev", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "dev", "user": {"token": token}}],
            "contexts": [{"name": "dev", "context": context}],
            "current-context": "dev",
        }

    def endpoint_document(self) -> dict[str, str]:
        return {"url": self.url, "kubeconfig": str(self.kubeconfig), "kubectl": str(self.kubectl)}

    def start(self, processes: Processes) -> None:
        self.directory.mkdir(exist_ok=True)
        self.write_inputs()
        self.start_etcd(processes)
        self.start_apiserver(processes)
        self.start_controller_manager(processes)

    def stop(self, processes: Processes) -> None:
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            processes.stop(name)

    def write_inputs(self) -> None:
        """The files that the API server reads: tokens, the key that signs service account tokens, the audit policy."""
        write_private(self.directory / "tokens.csv", self.token_table())
        write_private(self.directory / "audit-policy.json", json.dumps(audit_policy()))
        if not self.signing_key.exists():
            write_private(self.signing_key, new_signing_key())

    @property
    def signing_key(self) -> Path:
        return self.directory / "service-account.key"

    @property
    def controller_manager_token(self) -> str:
        return self.settings.secret("kubernetes-controller-manager-token")

    def token_table(self) -> str:
        rows = [
            f'{self.admin_token},admin,admin,"system:masters"',
            f'{self.controller_manager_token},controller-manager,controller-manager,"system:masters"',
        ]
        return "\n".join(rows) + "\n"

    def start_etcd(self, processes: Processes) -> None:
        processes.spawn("etcd", self.etcd_command(), tier=TIER_STORAGE)
        processes.wait_ready("etcd", lambda: ETCD_STARTED_MARK in processes.read_log("etcd"))

    def etcd_command(self) -> list[str | Path]:
        client = f"http://127.0.0.1:{self.settings.port('etcd')}"
        peer = f"http://127.0.0.1:{self.settings.port('etcd-peer')}"
        return [
            self.settings.binaries["etcd"],
            "--name=dev",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=dev={peer}",
            "--unsafe-no-fsync",
        ]

    def start_apiserver(self, processes: Processes) -> None:
        name = "kube-apiserver"
        processes.spawn(name, self.apiserver_command(), tier=TIER_SERVICE, stop=StopRule(grace_seconds=3.0))
        processes.wait_ready(name, self.is_ready, timeout_seconds=START_TIMEOUT_SECONDS)
        self.write_kubeconfig(self.kubeconfig, token=self.admin_token)

    def apiserver_command(self) -> list[str | Path]:
        options: dict[str, str | Path | int] = {
            "etcd-servers": f"http://127.0.0.1:{self.settings.port('etcd')}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "endpoint-reconciler-type": "none",
            "secure-port": self.settings.port("kube-apiserver"),
            "cert-dir": self.directory / "certificates",
            "token-auth-file": self.directory / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-key-file": self.signing_key,
            "service-account-signing-key-file": self.signing_key,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-cluster-ip-range": "10.0.0.0/24",
        }
        if self.audit_log is not None:
            options["audit-log-path"] = self.audit_log
            options["audit-policy-file"] = self.directory / "audit-policy.json"
        return [self.settings.binaries["kube-apiserver"], *(f"--{name}={value}" for name, value in options.items())]

    def is_ready(self) -> bool:
        """Whether our own API server is ready: another one would not have our certificate."""
        try:
            self.copy_authority()
            return self.get("/readyz") == b"ok"
        except (OSError, IndexError, http.client.HTTPException):
            return False

    def copy_authority(self) -> None:
        """Keep the authority that signed the serving certificate: it is the last one in the API server's own file."""
        bundle = (self.directory / "certificates" / "apiserver.crt").read_text()
        authority = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", bundle, re.DOTALL)[-1]
        self.ca_file.write_text(authority)

    def get(self, path: str) -> bytes:
        """The body of a GET as the admin, b"" when it is refused; OSError when nobody, or a stranger, answers."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        port = self.settings.port("kube-apiserver")
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PROBE_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.admin_token}"})
            reply = connection.getresponse()
            return reply.read() if reply.status == http.HTTPStatus.OK else b""
        finally:
            connection.close()

    def start_controller_manager(self, processes: Processes) -> None:
        name = "kube-controller-manager"
        self.write_kubeconfig(self.controller_manager_kubeconfig, token=self.controller_manager_token)
        processes.spawn(name, self.controller_manager_command(), tier=TIER_CLIENT, stop=StopRule(grace_seconds=2.0))
        processes.wait_ready(name, self.has_default_service_account, timeout_seconds=START_TIMEOUT_SECONDS)

    @property
    def controller_manager_kubeconfig(self) -> Path:
        return self.directory / "controller-manager.kubeconfig"

    def controller_manager_command(self) -> list[str | Path]:
        options: dict[str, str | Path | int] = {
            "kubeconfig": self.controller_manager_kubeconfig,
            "controllers": ",".join(CONTROLLERS),
            "leader-elect": "false",
            "secure-port": 0,
            "root-ca-file": self.ca_file,
            "service-account-private-key-file": self.signing_key,
            "kube-api-qps": 200,
            "kube-api-burst": 400,
        }
        binary = self.settings.binaries["kube-controller-manager"]
        return [binary, *(f"--{name}={value}" for name, value in options.items())]

    def has_default_service_account(self) -> bool:
        """The sign that the controllers are at work: nothing else makes this object."""
        try:
            return bool(self.get("/api/v1/namespaces/default/serviceaccounts/default"))
        except (OSError, http.client.HTTPException):
            return False


def audit_policy() -> dict[str, Any]:
    """One line for each finished request to the operator's own API group, and none for anything else.

    Creations with their answers: only those hold the uid of a TaskDeletion, by which an audit line of the operator
    leads to the user who asked.
    """
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [
            {
                "level": "RequestResponse",
                "verbs": ["create"],
                "resources": [{"group": AUDITED_GROUP, "resources": ["taskdeletions"]}],
                "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
            },
            {
                "level": "Metadata",
                "resources": [{"group": AUDITED_GROUP}],
                "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
            },
            {"level": "None"},
        ],
    }


def new_signing_key() -> str:
    """A new EC private key as PEM, for the API server to sign service account tokens with."""
    number = (secrets.randbelow(P256_ORDER - 1) + 1).to_bytes(32, "big")
    encoded = base64.encodebytes(EC_KEY_HEADER + number + EC_KEY_CURVE).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{encoded}-----END EC PRIVATE KEY-----\n"
