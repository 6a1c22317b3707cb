"""What a server lists, read from its XML: pages of objects, of versions and of unfinished uploads. Pure.

Called by `bucket.py`. minio-py reads the same pages several times slower, and that was most of the time of a purge
that was not the server's own. Nothing here decides what may go.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element, fromstring

#: What XML 1.0 can carry, a carriage return as a reference only.
CARRIED_BY_XML = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
#: What a server writes for a character that XML cannot carry: the name is another one then, and nobody knows which.
REPLACEMENT = "\ufffd"
_DOT_SEGMENTS = frozenset({".", ".."})


class Listed(NamedTuple):
    """One object, version or delete marker. `version_id` is None where a bucket has no versions; `size` in bytes."""

    name: str
    version_id: str | None
    size: int
    is_marker: bool


class Upload(NamedTuple):
    """An upload that was begun and never completed."""

    name: str
    upload_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing, in the server's order. `following`: the query of the next page, None after the last one.

    `unnamed` entries are there, but their names cannot be read or sent; they are not among `objects`.
    """

    objects: list[Listed]
    unnamed: int
    following: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class UploadPage:
    """A page of unfinished uploads, as a Page is. `unnamed`: what can be read of the names that cannot be sent."""

    uploads: list[Upload]
    unnamed: list[str]
    following: Mapping[str, str] | None


def parse_objects(body: bytes, *, versioned: bool) -> Page:
    """Read a page of objects or versions. ValueError or ParseError for anything else."""
    root = _read(body, "ListVersionsResult" if versioned else "ListBucketResult")
    is_encoded = root.findtext(f"{_namespace(root)}EncodingType") == "url"
    objects, unnamed, last = [], 0, None
    for kind, entry in _entries(root, ("Contents", "Version", "DeleteMarker")):
        last = entry
        name = _decode(entry.get("Key", ""), is_encoded=is_encoded)
        if name is None or not _is_sendable(name):
            unnamed += 1
        else:
            is_marker = kind == "DeleteMarker"
            size = 0 if is_marker else int(entry.get("Size") or 0)
            objects.append(Listed(name, entry.get("VersionId") if versioned else None, size, is_marker))
    return Page(objects, unnamed, _following(root, last, versioned=versioned, is_encoded=is_encoded))


def parse_uploads(body: bytes, *, is_encoded: bool) -> UploadPage:
    """Read a page of uploads whose names were, or were not, asked for in URL encoding: servers claim it falsely."""
    root = _read(body, "ListMultipartUploadsResult")
    uploads, unnamed = [], []
    for _, entry in _entries(root, ("Upload",)):
        name = _decode(entry.get("Key", ""), is_encoded=is_encoded)
        if name is None or _has_dot_segments(name):
            unnamed.append(name or entry.get("Key", ""))
        else:
            uploads.append(Upload(name, entry.get("UploadId", "")))
    # Exactly the markers of the answer: SeaweedFS gives none for the key, and finds nothing when it is sent one.
    key = _text(root, "NextKeyMarker")
    key = unquote_plus(key) if is_encoded else key
    markers = {"key-marker": key, "upload-id-marker": _text(root, "NextUploadIdMarker")}
    following = {name: value for name, value in markers.items() if value}
    return UploadPage(uploads, unnamed, following if _is_truncated(root) and following else None)


def _read(body: bytes, expected: str) -> Element:
    root = fromstring(body)  # noqa: S314 - from the server of the Secret; expat bounds what entities expand to
    if root.tag.rpartition("}")[2] != expected:
        raise ValueError(f"not a {expected}")
    return root


def _namespace(root: Element) -> str:
    return root.tag[: root.tag.rfind("}") + 1]


def _entries(root: Element, kinds: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """The entries of these kinds, each as its plain fields."""
    start = len(_namespace(root))
    for element in root:
        if (kind := element.tag[start:]) in kinds:
            yield kind, {field.tag[start:]: field.text or "" for field in element}


def _text(root: Element, field: str) -> str:
    return root.findtext(f"{_namespace(root)}{field}") or ""


def _is_truncated(root: Element) -> bool:
    return _text(root, "IsTruncated").lower() == "true"


def _decode(text: str, *, is_encoded: bool) -> str | None:
    """The name that was meant, or None where the answer does not tell it."""
    if REPLACEMENT in text or not text:
        return None
    if not is_encoded or ("%" not in text and "+" not in text):
        return text
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError:
        return None


def _is_sendable(name: str) -> bool:
    return CARRIED_BY_XML.fullmatch(name) is not None or not _has_dot_segments(name)


def _has_dot_segments(name: str) -> bool:
    """Whether a client on the way could shorten the name where it stands in a URL: to that of something else."""
    return not _DOT_SEGMENTS.isdisjoint(name.split("/"))


def _following(
    root: Element, last: Mapping[str, str] | None, *, versioned: bool, is_encoded: bool
) -> Mapping[str, str] | None:
    if not _is_truncated(root):
        return None
    if not versioned and (token := _text(root, "NextContinuationToken")):
        return {"continuation-token": token}
    key = _text(root, "NextKeyMarker") or (last or {}).get("Key", "")
    key = unquote_plus(key) if is_encoded else key
    if not key:
        raise ValueError("a listing that goes on, but does not say where")
    if not versioned:
        return {"start-after": key}
    version = _text(root, "NextVersionIdMarker") or (last or {}).get("VersionId", "")
    return {"key-marker": key} | ({"version-id-marker": version} if version else {})
