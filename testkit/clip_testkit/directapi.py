"""The operator's `Api` straight on `FakeObjects`, without HTTP: counts calls, and can crash before or after any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from clip_operator import api as k8s
from clip_operator.api import Listing, Object, Resource
from clip_testkit.fakeapi_errors import FakeApiError
from clip_testkit.fakeapi_objects import FakeObjects, Place

Answer = TypeVar("Answer")

WRITES = frozenset({"create", "replace", "patch", "delete"})


class Crash(BaseException):
    """The process dies here. Not an `Exception`, so that no handler mistakes it for an error."""


class DirectApi:
    """`Api` in memory.

    Args:
        objects: what the "server" holds.
        crash_at: number of the call (from 1) at which to die; 0 for never.
        after: die after that call took effect instead of before.
    """

    def __init__(self, objects: FakeObjects, crash_at: int = 0, *, after: bool = False) -> None:
        self.objects = objects
        self.calls: list[tuple[str, str, str]] = []
        self.errors: list[tuple[str, str, Exception]] = []
        """Verb, plural and the error to raise once."""
        self._crash_at, self._after = crash_at, after

    def list(self, resource: Resource, namespace: str, selector: str = "") -> Listing:
        """See `Api.list`."""
        items = self._run("list", resource, "", lambda place: self.objects.list(place, namespace, selector))
        return Listing(items, str(self.objects.version))

    def watch(self, resource: Resource, namespace: str, selector: str, since: str) -> Iterator[Object]:
        """See `Api.watch`; ends when it has delivered what there is."""
        events = self._run(
            "watch",
            resource,
            "",
            lambda place: list(self.objects.events_after(place, namespace, selector, int(since or 0))),
        )
        return iter([event for _, event in events])

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """See `Api.get`."""
        return self._run("get", resource, name, lambda place: self.objects.get(place, namespace, name))

    def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """See `Api.create`."""
        name = body["metadata"]["name"]
        try:
            return self._run("create", resource, name, lambda place: self.objects.create(place, namespace, body))
        except k8s.ConflictError as error:
            raise k8s.AlreadyExistsError(str(error)) from error

    def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """See `Api.replace`."""
        return self._run("replace", resource, name, lambda place: self.objects.update(place, namespace, name, body))

    def patch(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """See `Api.patch`."""
        return self._run("patch", resource, name, lambda place: self.objects.merge(place, namespace, name, body))

    def delete(self, resource: Resource, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None:
        """See `Api.delete`."""
        try:
            self._run("delete", resource, name, lambda place: self.objects.delete(place, namespace, name, uid or None))
        except (k8s.NotFoundError, k8s.ConflictError):
            return

    def _run(self, verb: str, resource: Resource, name: str, work: Callable[[Place], Answer]) -> Answer:
        self.calls.append((verb, resource.plural, name))
        for planned in self.errors:
            if planned[:2] == (verb, resource.plural):
                self.errors.remove(planned)
                raise planned[2]
        dies = len(self.calls) == self._crash_at
        if dies and not self._after:
            raise Crash
        try:
            answer = work((resource.api_version, resource.plural))
        except FakeApiError as error:
            if dies:
                raise Crash from error
            raise _ERRORS.get(error.code, k8s.UnreachableError)(str(error)) from error
        if dies:
            raise Crash
        return answer


_ERRORS: dict[int, Any] = {
    403: k8s.ForbiddenError,
    404: k8s.NotFoundError,
    409: k8s.ConflictError,
    410: k8s.GoneError,
}
