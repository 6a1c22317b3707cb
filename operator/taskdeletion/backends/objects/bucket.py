"""The requests to one bucket: list, delete, look at locks, abort uploads. Every error becomes a Fault.

Called by `objects.py`, in threads. It sends what it is told to, never bypasses an object lock, and decides nothing.
"""

import hashlib
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from taskdeletion.api import reasons
from taskdeletion.backends.objects.batches import Refusal, build_batch, parse_refusals
from taskdeletion.backends.objects.faults import (
    CODES_OF_ABSENCE,
    CODES_OF_DENIAL,
    CODES_OF_MISSING_FEATURE,
    CODES_OF_NO_LOCK,
    fault_of,
)
from taskdeletion.backends.objects.listing import (
    CARRIED_BY_XML,
    Listed,
    Page,
    Upload,
    UploadPage,
    parse_objects,
    parse_uploads,
)
from taskdeletion.domain.faults import Fault

PAGE_SIZE = 1000
#: They keep names in one flat index. MinIO keeps objects as files: one of them may hide what lies below its name, and
#: it lists uploads of a whole name or a whole bucket only. Others are taken for its like.
_FLAT_SERVERS = ("AmazonS3", "SeaweedFS")

Answer = TypeVar("Answer")
Parameters = dict[str, str | list[str] | tuple[str]]


