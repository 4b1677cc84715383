"""Which error a status, a document or a broken connection means."""

import ssl
import time
from email.message import Message
from email.utils import formatdate

import pytest

from clip_trainer.data.storage.http_errors import (
    ExpiredCredentialsError,
    of_connection,
    of_status,
    seconds_to_wait,
    shown_url,
)
from clip_trainer.data.storage.retry import BusyError, LastingError
from clipctl.contract.errors import (
    CannotCreateError,
    CorruptError,
    MissingError,
    PermissionDeniedError,
    SpecError,
    UnavailableError,
)


def headers(**values):
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


def document(code, **elements):
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items())
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>text</Message>{inner}</Error>'.encode()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", MissingError),
        (404, "NoSuchBucket", MissingError),
        (410, "", MissingError),
        (403, "AccessDenied", PermissionDeniedError),
        (403, "SignatureDoesNotMatch", PermissionDeniedError),
        (403, "RequestTimeTooSkewed", PermissionDeniedError),
        (401, "", PermissionDeniedError),
        (407, "", PermissionDeniedError),
        (400, "ExpiredToken", ExpiredCredentialsError),
        (403, "ExpiredToken", ExpiredCredentialsError),
        (301, "PermanentRedirect", SpecError),
        (400, "AuthorizationHeaderMalformed", SpecError),
        (400, "InvalidBucketName", SpecError),
        (405, "", SpecError),
        (412, "PreconditionFailed", CorruptError),
        (416, "InvalidRange", CorruptError),
        (400, "RequestTimeout", BusyError),
        (429, "", BusyError),
        (500, "InternalError", BusyError),
        (503, "SlowDown", BusyError),
        (599, "SlowDown", BusyError),
        (400, "EntityTooLarge", CannotCreateError),
        (507, "", CannotCreateError),
    ],
)
def test_statuses_are_typed(status, code, expected):
    found = of_status(status, headers(), document(code) if code else b"", "s3://b/x.tar")
    assert type(found) is expected
    assert "s3://b/x.tar" in found.problem
    assert found.hint


@pytest.mark.parametrize(
    ("status", "of_s3"), [(403, "AWS_ACCESS_KEY_ID"), (404, "bucket"), (503, "AWS_ENDPOINT_URL_S3")]
)
def test_remedies_are_those_of_the_service(status, of_s3):
    assert of_s3 in of_status(status, headers(), b"", "s3://b/x.tar").hint
    web = of_status(status, headers(), b"", "https://host/x.tar").hint
    assert "AWS" not in web
    assert "address" in web


def test_a_region_is_named_wherever_it_is_told():
    for found in (
        of_status(301, headers(x_amz_bucket_region="eu-west-1"), b"", "s3://b"),
        of_status(400, headers(), document("AuthorizationHeaderMalformed", Region="eu-west-1"), "s3://b"),
    ):
        assert "in the region eu-west-1" in found.problem
        assert found.hint == "Set AWS_REGION=eu-west-1."
    assert "another region" in of_status(307, headers(), b"", "s3://b").problem


def test_a_page_of_html_is_not_searched_for_codes_for_long():
    found = of_status(403, headers(), b"<html>" + b"<Code>" + b"x" * 100_000, "x")
    assert "status 403)" in found.problem


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, 0), ("", 0), ("7", 7), ("0.5", 0.5), ("-3", 0), ("soon", 0), ("inf", 0), ("nan", 0)]
)
def test_retry_after_in_seconds(value, seconds):
    assert seconds_to_wait(value) == seconds


def test_retry_after_as_a_date():
    assert 500 < seconds_to_wait(formatdate(time.time() + 600, usegmt=True)) <= 600
    assert seconds_to_wait(formatdate(0, usegmt=True)) == 0
    busy = of_status(503, headers(Retry_After="9"), b"", "x")
    assert busy.retry_after == 9


def test_broken_connections_are_typed():
    assert type(of_connection(ConnectionResetError(104, "reset"), "x")) is UnavailableError
    assert "timed out" in of_connection(TimeoutError("timed out"), "x").problem
    assert "OSError" in of_connection(OSError(), "x").problem
    assert len(of_connection(OSError("y" * 999), "x").problem) < 300


def test_an_untrusted_certificate_is_not_tried_again():
    error = ssl.SSLCertVerificationError("bad")
    error.verify_message = "self-signed certificate"
    found = of_connection(error, "https://h/x")
    assert isinstance(found, LastingError)
    assert "self-signed" in found.problem
    assert "SSL_CERT_FILE" in found.hint


def test_addresses_are_shown_without_secrets():
    assert shown_url("https://user:secret@host:8/p/x.tar?X-Amz-Signature=secret") == "https://host:8/p/x.tar"
