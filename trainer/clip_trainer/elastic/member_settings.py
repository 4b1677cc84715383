"""What a worker is told about the coordinator and itself: the variables that the agent sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clip_trainer.elastic.membership import ENV_COORDINATOR
from clipctl.contract.errors import SpecError

ENV_RUN = "CLIPCTL_RUN_ID"
ENV_MEMBER = "CLIPCTL_MEMBER"
ENV_NODE = "CLIPCTL_NODE"
ENV_SLOT = "CLIPCTL_SLOT"
ENV_MIN_MEMBERS = "CLIPCTL_MIN_MEMBERS"
ENV_MAX_MEMBERS = "CLIPCTL_MAX_MEMBERS"
ENV_LAST_CALL = "CLIPCTL_LAST_CALL_SECONDS"
ENV_SECONDS = "CLIPCTL_RENDEZVOUS_SECONDS"


@dataclass(frozen=True)
class MemberSettings:
    """One worker process, as the coordinator knows it."""

    endpoint: tuple[str, int]
    """Host and port of the coordinator."""
    run: str
    """Runs and attempts with different ids share a coordinator without noticing each other."""
    member: str
    """Unique name of this process in the run, like `node/slot#start`."""
    node: str
    slot: int
    """Number of this worker on its node."""
    min_members: int = 1
    """A generation has at least so many members."""
    max_members: int = 1
    """There can be no more; a first generation does not wait longer once they are there."""
    last_call: float = 1.0
    """Seconds that a first generation waits for more members once there are enough."""
    seconds: float = 300.0
    """How long to look for a coordinator that does not answer."""
    local_rank: int = 0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> MemberSettings:
        """Read the CLIPCTL_* variables and LOCAL_RANK.

        Raises:
            SpecError: one of them is missing or malformed.
        """
        member = environ.get(ENV_MEMBER, "")
        if not member:
            raise SpecError(f"{ENV_COORDINATOR} is set, but {ENV_MEMBER} is not.", hint="Both come from the launcher.")
        minimum = _whole(environ, ENV_MIN_MEMBERS, "1")
        maximum = _whole(environ, ENV_MAX_MEMBERS, str(minimum))
        if not 1 <= minimum <= maximum:
            raise SpecError(f"{ENV_MIN_MEMBERS} is {minimum} and {ENV_MAX_MEMBERS} {maximum}; need 1 <= least <= most.")
        slot = _whole(environ, ENV_SLOT, environ.get("LOCAL_RANK") or "0")
        return cls(
            endpoint=parse_endpoint(environ.get(ENV_COORDINATOR, "")),
            run=environ.get(ENV_RUN) or "none",
            member=member,
            node=environ.get(ENV_NODE) or member.rpartition("/")[0],
            slot=slot,
            min_members=minimum,
            max_members=maximum,
            last_call=_seconds(environ, ENV_LAST_CALL, "1"),
            seconds=_seconds(environ, ENV_SECONDS, "300"),
            local_rank=_whole(environ, "LOCAL_RANK", str(slot)),
        )


def parse_endpoint(text: str) -> tuple[str, int]:
    """`host:port` as a pair.

    Raises:
        SpecError: it has another form.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SpecError(f"The coordinator's address is {text!r}; it must be HOST:PORT.")
    return host.strip("[]"), int(port)


def _whole(environ: Mapping[str, str], name: str, default: str) -> int:
    text = environ.get(name) or default
    if not text.isdigit():
        raise SpecError(f"{name} is {text!r}; it must be a whole number of at least 0.")
    return int(text)


def _seconds(environ: Mapping[str, str], name: str, default: str) -> float:
    text = environ.get(name) or default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise SpecError(f"{name} is {text!r}; it must be a number of seconds.")
    return value
