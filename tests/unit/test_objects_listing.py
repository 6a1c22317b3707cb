"""What is read from, and written into, the XML of S3 servers: shapes of AWS and others that no test server sends."""

from xml.etree.ElementTree import ParseError

import pytest

from taskdeletion.backends.objects.batches import Refusal, build_batch, parse_refusals
from taskdeletion.backends.objects.listing import Listed, Upload, parse_objects, parse_uploads

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def objects_page(content: str, *, kind: str = "ListBucketResult", namespace: str = NAMESPACE) -> bytes:
    return f"<{kind} {namespace}><Name>b</Name>{content}</{kind}>".encode()


def uploads_page(content: str) -> bytes:
    return objects_page(content, kind="ListMultipartUploadsResult")


@pytest.mark.parametrize("namespace", [NAMESPACE, ""], ids=["with-namespace", "without"])
def test_a_page_of_objects_is_read_in_order_with_or_without_a_namespace(namespace: str) -> None:
    content = "".join(
        f"<Contents><Key>{name}</Key><Size>{size}</Size></Contents>" for name, size in [("b", 7), ("a", 0)]
    )
    page = parse_objects(objects_page(content, namespace=namespace), versioned=False)
    assert page.objects == [Listed("b", None, 7, is_marker=False), Listed("a", None, 0, is_marker=False)]
    assert (page.unnamed, page.following) == (0, None)


def test_versions_and_markers_keep_their_order_and_a_marker_has_no_size() -> None:
    content = (
        "<DeleteMarker><Key>a</Key><VersionId>2</VersionId></DeleteMarker>"
        "<Version><Key>a</Key><VersionId>null</VersionId><Size>5</Size></Version>"
    )
    page = parse_objects(objects_page(content, kind="ListVersionsResult"), versioned=True)
    assert page.objects == [Listed("a", "2", 0, is_marker=True), Listed("a", "null", 5, is_marker=False)]


@pytest.mark.parametrize(
    ("encoding", "written", "name"),
    [
        ("<EncodingType>url</EncodingType>", "a+b%2B%0D%01", "a b+\r\x01"),
        ("<EncodingType>url</EncodingType>", "%EF%BF%BD", "\ufffd"),
        ("<EncodingType>url</EncodingType>", "x/../y", "x/../y"),
        ("", "a+b%2B", "a+b%2B"),
    ],
)
def test_a_name_is_decoded_only_where_the_answer_says_that_it_is_encoded(
    encoding: str, written: str, name: str
) -> None:
    page = parse_objects(objects_page(f"{encoding}<Contents><Key>{written}</Key></Contents>"), versioned=False)
    assert [one.name for one in page.objects] == [name]


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        pytest.param("", "control\ufffd", id="replaced"),
        pytest.param("<EncodingType>url</EncodingType>", "control\ufffd", id="replaced-though-encoded"),
        pytest.param("<EncodingType>url</EncodingType>", "%FF", id="no-utf-8"),
        pytest.param("<EncodingType>url</EncodingType>", "x/../%01", id="only-for-a-url-and-shortened-there"),
        pytest.param("", "", id="empty"),
    ],
)
def test_a_name_that_cannot_be_told_or_sent_is_counted_as_unnamed(encoding: str, written: str) -> None:
    content = f"{encoding}<Contents><Key>{written}</Key></Contents><Contents><Key>plain</Key></Contents>"
    page = parse_objects(objects_page(content), versioned=False)
    assert ([one.name for one in page.objects], page.unnamed) == (["plain"], 1)


