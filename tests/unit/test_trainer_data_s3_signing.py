"""Signatures: AWS's own example, and equality with botocore's signer."""

from datetime import datetime, timezone
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.storage.s3_signing import UNSIGNED_PAYLOAD, Keys, signed_headers

NOW = datetime(2013, 5, 24, tzinfo=timezone.utc)
EXAMPLE = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


def sign(method, url, headers=None, body=b"", keys=EXAMPLE, region="us-east-1", now=NOW):
    return signed_headers(keys, region, method, urlsplit(url), headers or {}, body, now)


def test_the_example_of_the_documentation_for_a_range():
    found = sign("GET", "http://examplebucket.s3.amazonaws.com/test.txt", {"Range": "bytes=0-9"})
    assert found["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_the_example_of_the_documentation_for_a_listing():
    found = sign("GET", "http://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J")
    assert found["Authorization"].endswith("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


class FixedClock:
    """Stands for datetime in botocore's signer."""

    moment = NOW

    @classmethod
    def utcnow(cls):
        return cls.moment.replace(tzinfo=None)


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch):
    if hasattr(botocore.auth, "get_current_datetime"):
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args, **options: NOW.replace(tzinfo=None))
    else:
        monkeypatch.setattr(botocore.auth.datetime, "datetime", FixedClock)


def by_botocore(method, url, headers, body, keys, region):
    request = AWSRequest(method=method, url=url, data=body, headers=dict(headers))
    unsigned = url.startswith("https") and body
    request.context["client_config"] = Config(s3={"payload_signing_enabled": not unsigned})
    credentials = Credentials(keys.access, keys.secret, keys.token)
    botocore.auth.S3SigV4Auth(credentials, "s3", region).add_auth(request)
    return dict(request.headers.items())


key_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT"]),
    scheme=st.sampled_from(["http", "https"]),
    host=st.sampled_from(["store:9000", "bucket.s3.eu-west-1.amazonaws.com", "127.0.0.1:5000"]),
    name=key_names,
    query=st.dictionaries(st.sampled_from(["prefix", "list-type", "continuation-token"]), key_names, max_size=3),
    headers=st.sampled_from([{}, {"Range": "bytes=5-10"}, {"Range": "bytes=0-1", "If-Match": '"abc"'}]),
    body=st.binary(max_size=20),
    token=st.sampled_from([None, "session/token=="]),
    region=st.sampled_from(["us-east-1", "cn-north-1"]),
)
def test_signatures_are_those_of_botocore(method, scheme, host, name, query, headers, body, token, region):
    path = quote(f"/bucket/{name}", safe="/-_.~").replace("//", "/x/").replace("/./", "/x/").replace("/../", "/x/")
    path = path.removesuffix("/.").removesuffix("/..")  # botocore tidies these up before it signs
    asked = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in query.items())
    url = f"{scheme}://{host}{path}" + (f"?{asked}" if asked else "")
    body = body if method == "PUT" else b""
    keys = Keys("AKID", "secret/+", token)
    ours = sign(method, url, headers, body, keys, region)
    theirs = by_botocore(method, url, headers, body, keys, region)
    assert ours["Authorization"] == theirs["Authorization"]
    assert ours["X-Amz-Content-SHA256"] == theirs["X-Amz-Content-SHA256"]
    assert ours["X-Amz-Date"] == theirs["X-Amz-Date"]
    assert ours.get("X-Amz-Security-Token") == theirs.get("X-Amz-Security-Token") == token


def test_payloads_are_digested_only_where_the_connection_does_not_protect_them():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sign("GET", "https://h/x")["X-Amz-Content-SHA256"] == empty
    assert sign("PUT", "http://h/x", body=b"abc")["X-Amz-Content-SHA256"] == digest
    assert sign("PUT", "https://h/x", body=b"abc")["X-Amz-Content-SHA256"] == UNSIGNED_PAYLOAD


def test_the_host_is_signed_with_its_port():
    assert sign("GET", "http://h:9000/x")["Host"] == "h:9000"
    assert sign("GET", "http://h:9000/x")["Authorization"] != sign("GET", "http://h/x")["Authorization"]


def test_secrets_are_not_shown():
    assert "wJalr" not in repr(EXAMPLE)
    assert "token" not in repr(Keys("AKID", "secret", "token"))
    assert "secret" not in str(Keys("AKID", "secret", "token"))
