"""One connection to one cluster: generic requests on plain dicts, every one with a time limit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from clipctl.apply.failures import translate
from clipctl.apply.kinds import KINDS, Kind
from clipctl.contract.errors import ClipError, ClusterConfigError, MissingError, SpecError
from clipctl.contract.failpoints import failpoint

FIELD_MANAGER = "clipctl"
CONNECT_SECONDS = 5
READ_SECONDS = 30
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_PAGE = 500

Object = dict[str, Any]


class Cluster:
    """Requests to the API server, in one namespace."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api = api
        self.namespace = namespace

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._api.configuration.host)

    def get(self, kind: str, name: str) -> Object | None:
        """One object, or None if it does not exist.

        Raises:
            ClusterConfigError: the cluster does not know this kind.
        """
        try:
            return self._json("GET", "get", KINDS[kind], name)
        except MissingError:
            return None

    def list(self, kind: str, *, labels: str = "", fields: str = "") -> Iterator[Object]:
        """All objects that match the selectors, page by page."""
        yield from self._pages(KINDS[kind], labels, fields)

    def list_everywhere(self, kind: str, *, fields: str = "") -> Iterator[Object]:
        """All objects of all namespaces that match the selector."""
        yield from self._pages(replace(KINDS[kind], namespaced=False), "", fields)

    def apply(self, item: Object, *, dry_run: bool = False) -> Object:
        """Create or update one object by server-side apply; with `dry_run` the server only checks it."""
        failpoint("cli.apply")
        query: dict[str, Any] = {"fieldManager": FIELD_MANAGER, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        name = item["metadata"]["name"]
        return self._json("PATCH", "patch", KINDS[item["kind"]], name, query, item, _APPLY)

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Change some fields of an object; None removes a field."""
        return self._json("PATCH", "patch", KINDS[kind], name, {"fieldManager": FIELD_MANAGER}, change, _MERGE)

    def delete(self, kind: str, name: str, *, foreground: bool = False) -> bool:
        """Delete an object and what it owns; with `foreground` it stays visible until those are gone.

        Returns:
            False if it did not exist.
        """
        policy = {"propagationPolicy": "Foreground" if foreground else "Background"}
        try:
            self._json("DELETE", "delete", KINDS[kind], name, {}, policy)
        except MissingError:
            return False
        return True

    def create(self, item: Object) -> Object:
        """Create an object that has no name, such as an access review."""
        return self._json("POST", "create", KINDS[item["kind"]], "", {}, item)

    def allowed(self, verb: str, group: str, resource: str, subresource: str = "") -> bool:
        """Whether the current user may do this in the namespace."""
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        return bool((self.create(review).get("status") or {}).get("allowed"))

    def server_version(self) -> str:
        """Version of the API server, such as `v1.36.2`."""
        response = self._call("/version", "GET", "get", KINDS["Pod"], "")
        return str(self._parsed(response, "get", KINDS["Pod"], "").get("gitVersion", "?"))

    @contextlib.contextmanager
    def open_log(self, pod: str, query: dict[str, Any], read_seconds: float) -> Iterator[Any]:
        """The log of container `pytorch` of a pod, as a stream of bytes that the caller reads."""
        path = KINDS["Pod"].path(self.namespace, pod) + "/log"
        response = self._call(path, "GET", "get", _POD_LOG, pod, query=query, read_seconds=read_seconds)
        try:
            yield response
        finally:
            response.release_conn()
            response.close()

    def _pages(self, kind: Kind, labels: str, fields: str) -> Iterator[Object]:
        query: dict[str, Any] = {"limit": _PAGE}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = self._json("GET", "list", kind, "", query)
            yield from page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def _json(
        self,
        method: str,
        verb: str,
        kind: Kind,
        name: str,
        query: dict[str, Any] | None = None,
        body: Object | None = None,
        content: str = "application/json",
    ) -> Object:
        path = kind.path(self.namespace, name)
        response = self._call(path, method, verb, kind, name, query=query or {}, body=body, content=content)
        return self._parsed(response, verb, kind, name)

    def _parsed(self, response: Any, verb: str, kind: Kind, name: str) -> Object:
        """The body, which is read only here: the connection may still break, or a proxy may have answered."""
        try:
            parsed: Object = json.loads(response.data)
        except Exception as error:
            raise translate(error, verb, kind, self.namespace, name) from error
        return parsed

    def _call(
        self,
        path: str,
        method: str,
        verb: str,
        kind: Kind,
        name: str,
        *,
        query: dict[str, Any] | None = None,
        body: Object | None = None,
        content: str = "application/json",
        read_seconds: float = READ_SECONDS,
    ) -> Any:
        try:
            return self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(CONNECT_SECONDS, read_seconds),
            )
        except Exception as error:
            raise translate(error, verb, kind, self.namespace, name) from error


_POD_LOG = Kind("Pod", "v1", "pods/log")


def connect(namespace: str | None = None, context: str | None = None) -> Cluster:
    """Connect by the kubeconfig, or from inside a pod by its service account.

    Raises:
        ClusterConfigError: neither is there, or the kubeconfig is damaged.
        SpecError: there is no such context.
    """
    settings: Any = client.Configuration()
    try:
        default_namespace = _load(settings, context)
    except ClipError:
        raise
    except Exception as error:
        raise ClusterConfigError(
            f"the kubeconfig cannot be used: {' '.join(str(error).split())[:300].rstrip('.')}.",
            hint="Check KUBECONFIG; `kubectl config view` shows what is in it.",
        ) from error
    # One retry only: every request has its own time limit, and a dead server should be reported within seconds.
    settings.retries = 1
    if not settings.verify_ssl:
        # The kubeconfig says insecure-skip-tls-verify; one warning for every request would add nothing.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return Cluster(client.ApiClient(settings), namespace or default_namespace)


def _load(settings: Any, context: str | None) -> str:
    """Fill in `settings`; returns the namespace of the context."""
    try:
        contexts, current = config.list_kube_config_contexts()
    except ConfigException:
        return _load_in_cluster(settings, context)
    chosen = current if context is None else next((c for c in contexts if c["name"] == context), None)
    if chosen is None:
        known = ", ".join(c["name"] for c in contexts)
        raise SpecError(f"the kubeconfig has no context {context}.", hint=f"It has: {known}.")
    config.load_kube_config(context=context, client_configuration=settings)
    return str(chosen["context"].get("namespace") or "default")


def _load_in_cluster(settings: Any, context: str | None) -> str:
    try:
        config.load_incluster_config(client_configuration=settings)
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="ascii") as file:
            return file.read().strip() or "default"
    except (ConfigException, OSError) as error:
        raise ClusterConfigError(
            f"no usable kubeconfig{f' with context {context}' if context else ''}, and this is not a pod.",
            hint="Set KUBECONFIG, or use --local to run on this machine.",
        ) from error
