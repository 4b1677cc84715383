"""Credentials for S3: from the environment, else through botocore's chain (profile, web identity, container, machine).

botocore is imported only where the environment holds no keys: it takes half a second.
"""

from __future__ import annotations

import os
import threading
from typing import Any, NamedTuple

from clip_trainer.data.storage.s3_signing import Keys
from clipctl.contract.errors import ClipError, PermissionDeniedError, SpecError, UnavailableError

_HINT = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile or role) that may read it; "
    "for a public bucket set FSSPEC_S3_ANON=true."
)
_EXPIRED_HINT = "Renew AWS_SESSION_TOKEN and its keys, or use a role or profile whose credentials renew themselves."
_UNREACHED = frozenset({"HTTPClientError", "ConnectionError"})  # of botocore, by name


class ProfileSettings(NamedTuple):
    """What a profile says besides keys."""

    endpoint: str | None
    region: str | None
    ca_file: str | None


class CredentialChain:
    """The credentials to use now; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._provider: Any = None  # botocore has no types
        self._expired: Keys | None = None

    def current(self) -> Keys:
        """Valid credentials as far as anybody knows; those that tell when they expire are renewed in time.

        Raises:
            PermissionDeniedError: there are none, or the store has said that they have expired.
            UnavailableError: the service that gives them out does not answer.
        """
        with self._lock:
            keys = _environment_keys() or self._provided()
            if keys == self._expired:
                raise PermissionDeniedError("The S3 credentials have expired.", hint=_EXPIRED_HINT)
            return keys

    def renew(self, refused: Keys) -> None:
        """Look for other credentials than those that the store refused as expired.

        Of many threads that were refused with the same ones, the first asks for new ones. If there are none, `current`
        raises from now on, and nobody sends the expired ones again.
        """
        with self._lock:
            keys = _environment_keys()
            if keys is None and self._provided() == refused:
                self._provider = None
                keys = self._provided()
            if keys == refused:
                self._expired = refused

    def _provided(self) -> Keys:
        try:
            if self._provider is None:
                self._provider = _session().get_credentials()
            if self._provider is None:
                raise PermissionDeniedError("There are no S3 credentials.", hint=_HINT)
            frozen = self._provider.get_frozen_credentials()
        except ClipError:
            raise
        except Exception as error:
            raise _typed(error) from error
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)


def profile_settings() -> ProfileSettings:
    """Endpoint, region and certificates of the profile in use (`AWS_PROFILE`).

    Raises:
        SpecError: there is no such profile.
    """
    from botocore.configprovider import ConfiguredEndpointProvider

    session = _session()
    try:
        scoped = session.get_scoped_config()
        endpoint = ConfiguredEndpointProvider(session.full_config, scoped, "s3").provide()
        return ProfileSettings(
            endpoint, session.get_config_variable("region"), session.get_config_variable("ca_bundle")
        )
    except Exception as error:
        raise SpecError(f"The AWS configuration cannot be used ({error}).", hint="Check AWS_PROFILE.") from error


def _environment_keys() -> Keys | None:
    """Keys from the environment. Those with an expiry are left to botocore, which watches it."""
    access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not access or not secret or os.environ.get("AWS_CREDENTIAL_EXPIRATION"):
        return None
    return Keys(access, secret, os.environ.get("AWS_SESSION_TOKEN") or None)


def _session() -> Any:
    import botocore.session

    return botocore.session.Session()


def _typed(error: Exception) -> ClipError:
    reason = " ".join(str(error).split())[:160]
    if {kind.__name__ for kind in type(error).__mro__} & _UNREACHED:
        hint = "Check AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE and the network, then run it again."
        return UnavailableError(f"The service that gives out S3 credentials cannot be reached ({reason}).", hint=hint)
    return PermissionDeniedError(f"There are no usable S3 credentials ({reason}).", hint=_HINT)
