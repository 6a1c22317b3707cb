"""One request that deletes many objects: its body, and the errors of single objects in its answer. Pure.

Called by `bucket.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import fromstring
from xml.sax.saxutils import escape

from taskdeletion.backends.objects.listing import Listed

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
#: As it stands, a carriage return would arrive as a line feed: as the name of another object.
_REFERENCES = {"\r": "&#13;"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one object or version of a batch was not deleted."""

    code: str
    message: str
    name: str
    version_id: str | None


def build_batch(objects: Sequence[Listed]) -> bytes:
    """The body of a quiet DeleteObjects request: exactly these objects or versions. XML must carry the names."""
    entries = "".join(
        f"<Object><Key>{escape(one.name, _REFERENCES)}</Key>{_version(one.version_id)}</Object>" for one in objects
    )
    return f'<Delete xmlns="{_NAMESPACE}"><Quiet>true</Quiet>{entries}</Delete>'.encode()


def _version(version_id: str | None) -> str:
    return "" if version_id is None else f"<VersionId>{escape(version_id)}</VersionId>"


def parse_refusals(body: bytes) -> list[Refusal]:
    """The errors in an answer of status 200: of single objects, or one without a name for all of them.

    ValueError or ParseError where the answer is of another kind.
    """
    root = fromstring(body)  # noqa: S314 - from the server of the Secret; expat bounds what entities expand to
    kind = root.tag.rpartition("}")[2]
    if kind not in ("DeleteResult", "Error"):
        raise ValueError("not a DeleteResult")
    errors = [root] if kind == "Error" else [one for one in root if one.tag.rpartition("}")[2] == "Error"]
    return [_refusal({field.tag.rpartition("}")[2]: field.text or "" for field in error}) for error in errors]


def _refusal(fields: dict[str, str]) -> Refusal:
    version_id = fields.get("VersionId") or None
    return Refusal(fields.get("Code", ""), fields.get("Message", ""), fields.get("Key", ""), version_id)
