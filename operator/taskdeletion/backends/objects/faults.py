"""What an answer of an S3 server means: one named fault per error, without names of objects."""

import re
from typing import Any

from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault

CODES_OF_ABSENCE = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchUpload"})
CODES_OF_MISSING_FEATURE = frozenset({"NotImplemented", "MethodNotAllowed"})
CODES_OF_DENIAL = frozenset({"AccessDenied", "AllAccessDisabled"})
#: There is none, or no lock on the object: AWS and MinIO, then SeaweedFS.
CODES_OF_NO_LOCK = frozenset(
    {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "NoSuchObjectLegalHold"}
)
#: Of a single object, where a lock may be the reason: AWS says AccessDenied, MinIO InvalidRequest.
CODES_OF_REFUSAL = CODES_OF_DENIAL | {"InvalidRequest", "ObjectLocked", "MethodNotAllowed"}
LOCK_MESSAGE = re.compile(r"\bWORM\b|object lock|legal hold|retention", re.IGNORECASE)
CODES_OF_AUTHENTICATION = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "InvalidTokenId",
        "TokenRefreshRequired",
    }
)
CODES_OF_WRONG_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "Redirect", "TemporaryRedirect", "InvalidRegion"}
)
_PLAIN_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


def fault_of(error: Exception) -> Fault:
    if isinstance(error, S3Error):
        return fault_of_code(error.code)
    if isinstance(error, HTTPError):
        return _of_transport(error)
    if isinstance(error, InvalidResponseError | ServerError):
        return _of_status(int(getattr(error, "_code", 0) or getattr(error, "status_code", 0)))
    message = "the object store gave an answer that cannot be read"
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        message = "the object store holds or sent something that cannot be worked with: an answer, or an object's name"
    return Fault("retriable", reasons.SERVER_ERROR, message)


def fault_of_code(code: str | None) -> Fault:
    """The fault for an error code of S3. Only the code is repeated: messages may hold names of objects."""
    code = code or ""
    if code == "NoSuchBucket":
        return Fault(
            "waiting",
            reasons.BUCKET_MISSING,
            "the bucket of spec.objectStore does not exist at this endpoint; create it, or correct the Secret",
        )
    if code in CODES_OF_AUTHENTICATION:
        message = f"the object store refused the keys of the Secret ({code})"
        return Fault("waiting", reasons.AUTHENTICATION_FAILED, message)
    if code in CODES_OF_DENIAL:
        return Fault(
            "permanent",
            reasons.PERMISSION_DENIED,
            "the access key lacks a permission: it needs to list the bucket, its versions and its multipart uploads,"
            " and to delete objects, versions and uploads",
        )
    if code == "RequestTimeTooSkewed":
        message = "the clocks of the operator and the object store differ by more than 15 minutes"
        return Fault("waiting", reasons.CLOCK_SKEW, message)
    if code in CODES_OF_WRONG_REGION:
        return invalid_secret(f"endpoint or region is wrong for this bucket ({code})")
    shown = code if _PLAIN_CODE.fullmatch(code) else "an error"
    return Fault("retriable", reasons.SERVER_ERROR, f"the object store answered {shown}")


def _of_status(status: int) -> Fault:
    if status >= 500:
        return Fault("retriable", reasons.SERVER_ERROR, f"the object store answered with HTTP status {status}")
    return Fault("waiting", reasons.UNAVAILABLE, f"what answers at endpoint is no S3 server (HTTP status {status})")


def _of_transport(error: HTTPError) -> Fault:
    cause: object = error.reason if isinstance(error, MaxRetryError) else error
    if isinstance(cause, SSLError):
        return Fault("waiting", reasons.TLS_FAILED, f"the TLS connection to the object store failed{_why(cause)}")
    if isinstance(cause, ReadTimeoutError):
        return Fault("retriable", reasons.TIMEOUT, "the object store did not answer in time")
    if isinstance(cause, NewConnectionError | ConnectTimeoutError):
        return Fault("waiting", reasons.UNAVAILABLE, "the object store cannot be reached")
    return Fault("waiting", reasons.UNAVAILABLE, "the connection to the object store broke")


def _why(error: SSLError) -> str:
    cause: Any = error.args[0] if error.args else None
    why = getattr(cause, "verify_message", "") or getattr(cause, "reason", "")
    return f": {why}" if why else ""


def invalid_secret(message: str) -> Fault:
    return Fault("waiting", reasons.SECRET_VALUE_INVALID, message)
