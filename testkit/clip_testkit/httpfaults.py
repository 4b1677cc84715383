"""What can go wrong with an answer of a web server or object store: each fault turns a good answer into a bad one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class Request:
    """A request that arrived. Header names are in lower case."""

    method: str
    path: str  # with the query
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """An answer, and how it is sent.

    Attributes:
        status: of HTTP.
        headers: without the length of the body.
        body: what is sent, if nothing stops it.
        length: what Content-Length says; by default the length of the body.
        stop_after: bytes of the body after which `ending` happens; None lets it end well.
        ending: "reset" (RST), "close" (FIN) or "stall" (nothing more, until the server is stopped).
        rate: bytes a second; None for as fast as can be.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    stop_after: int | None = None
    ending: Literal["reset", "close", "stall"] = "reset"
    rate: float | None = None


Fault = Callable[[Request, Answer, random.Random], Answer]
"""Turns a good answer into a bad one."""


def reset_after(count: int) -> Fault:
    """The connection is reset when so many bytes of the body were sent: every time, if the rule has no end."""
    return lambda request, answer, chance: _stopped(answer, count, "reset")


def close_after(count: int) -> Fault:
    """The connection ends in good form, but too early: the body is shorter than its announced length."""
    return lambda request, answer, chance: _stopped(answer, count, "close")


def stall_after(count: int) -> Fault:
    """Nothing more is sent, and the connection stays open."""
    return lambda request, answer, chance: _stopped(answer, count, "stall")


def slow(rate: float) -> Fault:
    """The body comes at so many bytes a second."""
    return lambda request, answer, chance: replace(answer, rate=rate)


def refuse(status: int, *, retry_after: float | str | None = None, code: str = "") -> Fault:
    """An error instead of the object, with S3's document if there is a code."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    document = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
    return lambda request, answer, chance: Answer(status, headers, document)


def expire_token(token: str) -> Fault:
    """Requests with this session token are refused as S3 refuses expired ones."""
    refusal = refuse(403, code="ExpiredToken")
    return lambda request, answer, chance: (
        refusal(request, answer, chance) if request.headers.get("x-amz-security-token") == token else answer
    )


def truncate(keep: int) -> Fault:
    """A body that ends early and a Content-Length that agrees with it."""
    return lambda request, answer, chance: replace(answer, body=answer.body[:keep])


def damage(flips: int = 1) -> Fault:
    """A body of the right length with other bytes."""

    def fault(request: Request, answer: Answer, chance: random.Random) -> Answer:
        body = bytearray(answer.body)
        for _ in range(flips if body else 0):
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        return replace(answer, body=bytes(body))

    return fault


def web_page() -> Fault:
    """The page of a login or of an error, sent as a success."""
    page = b"<!DOCTYPE html><html><body>Sign in to continue</body></html>" * 40
    return lambda request, answer, chance: Answer(200, {"Content-Type": "text/html; charset=utf-8"}, page)


def first(action: Callable[[], None]) -> Fault:
    """Something else happens in the meantime (an object is replaced); this answer is still the old one."""

    def fault(request: Request, answer: Answer, chance: random.Random) -> Answer:
        action()
        return answer

    return fault


def _stopped(answer: Answer, count: int, ending: Literal["reset", "close", "stall"]) -> Answer:
    return replace(answer, stop_after=count, ending=ending) if len(answer.body) > count else answer
