"""kubectl as a Python object: one kubeconfig, one namespace, JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clip_testkit.cluster.shell import run, succeeds, wait_until

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl.

    Attributes:
        program: path of kubectl.
        kubeconfig: whose cluster and user.
        namespace: of every command.
    """

    program: Path
    kubeconfig: Path
    namespace: str = "default"

    def within(self, namespace: str) -> Kubectl:
        """The same for another namespace."""
        return replace(self, namespace=namespace)

    def command(self, *words: str) -> list[str]:
        """The full command line of some words."""
        return [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *words]

    def run(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run a command and return its stdout.

        Raises:
            UnavailableError: it failed; the text holds what kubectl said.
        """
        return run(self.command(*words), stdin=stdin, timeout=timeout)

    def ok(self, *words: str) -> bool:
        """Whether a command succeeds."""
        return succeeds(self.command(*words))

    def get(self, *words: str) -> Manifest:
        """An object, or a list of them, e.g. `get("pod", "worker-0")`."""
        return dict(json.loads(self.run("get", *words, "--output=json")))

    def items(self, *words: str) -> list[Manifest]:
        """Objects of a kind, e.g. `items("pods", "--selector=app=store")`."""
        return list(self.get(*words)["items"])

    def apply(self, *manifests: Manifest) -> None:
        """Create or change objects, server-side."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.run("apply", "--server-side", "--filename=-", stdin=json.dumps(document))

    def wait(self, what: str, check: Callable[[], bool], seconds: float = 120) -> None:
        """Poll until something holds.

        Raises:
            UnavailableError: it did not within `seconds`.
        """
        wait_until(check, what, seconds=seconds, interval=0.5)

    def finished_pod(self, name: str, seconds: float = 120) -> tuple[str, str]:
        """Wait for a pod to end; return its phase and its log."""
        ended = ("Succeeded", "Failed")
        self.wait(f"the end of pod {name}", lambda: self.get("pod", name)["status"]["phase"] in ended, seconds)
        return self.get("pod", name)["status"]["phase"], self.run("logs", name)

    def condition(self, kind: str, name: str, condition: str) -> bool:
        """Whether a condition of an object's status is true."""
        found = self.get(kind, name).get("status", {}).get("conditions", [])
        return any(entry["type"] == condition and entry["status"] == "True" for entry in found)


DIAGNOSED = ("pytorchjobs", "pods", "events")


def diagnose(kubectl: Kubectl, kinds: Sequence[str] = DIAGNOSED) -> str:
    """State, description and logs of everything in a namespace, for the report of a failed test."""
    queries = [["get", ",".join(kinds), "--output=wide"], ["describe", "pods"], ["get", "pytorchjobs", "-oyaml"]]
    parts = [_attempt(kubectl, words) for words in queries]
    if kubectl.ok("get", "pods"):
        for pod in kubectl.items("pods"):
            name = pod["metadata"]["name"]
            parts.append(_attempt(kubectl, ["logs", name, "--all-containers", "--prefix", "--tail=200"]))
            parts.append(_attempt(kubectl, ["logs", name, "--all-containers", "--previous", "--tail=200"]))
    return "\n".join(parts)


def _attempt(kubectl: Kubectl, words: list[str]) -> str:
    try:
        text = kubectl.run(*words)
    except Exception as error:
        text = f"({error})"
    return f"--- kubectl {' '.join(words)}\n{text}"
