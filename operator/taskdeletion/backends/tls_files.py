"""TLS material from Secrets: bytes in memory become an SSLContext, or a private file where a library insists on one.

Called by the backends that speak TLS. The bytes never stay on a disk: they live in anonymous memory where the
system has it (a pod's root may be read-only), else in a file of mode 0600 that is removed at once.
"""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault


@contextmanager
def private_file(content: bytes) -> Iterator[str]:
    """A path that only this process and user can read `content` from, for the length of the `with` block."""
    descriptor, name = _open_private()
    try:
        os.fchmod(descriptor, 0o600)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield name
    finally:
        os.close(descriptor)
        if not name.startswith("/proc/"):
            os.unlink(name)


def _open_private() -> tuple[int, str]:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("taskdeletion-tls", os.MFD_CLOEXEC)
        return descriptor, f"/proc/self/fd/{descriptor}"
    return tempfile.mkstemp(prefix="taskdeletion-tls-")


def build_ssl_context(*, ca: bytes | None, cert: bytes | None, key: bytes | None) -> ssl.SSLContext:
    """A context that checks the server (against `ca`, else the system's CAs) and shows the client certificate, if any.

    Raises Fault (waiting, SecretValueInvalid) where the material cannot be read.
    """
    if (cert is None) != (key is None):
        raise _invalid("tls.crt and tls.key go together: set both or none")
    context = ssl.create_default_context() if ca is None else _trust_only(ca)
    if cert is not None and key is not None:
        _load_client_certificate(context, cert, key)
    return context


def _trust_only(ca: bytes) -> ssl.SSLContext:
    try:
        # Comments between the certificates may hold anything. Not empty: create_default_context takes "" for None.
        return ssl.create_default_context(cadata=ca.decode("ascii", "ignore") or " ")
    except (ssl.SSLError, ValueError) as error:
        raise _invalid("ca.crt is not a certificate in PEM format") from error


def _load_client_certificate(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    try:
        with ExitStack() as files:
            cert_path = files.enter_context(private_file(cert))
            key_path = files.enter_context(private_file(key))
            # An empty password instead of none: OpenSSL would ask for one on the terminal and block.
            context.load_cert_chain(cert_path, key_path, password="")
    except (ssl.SSLError, ValueError) as error:
        raise _invalid("tls.crt and tls.key are not a certificate and its key (unencrypted) in PEM format") from error


def _invalid(message: str) -> Fault:
    return Fault("waiting", reasons.SECRET_VALUE_INVALID, message)
