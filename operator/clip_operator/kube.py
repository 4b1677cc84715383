"""The only module that talks to the `kubernetes` client: generic verbs on raw JSON, deadlines, typed errors.

The generated, typed part of that client is not used: it rejects unknown fields in some versions and deserialises whole
pods to read one field. What is used is its configuration, its credentials and its HTTP pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

from clip_operator import api as k8s
from clip_operator.api import ApiError, Listing, Object, Resource

CONNECT_SECONDS = 5
READ_SECONDS = 30
WATCH_SECONDS = 300
_PAGE = 500
_MERGE_PATCH = "application/merge-patch+json"

_STATUS_ERRORS: Mapping[int, type[ApiError]] = {
    400: k8s.RefusedError,
    401: k8s.ForbiddenError,
    403: k8s.ForbiddenError,
    404: k8s.NotFoundError,
    409: k8s.ConflictError,
    410: k8s.GoneError,
    422: k8s.RefusedError,
}


class KubeApi:
    """`Api` over HTTP. Thread-safe.

    Args:
        configuration: host and credentials; `from_environment` finds them.
        watch_seconds: how long the server keeps a watch open; a silent connection is given up a little later.
    """

    def __init__(self, configuration: client.Configuration, *, watch_seconds: int = WATCH_SECONDS) -> None:
        self._client = client.ApiClient(configuration)
        self._watch_seconds = watch_seconds

    @classmethod
    def from_environment(cls) -> KubeApi:
        """In a pod its service account, elsewhere the current kubeconfig context.

        Raises:
            ForbiddenError: there is neither.
        """
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            try:
                config.load_kube_config(client_configuration=configuration)
            except config.ConfigException as error:
                raise k8s.ForbiddenError(f"no credentials for a Kubernetes API server: {error}") from error
        return cls(configuration)

    def list(self, resource: Resource, namespace: str, selector: str = "") -> Listing:
        """See `Api.list`; reads page by page."""
        items: list[Object] = []
        query = {"limit": str(_PAGE), "labelSelector": selector}
        while True:
            page = self._json("GET", _path(resource, namespace), query=query)
            items += [_with_type(resource, item) for item in page.get("items") or ()]
            token = page["metadata"].get("continue")
            if not token:
                return Listing(items, page["metadata"].get("resourceVersion", ""))
            query["continue"] = token

    def watch(self, resource: Resource, namespace: str, selector: str, since: str) -> Iterator[Object]:
        """See `Api.watch`."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "resourceVersion": since,
            "timeoutSeconds": str(self._watch_seconds),
        }
        response = self._call("GET", _path(resource, namespace), query=query, read_seconds=self._watch_seconds + 30)
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    raise _status_error(event.get("object") or {}, f"watch {resource.plural}")
                yield event
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise k8s.UnreachableError(f"watch {resource.plural}: {error}") from error
        finally:
            response.close()

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """See `Api.get`."""
        return self._json("GET", _path(resource, namespace, name))

    def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """See `Api.create`."""
        try:
            return self._json("POST", _path(resource, namespace), body=body)
        except k8s.ConflictError as error:
            raise k8s.AlreadyExistsError(str(error)) from error

    def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """See `Api.replace`."""
        return self._json("PUT", _path(resource, namespace, name), body=body)

    def patch(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """See `Api.patch`."""
        return self._json("PATCH", _path(resource, namespace, name), body=body, content_type=_MERGE_PATCH)

    def delete(self, resource: Resource, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None:
        """See `Api.delete`; dependants are deleted in the background."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self._json("DELETE", _path(resource, namespace, name), body=options)
        except (k8s.NotFoundError, k8s.ConflictError):
            return  # gone, or another object has taken its name

    def _json(self, method: str, path: str, **options: Any) -> Object:
        response = self._call(method, path, **options)
        try:
            data = response.data  # reads it and gives the connection back
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise k8s.UnreachableError(f"{method} {path}: {error}") from error
        try:
            raw: Object = json.loads(data)
        except ValueError as error:
            raise k8s.UnreachableError(f"{method} {path}: the answer is not JSON") from error
        return raw

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        read_seconds: int = READ_SECONDS,
    ) -> Any:
        headers = {
            **self._client.default_headers,
            "Accept": "application/json",
            "Content-Type": content_type,
        }
        self._client.update_params_for_auth(headers, [], ["BearerToken"])
        url = self._client.configuration.host + path
        asked = {key: value for key, value in (query or {}).items() if value}
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                f"{url}?{urlencode(asked)}" if asked else url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
                retries=False,  # retrying is the work queue's job, with its back-off
                preload_content=False,
            )
            if response.status >= 300:
                raise _http_error(response, f"{method} {path}")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise k8s.UnreachableError(f"{method} {path}: {error}") from error
        return response


def _path(resource: Resource, namespace: str, name: str = "") -> str:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{place}/{resource.plural}" + (f"/{name}" if name else "")


def _with_type(resource: Resource, item: Object) -> Object:
    """Items of a list of built-in types come without their type."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, **item}


def _http_error(response: Any, what: str) -> ApiError:
    """The error an HTTP answer stands for; reads the answer."""
    try:
        message = json.loads(response.data).get("message", "")
    except (ValueError, AttributeError):
        message = ""
    kind = _STATUS_ERRORS.get(response.status, k8s.UnreachableError)
    retry_after = response.headers.get("Retry-After", "")
    wait = float(retry_after) if retry_after.isdigit() else 0.0
    return kind(f"{what}: {response.status} {response.reason}: {message}".rstrip(": "), wait)


def _status_error(status: Object, what: str) -> ApiError:
    """The error a watch delivers as an event."""
    kind = _STATUS_ERRORS.get(int(status.get("code") or 0), k8s.UnreachableError)
    return kind(f"{what}: {status.get('message', 'unknown error')}")


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        rest += chunk
        *lines, rest = rest.split(b"\n")
        yield from (line for line in lines if line)