@pytest.mark.parametrize(
    ("versioned", "content", "following"),
    [
        (False, "<NextContinuationToken>t+%41</NextContinuationToken>", {"continuation-token": "t+%41"}),
        (False, "<Contents><Key>a</Key></Contents><Contents><Key>b%20c</Key></Contents>", {"start-after": "b c"}),
        (
            True,
            "<NextKeyMarker>a+b</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>",
            {"key-marker": "a b", "version-id-marker": "v"},
        ),
        (
            True,
            "<Version><Key>c</Key><VersionId>1</VersionId></Version>"
            "<DeleteMarker><Key>a%2Bb</Key><VersionId>2</VersionId></DeleteMarker>",
            {"key-marker": "a+b", "version-id-marker": "2"},
        ),
    ],
)
def test_a_truncated_page_says_where_to_go_on(versioned: bool, content: str, following: dict[str, str]) -> None:
    kind = "ListVersionsResult" if versioned else "ListBucketResult"
    whole = f"<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>{content}"
    assert parse_objects(objects_page(whole, kind=kind), versioned=versioned).following == following


@pytest.mark.parametrize("versioned", [False, True])
def test_a_truncated_page_that_does_not_say_where_it_goes_on_is_an_error(versioned: bool) -> None:
    kind = "ListVersionsResult" if versioned else "ListBucketResult"
    with pytest.raises(ValueError, match="does not say where"):
        parse_objects(objects_page("<IsTruncated>true</IsTruncated>", kind=kind), versioned=versioned)


@pytest.mark.parametrize("body", [b"<html/>", b"<Error><Code>InternalError</Code></Error>", b"", b"<ListBucketResult>"])
def test_what_is_no_listing_is_never_an_empty_one(body: bytes) -> None:
    with pytest.raises((ValueError, ParseError)):
        parse_objects(body, versioned=False)
    with pytest.raises((ValueError, ParseError)):
        parse_uploads(body, is_encoded=False)


def test_uploads_are_decoded_as_they_were_asked_for_whatever_the_answer_claims() -> None:
    content = "<EncodingType>url</EncodingType><Upload><Key>a+b</Key><UploadId>1</UploadId></Upload>"
    assert parse_uploads(uploads_page(content), is_encoded=False).uploads == [Upload("a+b", "1")]
    assert parse_uploads(uploads_page(content), is_encoded=True).uploads == [Upload("a b", "1")]


def test_an_upload_whose_name_a_url_cannot_carry_is_unnamed() -> None:
    content = "<Upload><Key>t/../x</Key><UploadId>1</UploadId></Upload><Upload><Key>t/\ufffd</Key></Upload>"
    page = parse_uploads(uploads_page(content), is_encoded=False)
    assert (page.uploads, page.unnamed) == ([], ["t/../x", "t/\ufffd"])


@pytest.mark.parametrize(
    ("content", "following"),
    [
        ("<NextKeyMarker>a+b</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>", ["a b", "u"]),
        ("<NextUploadIdMarker>u</NextUploadIdMarker>", ["u"]),
    ],
)
def test_uploads_go_on_with_exactly_the_markers_of_the_answer(content: str, following: list[str]) -> None:
    page = parse_uploads(uploads_page(f"<IsTruncated>true</IsTruncated>{content}"), is_encoded=True)
    assert list((page.following or {}).values()) == following
    assert parse_uploads(uploads_page(content), is_encoded=True).following is None


def test_a_batch_names_exactly_what_goes_and_keeps_a_carriage_return() -> None:
    batch = build_batch([Listed("a<&>\r", None, 5, is_marker=False), Listed("b", "v", 0, is_marker=True)])
    assert batch.decode() == (
        f"<Delete {NAMESPACE}><Quiet>true</Quiet><Object><Key>a&lt;&amp;&gt;&#13;</Key></Object>"
        "<Object><Key>b</Key><VersionId>v</VersionId></Object></Delete>"
    )


def test_refusals_are_read_from_a_result_and_from_an_error_for_all() -> None:
    error = "<Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message><VersionId>v</VersionId></Error>"
    result = f"<DeleteResult {NAMESPACE}><Deleted><Key>b</Key></Deleted>{error}</DeleteResult>"
    assert parse_refusals(result.encode()) == [Refusal("AccessDenied", "no", "a", "v")]
    assert parse_refusals(b"<Error><Code>InternalError</Code></Error>") == [Refusal("InternalError", "", "", None)]
    assert parse_refusals(b"<DeleteResult/>") == []
    with pytest.raises(ValueError, match="not a DeleteResult"):
        parse_refusals(b"<html/>")