class Bucket:
    """One bucket of a server. Safe for many threads."""

    def __init__(self, client: Minio, name: str) -> None:
        self._client = client
        self._name = name
        self._is_flat = False

    def is_versioned(self) -> bool:
        """Whether old versions may exist. Where the server does not let us know, they may."""

        def has_status() -> bool:
            return bool(self._client.get_bucket_versioning(self._name).status)

        def is_known_or_denied() -> bool:
            return self._ask_or(True, CODES_OF_DENIAL, has_status)

        return self._ask_or(False, CODES_OF_MISSING_FEATURE, is_known_or_denied)

    def has_locks(self) -> bool:
        """Whether versions may be locked. Where the server does not let us know, they may."""

        def has_config() -> bool:
            return self._client.get_object_lock_config(self._name) is not None

        def is_known_or_denied() -> bool:
            return self._ask_or(True, CODES_OF_DENIAL, has_config)

        return self._ask_or(False, CODES_OF_NO_LOCK | CODES_OF_MISSING_FEATURE, is_known_or_denied)

    def pages(self, prefix: str, *, versioned: bool) -> Iterator[Page]:
        """Everything under a prefix: objects, or all versions and delete markers. Fault for what lies elsewhere."""
        following: Mapping[str, str] | None = {}
        while following is not None:
            page = self._page({"prefix": prefix, "max-keys": str(PAGE_SIZE), **following}, versioned=versioned)
            _require_under(prefix, page.objects)
            _require_advance(following, page.following)
            yield page
            following = page.following

    def is_hidden_below(self, name: str, *, versioned: bool) -> bool:
        """Whether there is an object `name`, and the server may be one that lists nothing below it."""
        page = self._page({"prefix": name, "delimiter": "/", "max-keys": "1"}, versioned=versioned)
        return not self._is_flat and any(one.name == name for one in page.objects)

    def delete(self, objects: Sequence[Listed]) -> list[Refusal]:
        """Delete exactly these objects or versions; why single ones were not deleted."""
        carried = [one for one in objects if CARRIED_BY_XML.fullmatch(one.name)]
        refusals = self._delete_many(carried) if carried else []
        if len(carried) == len(objects):
            return refusals
        others = (one for one in objects if not CARRIED_BY_XML.fullmatch(one.name))
        return refusals + [refusal for one in others if (refusal := self._delete_one(one)) is not None]

    def is_locked(self, name: str, version_id: str | None) -> bool | None:
        """Whether a retention or a legal hold is on a version; None where we may not look."""
        tolerated = CODES_OF_NO_LOCK | CODES_OF_ABSENCE
        try:
            retention = self._ask_or(None, tolerated, self._client.get_object_retention, self._name, name, version_id)
            if retention is not None and retention.retain_until_date > datetime.now(UTC):
                return True
            has_hold = self._client.is_object_legal_hold_enabled
            return bool(self._ask_or(False, tolerated, has_hold, self._name, name, version_id))
        except Fault:
            return None

    def uploads(self, prefix: str) -> Iterator[UploadPage]:
        """The uploads under a prefix that were begun and never completed, page by page.

        A server that is not flat may answer a prefix with nothing, so that it is asked for those of the whole bucket.
        """
        if not self._is_flat:
            try:
                yield from self._upload_pages("", under=prefix)
            except Fault as fault:  # a policy may know prefixes only
                if not _has_code(fault, CODES_OF_DENIAL):
                    raise
            else:
                return
        yield from self._upload_pages(prefix)

    def abort(self, upload: Upload) -> None:
        """Abort an upload; that it is gone is as good."""
        abort = self._client._abort_multipart_upload  # private in minio-py, which has no public way
        self._ask_or(None, CODES_OF_ABSENCE, abort, self._name, upload.name, upload.upload_id)

    # --- one request --------------------------------------------------------------------------------------------------

    def _page(self, query: Mapping[str, str], *, versioned: bool) -> Page:
        # An empty delimiter is sent on purpose: policies may ask for it.
        kind = {"versions": ""} if versioned else {"list-type": "2"}
        query = {"delimiter": "", "encoding-type": "url", **kind, **query}
        return self._ask(lambda: parse_objects(self._get(query), versioned=versioned))

    def _get(self, query: Mapping[str, str]) -> bytes:
        parameters: Parameters = {**query}
        response = self._client._execute("GET", self._name, query_params=parameters)
        self._is_flat = response.headers.get("Server", "").startswith(_FLAT_SERVERS)
        body: bytes = response.data
        return body

    def _delete_many(self, objects: Sequence[Listed]) -> list[Refusal]:
        body = build_batch(objects)
        digest = hashlib.md5(body, usedforsecurity=False).digest()  # S3 asks for it with this request
        headers: Parameters = {"Content-MD5": b64encode(digest).decode()}
        query: Parameters = {"delete": ""}

        def post() -> list[Refusal]:
            answer = self._client._execute("POST", self._name, body=body, headers=headers, query_params=query)
            return parse_refusals(answer.data)

        return self._ask(post)

    def _delete_one(self, one: Listed) -> Refusal | None:
        try:
            self._ask(self._client.remove_object, self._name, one.name, one.version_id)
        except Fault as fault:
            if isinstance(fault.__cause__, S3Error):
                return Refusal(fault.__cause__.code or "", fault.__cause__.message or "", one.name, one.version_id)
            raise
        return None

    def _upload_pages(self, prefix: str, *, under: str = "") -> Iterator[UploadPage]:
        following: Mapping[str, str] | None = {}
        while following is not None:
            query = {"uploads": "", "prefix": prefix, "delimiter": "", "max-uploads": str(PAGE_SIZE), **following}
            page = self._ask_or(UploadPage([], [], None), CODES_OF_MISSING_FEATURE, self._upload_page, query)
            _require_advance(following, page.following)
            yield _only_under(under or prefix, page)
            following = page.following

    def _upload_page(self, query: Mapping[str, str]) -> UploadPage:
        """Names as they stand in the answer, since SeaweedFS says that it encoded them and did not.

        Only where that cannot be read, the server is asked to encode them; AWS and MinIO do.
        """
        try:
            plain = parse_uploads(self._get(query), is_encoded=False)
        except ParseError:
            return parse_uploads(self._get({**query, "encoding-type": "url"}), is_encoded=True)
        if not plain.unnamed:
            return plain
        encoded = parse_uploads(self._get({**query, "encoding-type": "url"}), is_encoded=True)
        return plain if encoded.unnamed else encoded

    def _ask(self, request: Callable[..., Answer], *arguments: Any) -> Answer:
        """Send one request; what goes wrong becomes a Fault."""
        try:
            return request(*arguments)
        except (MinioException, HTTPError, ParseError, ValueError) as error:
            raise fault_of(error) from error

    def _ask_or(
        self, default: Answer, codes: Collection[str], request: Callable[..., Answer], *arguments: Any
    ) -> Answer:
        """Like `_ask`, but `default` where the server answers with one of the error codes."""
        try:
            return self._ask(request, *arguments)
        except Fault as fault:
            if _has_code(fault, codes):
                return default
            raise


def _has_code(fault: Fault, codes: Collection[str]) -> bool:
    return isinstance(fault.__cause__, S3Error) and fault.__cause__.code in codes


def _require_under(prefix: str, objects: Sequence[Listed]) -> None:
    if not all(one.name.startswith(prefix) for one in objects):
        message = "the server listed objects outside the prefix that was asked for; they are left alone"
        raise Fault("permanent", reasons.SERVER_ERROR, message)


def _require_advance(before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> None:
    if before and before == after:
        raise Fault("retriable", reasons.SERVER_ERROR, "the server's listing goes round in circles")


def _only_under(prefix: str, page: UploadPage) -> UploadPage:
    """Without the uploads of others. A prefix is plain text: a name that is unreadable within it is another's."""
    uploads = [one for one in page.uploads if one.name.startswith(prefix)]
    return UploadPage(uploads, [name for name in page.unnamed if name.startswith(prefix)], page.following)
