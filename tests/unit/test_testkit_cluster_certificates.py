"""Certificates and kubeconfigs of the test cluster."""

import base64
import datetime
import ipaddress
import stat

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clip_testkit.cluster import certificates, kubeconfig
from clip_testkit.cluster import settings as pinned

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


@pytest.fixture(scope="module")
def ca():
    return certificates.authority(NOW)


def test_authority_may_sign_leaves_and_nothing_deeper(ca):
    constraints = ca.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


@pytest.mark.parametrize("identity", certificates.IDENTITIES, ids=lambda identity: identity.name)
def test_leaf_is_signed_by_the_authority_and_says_who_it_is(ca, identity):
    leaf = certificates.issue(ca, identity, NOW).certificate
    leaf.verify_directly_issued_by(ca.certificate)
    [name] = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == identity.common_name
    groups = [a.value for a in leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ([identity.organization] if identity.organization else [])
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_validity_starts_before_now_and_lasts(ca):
    assert ca.certificate.not_valid_before_utc < NOW
    assert ca.certificate.not_valid_after_utc > NOW + datetime.timedelta(days=3000)


def test_names_and_addresses_are_told_apart():
    dns, address = certificates.alternative_names(["kubernetes.default", "10.89.0.1"])
    assert dns == x509.DNSName("kubernetes.default")
    assert address == x509.IPAddress(ipaddress.ip_address("10.89.0.1"))


def test_api_server_is_valid_under_each_address_that_reaches_it(ca):
    [server] = [i for i in certificates.IDENTITIES if i.name == "apiserver"]
    found = certificates.issue(ca, server, NOW).certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    addresses = {str(a) for a in found.value.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", pinned.NODE_IP, pinned.API_SERVICE_IP}


def test_only_the_administrator_is_in_the_masters_group():
    assert [i.name for i in certificates.IDENTITIES if i.organization == "system:masters"] == ["admin"]


def test_all_files_are_written_and_private(tmp_path):
    certificates.write_all(tmp_path / "pki", NOW)
    names = {path.name for path in (tmp_path / "pki").iterdir()}
    stems = {identity.name for identity in certificates.IDENTITIES} | {"ca"}
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("crt", "key")} | {"sa.key", "sa.pub"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").iterdir()} == {0o600}
    private = load_pem_private_key((tmp_path / "pki" / "sa.key").read_bytes(), None)
    public = load_pem_public_key((tmp_path / "pki" / "sa.pub").read_bytes())
    assert private.public_key().public_numbers() == public.public_numbers()


def test_kubeconfig_carries_everything_inside():
    document = yaml.safe_load(kubeconfig.render("https://127.0.0.1:1", b"CA", b"CERT", b"KEY"))
    [cluster], [user], [context] = document["clusters"], document["users"], document["contexts"]
    assert document["current-context"] == context["name"]
    assert context["context"] == {"cluster": cluster["name"], "user": user["name"]}
    assert cluster["cluster"]["server"] == "https://127.0.0.1:1"
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == b"CA"
    assert base64.b64decode(user["user"]["client-certificate-data"]) == b"CERT"
    assert base64.b64decode(user["user"]["client-key-data"]) == b"KEY"


def test_kubeconfig_of_an_identity_is_private(tmp_path):
    certificates.write_all(tmp_path, NOW)
    kubeconfig.write(tmp_path / "a.kubeconfig", "https://h:1", tmp_path, "admin")
    path = tmp_path / "a.kubeconfig"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    user = yaml.safe_load(path.read_text())["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == (tmp_path / "admin.key").read_bytes()
