"""Keep credentials out of every sink: logs, events, status, metrics, rendered manifests, error messages."""

from __future__ import annotations

import re

MASK = "***"

# `output_tokens` and `tokenizer` are settings of models.
_WORDS = r"secret|password|passwd|(?<!output_)token(?!iz)|api_?key"

_BY_SHAPE = (
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+(?=@)", re.IGNORECASE),
    re.compile(r"(?P<keep>(?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature)=)[^&\s\"']+"),
    re.compile(r"(?P<keep>)\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
)
_BY_NAME = (
    re.compile(
        rf"(?P<keep>\b\w*(?:secret_?access_?key|{_WORDS})\w*[\"']?\s*[=:]\s*[\"']?)"
        r"[^\s\"',}&]{4,}",
        re.IGNORECASE,
    ),
)

_SECRET_NAME = re.compile(rf"({_WORDS}|private_key|credential)", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with everything that looks like a credential replaced by `***`."""
    return _masked(mask_credentials(text), _BY_NAME)


def mask_credentials(text: str) -> str:
    """`text` without credentials that are recognisable by themselves, whatever name they stand under.

    For manifests and JSON, where a key such as `automountServiceAccountToken` says nothing about its value.
    """
    return _masked(text, _BY_SHAPE)


def _masked(text: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    for pattern in patterns:
        text = pattern.sub(lambda match: f"{match.group('keep')}{MASK}", text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name most likely holds a secret."""
    return _SECRET_NAME.search(name) is not None
