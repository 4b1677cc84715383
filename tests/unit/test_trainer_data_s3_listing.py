"""Reading listings, and what is sent instead of them."""

import pytest

from clip_trainer.data.storage.s3_listing import listing_query, parse_listing
from clip_trainer.data.storage.source import ObjectInfo
from clipctl.contract.errors import UnavailableError

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def listing(*contents, namespace=NAMESPACE, rest="<IsTruncated>false</IsTruncated>"):
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;{etag}&quot;</ETag></Contents>"
        for key, size, etag in contents
    )
    return f'<?xml version="1.0"?><ListBucketResult{namespace}>{rest}{entries}</ListBucketResult>'.encode()


@pytest.mark.parametrize("namespace", [NAMESPACE, ""])
def test_names_are_relative_and_decoded(namespace):
    document = listing(("d/a.tar", 5, "e1"), ("d/b+c%2B%C3%BC.tar", 0, "e2"), ("d/", 0, "e3"), namespace=namespace)
    page = parse_listing(document, "d/", "s3://b/d")
    assert page.objects == (ObjectInfo("a.tar", 5, "e1"), ObjectInfo("b c+ü.tar", 0, "e2"))
    assert page.next_token is None


def test_pages_follow_each_other():
    rest = "<IsTruncated>true</IsTruncated><NextContinuationToken>1/x==</NextContinuationToken>"
    assert parse_listing(listing(rest=rest), "", "s3://b").next_token == "1/x=="
    assert listing_query("d/", "1/x==")["continuation-token"] == "1/x=="
    assert "continuation-token" not in listing_query("d/", None)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html><body>hello</body></html>",
        b"<ListBucketResult><Contents>",
        listing(("a", "many", "e")),
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ListBucketResult>&a;</ListBucketResult>',
        b"\xff\xfe",
    ],
)
def test_what_is_no_listing_is_worth_another_attempt(document):
    with pytest.raises(UnavailableError, match="something else than a listing"):
        parse_listing(document, "", "s3://b")
