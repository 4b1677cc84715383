"""Reading over TLS: certificates made here, an authority of one's own, and roles by web identity (moto's STS)."""

import contextlib
import datetime
import ipaddress
import random
import socket
import ssl
import threading
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clip_testkit.httpfaults import close_after, reset_after
from clip_testkit.s3fault import fault_server
from clip_testkit.s3server import create_bucket, s3_server, use_only
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.s3_signing import UNSIGNED_PAYLOAD
from clip_trainer.data.storage.source import SequentialReader
from clip_trainer.data.storage.source_credentials import CredentialChain
from clip_trainer.data.storage.source_http import HttpSource
from clip_trainer.data.storage.source_s3 import S3Source
from clipctl.contract.errors import MissingError, UnavailableError

CONTENT = random.Random(3).randbytes(20 << 20)
NO_WAITING = RetryPolicy(attempts=3, sleep=lambda seconds: None)


def certificate(subject, key, issuer, issuer_key, *extensions):
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An authority's certificate, and a server's certificate with its key, as files."""
    folder = tmp_path_factory.mktemp("tls")
    own, servers = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = certificate(
        "authority", own, "authority", own, (x509.BasicConstraints(True, None), True), (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
    )  # fmt: skip
    name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    mine = certificate(
        "server", servers, "authority", own, (name, False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key()), False),
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    key = servers.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(key + mine.public_bytes(pem))
    return folder


@pytest.fixture
def server(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem")
    with fault_server({"/bucket/d/a.tar": CONTENT, "/d/a.tar": CONTENT}, tls=context) as running:
        yield running


@pytest.fixture
def s3(server, authority, monkeypatch, tmp_path):
    use_only(monkeypatch, server.url, tmp_path / "none")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
    return S3Source("s3://bucket/d", retry=NO_WAITING)


def test_objects_are_read_over_tls_on_few_connections(s3, server):
    chunks = []
    stream = SequentialReader(s3, s3.info("a.tar"), chunks.append)
    while stream.read(1 << 20):
        pass
    assert b"".join(chunks) == CONTENT
    assert server.connections <= 4


@pytest.mark.parametrize("cut", [close_after, reset_after])
def test_bodies_that_break_inside_of_tls_go_on(s3, server, cut):
    server.add(cut(200_000))
    assert s3.read("a.tar", 1000, 3_000_000) == CONTENT[1000:3_001_000]
    assert server.sent <= 1.05 * 3_000_000


def test_payloads_are_not_digested_again_where_tls_protects_them(s3, server):
    server.add(lambda request, answer, chance: answer.__class__(200), methods=("PUT",))
    s3.save("b.json", b"{}")
    assert server.requests[-1].headers["x-amz-content-sha256"] == UNSIGNED_PAYLOAD
    assert server.requests[-1].body == b"{}"


def test_an_unknown_authority_is_refused_at_once(server, monkeypatch):
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    source = HttpSource(f"{server.url}/d", retry=NO_WAITING)
    with pytest.raises(UnavailableError, match="certificate is not trusted") as caught:
        source.info("a.tar")
    assert "SSL_CERT_FILE" in caught.value.hint
    assert source.counters.retries == 0


def test_the_authority_of_the_environment_is_trusted(server, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    assert HttpSource(f"{server.url}/d", retry=NO_WAITING).read("a.tar", 5, 5) == CONTENT[5:10]


def test_another_name_is_refused(server, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    port = urlsplit(server.url).port
    with pytest.raises(UnavailableError, match="certificate is not trusted"):
        HttpSource(f"https://localhost:{port}/d", retry=NO_WAITING).info("a.tar")


def test_a_bundle_that_is_not_there(server, monkeypatch, tmp_path):
    use_only(monkeypatch, server.url, tmp_path / "none")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(MissingError, match="holds no certificates"):
        S3Source("s3://bucket/d", retry=NO_WAITING).info("a.tar")


def tunnel(listener, heads):
    """A proxy for one connection: it connects wherever it is told to, and passes on what it cannot read."""
    client, _ = listener.accept()
    with client:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        heads.append(head.decode())
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=passed_on, args=(server, client))
            back.start()
            passed_on(client, server)
            back.join()


def passed_on(source, target):
    while data := source.recv(1 << 16):
        target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_tls_goes_through_a_proxy_unread(s3, server, monkeypatch):
    heads = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=tunnel, args=(listener, heads))
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert s3.read("a.tar", 1000, 3_000_000) == CONTENT[1000:3_001_000]
        s3._client._pool._resting.close()
        thread.join()
    assert heads[0].startswith(f"CONNECT {urlsplit(server.url).netloc} HTTP/1.")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in heads[0]
    assert "proxy-authorization" not in server.requests[0].headers


def test_roles_by_web_identity_as_service_accounts_have_them(monkeypatch, tmp_path):
    with s3_server() as moto:
        create_bucket(moto, "bucket")
        use_only(monkeypatch, moto, tmp_path / "none")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        (tmp_path / "token").write_text("a.b.c")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/train")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        source = S3Source("s3://bucket/d", retry=NO_WAITING)
        source.save("a.json", b"{}")
        assert source.load("a.json") == b"{}"
        assert CredentialChain().current().token
