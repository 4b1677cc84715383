"""Which certificate authorities are trusted: a given file, else the system's, else those that come with certifi."""

from __future__ import annotations

import os
import ssl

from clipctl.contract.errors import MissingError


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """A context that verifies names and certificates.

    Args:
        ca_file: certificates (PEM) to trust instead of the system's. `SSL_CERT_FILE` is understood by OpenSSL itself.

    Raises:
        MissingError: there are none in that file.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or _bundled())
    except (OSError, ssl.SSLError) as error:
        hint = "AWS_CA_BUNDLE should name a file of certificates (PEM)."
        raise MissingError(f"{ca_file} holds no certificates ({error}).", hint=hint) from error


def _bundled() -> str | None:
    """Where a slim image has no certificates of its own, those of the Kubernetes client's dependencies."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        return None
    try:
        import certifi
    except ImportError:
        return None
    return certifi.where()
