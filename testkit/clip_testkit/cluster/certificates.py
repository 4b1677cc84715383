"""The cluster's certificates: one authority, one leaf an identity, and the service-account signing key."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clip_testkit.cluster import settings as pinned


@dataclass(frozen=True)
class Identity:
    """Who a certificate speaks for.

    Attributes:
        name: stem of its files.
        common_name: Kubernetes' user name.
        organization: Kubernetes' group, if any.
        names: DNS names and IP addresses it may serve under.
    """

    name: str
    common_name: str
    organization: str = ""
    names: tuple[str, ...] = ("localhost",)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key, unencrypted PEM."""
        return private_pem(self.key)


IDENTITIES = (
    Identity(
        "apiserver",
        "kube-apiserver",
        names=(
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
            "127.0.0.1",
            pinned.NODE_IP,
            pinned.API_SERVICE_IP,
        ),
    ),
    Identity("admin", "admin", "system:masters"),
    Identity("node", f"system:node:{pinned.NODE}", "system:nodes", (pinned.NODE, pinned.NODE_IP)),
    Identity("kcm", "system:kube-controller-manager"),
    Identity("scheduler", "system:kube-scheduler"),
    Identity("proxy", "system:kube-proxy"),
)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half of a key, PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def authority(now: datetime.datetime) -> Pair:
    """A new certificate authority, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clip-ca")])
    builder = _builder(name, name, key, now).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return Pair(builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256()), key)


def issue(ca: Pair, identity: Identity, now: datetime.datetime) -> Pair:
    """A certificate for both serving and calling, signed by the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)]
    if identity.organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.organization))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = _builder(x509.Name(attributes), ca.certificate.subject, key, now)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names(identity.names)), critical=False)
    builder = builder.add_extension(usage, critical=False)
    return Pair(builder.sign(ca.key, hashes.SHA256()), key)


def alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Each name as an IP address if it reads as one, else as a DNS name."""
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour back, so that a clock that steps a little does not refuse a new cluster.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
    )


def write_all(directory: Path, now: datetime.datetime) -> None:
    """Write the authority, every identity's pair and the service-account keys as PEM files, readable by root only."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca = authority(now)
    files = {"ca.crt": ca.certificate_pem(), "ca.key": ca.key_pem()}
    for identity in IDENTITIES:
        pair = issue(ca, identity, now)
        files |= {f"{identity.name}.crt": pair.certificate_pem(), f"{identity.name}.key": pair.key_pem()}
    signing = ec.generate_private_key(ec.SECP256R1())
    files |= {"sa.key": private_pem(signing), "sa.pub": public_pem(signing)}
    for name, data in files.items():
        path = directory / name
        path.touch(mode=0o600)
        path.write_bytes(data)
