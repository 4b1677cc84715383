"""Credentials: from the environment without botocore, else from its chain; renewed once, never again if expired."""

import http.server
import json
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone

import pytest

from clip_trainer.data.storage import source_credentials
from clip_trainer.data.storage.s3_signing import Keys
from clip_trainer.data.storage.source_credentials import CredentialChain, ProfileSettings, profile_settings
from clipctl.contract.errors import PermissionDeniedError, SpecError, UnavailableError

NAMES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CREDENTIAL_EXPIRATION", "AWS_REGION"),
    *("AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"),
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def set_keys(monkeypatch, access="AKID", secret="secret", token=None):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)


def test_the_environment_comes_first_and_needs_no_botocore(monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id=OTHER\naws_secret_access_key=other\n")
    set_keys(monkeypatch, token="t")
    assert CredentialChain().current() == Keys("AKID", "secret", "t")
    code = "import sys\nfrom clip_trainer.data.storage.source_s3 import S3Source\ns = S3Source('s3://bucket/d')\n"
    code += "from clip_trainer.data.storage.source_credentials import CredentialChain\nCredentialChain().current()\n"
    code += "print(sorted({'botocore', 'boto3', 'fsspec', 's3fs', 'numpy', 'torch', 'urllib3'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_known(monkeypatch):
    with pytest.raises(PermissionDeniedError, match="no S3 credentials") as caught:
        CredentialChain().current()
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_profiles(monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id=W\naws_secret_access_key=w\naws_session_token=t\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert CredentialChain().current() == Keys("W", "w", "t")
    monkeypatch.setenv("AWS_PROFILE", "play")
    with pytest.raises(PermissionDeniedError, match="play"):
        CredentialChain().current()


def test_settings_of_profiles(monkeypatch, tmp_path):
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-west-1\nendpoint_url = http://all\n"
        "[profile work]\nregion = eu-north-1\nca_bundle = /ca.pem\nservices = own\n"
        "[services own]\ns3 =\n  endpoint_url = http://own:9000\n"
    )
    assert profile_settings() == ProfileSettings("http://all", "eu-west-1", None)
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert profile_settings() == ProfileSettings("http://own:9000", "eu-north-1", "/ca.pem")
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(SpecError, match="none") as caught:
        profile_settings()
    assert "AWS_PROFILE" in caught.value.hint


class Metadata(http.server.BaseHTTPRequestHandler):
    """The service that gives credentials to containers."""

    given = 0
    status = 200
    seconds = 3600

    def do_GET(self):
        type(self).given += 1
        expires = datetime.now(timezone.utc) + timedelta(seconds=self.seconds)
        body = json.dumps(
            {
                "AccessKeyId": f"AKID{self.given}",
                "SecretAccessKey": "secret",
                "Token": "token",
                "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def metadata(monkeypatch):
    handler = type("Handler", (Metadata,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=lambda: server.serve_forever(0.02))
    thread.start()
    # botocore asks again after two seconds, which is counted here.
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.TIMEOUT_SECONDS", 60)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_address[1]}/creds")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_containers_are_given_credentials_once(metadata):
    chain = CredentialChain()
    assert {chain.current() for _ in range(5)} == {Keys("AKID1", "secret", "token")}
    assert metadata.given == 1


def test_credentials_that_tell_when_they_expire_are_renewed_in_time(metadata):
    metadata.seconds = 60  # botocore renews what has less than ten minutes left
    chain = CredentialChain()
    assert chain.current() != chain.current()


def test_refused_credentials_are_renewed_once_for_all_threads(metadata):
    chain = CredentialChain()
    old = chain.current()
    for _ in range(4):
        chain.renew(old)
    assert chain.current().access == "AKID2"
    assert metadata.given == 2


def test_expired_credentials_are_never_given_out_again(monkeypatch):
    set_keys(monkeypatch)
    chain = CredentialChain()
    chain.renew(chain.current())
    for _ in range(3):
        with pytest.raises(PermissionDeniedError, match="have expired") as caught:
            chain.current()
    assert "AWS_SESSION_TOKEN" in caught.value.hint
    set_keys(monkeypatch, token="new")
    assert chain.current().token == "new", "unless somebody renews them"


def test_a_profile_that_somebody_renewed_is_read_again(monkeypatch, tmp_path):
    def write(token):
        text = f"[default]\naws_access_key_id=W\naws_secret_access_key=w\naws_session_token={token}\n"
        (tmp_path / "credentials").write_text(text)

    write("old")
    chain = CredentialChain()
    old = chain.current()
    write("new")
    assert chain.current() == old, "botocore has read it already"
    chain.renew(old)
    assert chain.current().token == "new"


class EndpointConnectionError(type("ConnectionError", (Exception,), {})):
    """Named like botocore's, and like what it derives from there."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [(EndpointConnectionError("no route"), UnavailableError), (ValueError("what?"), PermissionDeniedError)],
)
def test_what_goes_wrong_on_the_way_to_credentials(monkeypatch, error, expected):
    def fail():
        raise error

    monkeypatch.setattr(source_credentials, "_session", fail)
    with pytest.raises(expected):
        CredentialChain().current()
