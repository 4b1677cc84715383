"""Which certificate authorities are trusted."""

import ssl
from types import SimpleNamespace

import certifi
import pytest

from clip_trainer.data.storage import http_trust
from clip_trainer.data.storage.http_trust import tls_context
from clipctl.contract.errors import MissingError


def test_names_and_certificates_are_verified():
    context = tls_context(None)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_bundle_takes_the_place_of_the_system(tmp_path):
    assert len(tls_context(certifi.where()).get_ca_certs()) > 50
    (tmp_path / "empty.pem").touch()
    for name in ("none.pem", "empty.pem"):
        with pytest.raises(MissingError, match="holds no certificates") as caught:
            tls_context(str(tmp_path / name))
        assert "AWS_CA_BUNDLE" in caught.value.hint


@pytest.mark.parametrize("capath", [None, "empty"])
def test_images_without_certificates_use_those_of_certifi(monkeypatch, tmp_path, capath):
    (tmp_path / "empty").mkdir()
    paths = SimpleNamespace(cafile=None, capath=capath and str(tmp_path / capath))
    monkeypatch.setattr(http_trust.ssl, "get_default_verify_paths", lambda: paths)
    assert http_trust._bundled() == certifi.where()
    monkeypatch.setitem(__import__("sys").modules, "certifi", None)
    assert http_trust._bundled() is None


def test_a_system_that_has_certificates_is_trusted(monkeypatch, tmp_path):
    (tmp_path / "one.pem").touch()
    for paths in (SimpleNamespace(cafile="/x", capath=None), SimpleNamespace(cafile=None, capath=str(tmp_path))):
        monkeypatch.setattr(http_trust.ssl, "get_default_verify_paths", lambda paths=paths: paths)
        assert http_trust._bundled() is None
