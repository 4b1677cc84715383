"""Leader election on a Lease: at most one replica acts, judged by each replica's own monotonic clock.

The time stamps in the Lease are for people. A challenger waits until it has *itself* watched the Lease stay unchanged
for its whole duration, and the leader stops acting `renew_deadline` after its last successful renewal *began*; as the
deadline is shorter than the duration, the two never overlap, whatever the wall clocks say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clip_operator.api import LEASES, AlreadyExistsError, Api, ApiError, ConflictError, NotFoundError, Object
from clip_operator.moments import format_micro_time
from clipctl.contract.failpoints import failpoint


@dataclass(frozen=True)
class LeaseTiming:
    """Seconds: how long a Lease holds, when its leader gives up renewing, and how often both sides look."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0


class LeaderElector:
    """One candidate. Call `step` every `timing.retry` seconds; not thread-safe except `is_leader`.

    Args:
        api: the API server.
        namespace: where the Lease lives.
        name: name of the Lease.
        identity: unique per process (a pod name is not: a restarted container keeps it).
        monotonic: seconds that never jump.
        wall: Unix seconds, for the time stamps only.
        timing: see `LeaseTiming`.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        timing: LeaseTiming | None = None,
    ) -> None:
        self._api, self._namespace, self._name, self._identity = api, namespace, name, identity
        self._monotonic, self._wall = monotonic, wall
        self.timing = timing or LeaseTiming()
        self._renewed_at: float | None = None
        self._observed: tuple[str, float] | None = None  # the Lease's version and when we first saw it

    def is_leader(self) -> bool:
        """Whether this replica may act right now."""
        renewed_at = self._renewed_at
        return renewed_at is not None and self._monotonic() - renewed_at < self.timing.renew_deadline

    def step(self) -> bool:
        """Acquire or renew the Lease if possible; returns `is_leader()`. Errors cost leadership only in the end."""
        began = self._monotonic()
        try:
            self._try(began)
        except (ConflictError, AlreadyExistsError):
            self._renewed_at = None  # somebody else wrote it
        except ApiError:
            pass  # unknown outcome: what is_leader() says until the deadline stays true
        return self.is_leader()

    def release(self) -> None:
        """Give the Lease back, so that the next leader need not wait for it to run out."""
        if not self.is_leader():
            return
        self._renewed_at = None
        try:
            lease = self._api.get(LEASES, self._namespace, self._name)
            if lease.get("spec", {}).get("holderIdentity") == self._identity:
                lease["spec"] = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                self._api.replace(LEASES, self._namespace, self._name, lease)
        except ApiError:
            return

    def _try(self, began: float) -> None:
        try:
            lease = self._api.get(LEASES, self._namespace, self._name)
        except NotFoundError:
            self._api.create(LEASES, self._namespace, self._body({}))
            self._renewed_at = began
            return
        holder = lease.get("spec", {}).get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(lease, began):
            self._renewed_at = None
            return
        failpoint("operator.renew")
        self._api.replace(LEASES, self._namespace, self._name, self._body(lease))
        self._renewed_at = began

    def _expired(self, lease: Object, now: float) -> bool:
        """Whether the Lease has stayed the same for its whole duration under our eyes."""
        version = lease["metadata"].get("resourceVersion", "")
        if self._observed is None or self._observed[0] != version:
            self._observed = (version, now)
        duration = float(lease.get("spec", {}).get("leaseDurationSeconds") or self.timing.duration)
        return now - self._observed[1] >= duration

    def _body(self, lease: Object) -> Object:
        spec = dict(lease.get("spec") or {})
        moment = format_micro_time(self._wall())
        if spec.get("holderIdentity") != self._identity or self._renewed_at is None:
            spec["acquireTime"] = moment
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if lease else 0)
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self.timing.duration),
            "renewTime": moment,
        }
        metadata = lease.get("metadata") or {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
