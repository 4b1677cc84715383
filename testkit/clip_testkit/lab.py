"""A laboratory for runs on a cluster: submit through the CLI, watch storage, break things, compare ledgers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clip_testkit.cluster.kubectl import Kubectl
from clip_testkit.cluster.s3 import S3Endpoint
from clip_trainer.train.events import read_events, trajectory
from clipctl.contract import layout, names
from clipctl.contract.errors import MissingError
from clipctl.contract.store import ObjectStore, open_store

SECRET = "s3-credentials"
Event = dict[str, Any]


@dataclass(frozen=True)
class Lab:
    """One namespace, one S3 bucket, one data set.

    Attributes:
        kubectl: within the namespace.
        s3: the object storage.
        image: of workers and operator.
        bucket: holds `emoji/train`, `emoji/val` and the runs.
        folder: for run files.
    """

    kubectl: Kubectl
    s3: S3Endpoint
    image: str
    bucket: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """Of a user on this machine who works with the cluster and the storage."""
        return {
            **os.environ,
            **self.s3.environment(in_cluster=False),
            "KUBECONFIG": str(self.kubectl.kubeconfig),
            "OMP_NUM_THREADS": "1",
        }

    def run_file(self, name: str, **changes: Any) -> Path:
        """Write the run.yaml of a small run on the emoji data; `changes` replace whole sections or update them."""
        spec: dict[str, Any] = {
            "name": name,
            "image": self.image,
            "model": {"name": "ViT-tiny-8-32", "precision": "fp32"},
            "data": {"train": f"s3://{self.bucket}/emoji/train", "threads": 1},
            "train": {"global_batch": 64, "steps": 60, "learning_rate": 1e-3, "warmup_steps": 10},
            "eval": {"retrieval": {"data": f"s3://{self.bucket}/emoji/val"}},
            "checkpoint": {"path": f"s3://{self.bucket}/runs", "every_steps": 10},
            "scale": {
                "nodes": {"min": 1, "max": 2},
                "resources": {"cpu": "500m", "memory": "3Gi", "shm": "64Mi"},
                "grace_seconds": 20,
                "image_pull_policy": "IfNotPresent",
            },
            "env": {
                "AWS_ENDPOINT_URL": self.s3.in_cluster,
                "AWS_REGION": self.s3.region,
                "OMP_NUM_THREADS": "1",
            },
            "secrets": {key: {"secret": SECRET, "key": key} for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
        }
        for section, change in changes.items():
            spec[section] = {**spec[section], **change} if isinstance(spec.get(section), dict) else change
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path

    def clipctl(self, *words: str, code: int = 0) -> str:
        """Run the CLI in the lab's namespace; returns stdout. Fails unless it exits with `code`."""
        command = [sys.executable, "-m", "clipctl", *words]
        if words[0] not in {"checkpoints", "data"}:
            command += ["--namespace", self.kubectl.namespace]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def store(self, run: str) -> ObjectStore:
        """The run's storage; this process's environment must name the S3 server."""
        return open_store(self.root(run))

    def root(self, run: str) -> str:
        """URL of everything the run stores."""
        return layout.run_root(f"s3://{self.bucket}/runs", run)

    def status(self, run: str) -> Event:
        """What the trainer last said about itself; empty before it has."""
        try:
            return dict(json.loads(self.store(run).read(layout.STATUS)))
        except MissingError:
            return {}

    def step(self, run: str) -> int:
        """The step the run last reported; 0 before it has."""
        return int(self.status(run).get("step", 0))

    def wait_for_step(self, run: str, step: int, seconds: float = 240) -> None:
        """Wait until the run has reported `step`."""
        self.kubectl.wait(f"step {step} of {run}", lambda: self.step(run) >= step, seconds=seconds)

    def wait_for_end(self, run: str, seconds: float = 420) -> Event:
        """Wait until `clipctl status` says that the run has ended; returns that status."""
        status: Event = {}

        def ended() -> bool:
            status.update(json.loads(self.clipctl("status", run, "--json")))
            return status["state"] in {"Succeeded", "Failed"}

        self.kubectl.wait(f"the end of {run}", ended, seconds=seconds)
        return status

    def events(self, run: str) -> list[Event]:
        """All events of the run."""
        return list(read_events(self.store(run)))

    def kept_steps(self, run: str) -> list[Event]:
        """The step events of the run's trajectory."""
        return trajectory(iter(self.events(run)))

    def delete_pod(self, name: str) -> None:
        """Remove a pod as fast as Kubernetes does; its processes get SIGTERM, and SIGKILL a moment later."""
        self.kubectl.run("delete", "pod", name, "--force", "--grace-period=0")

    def kill_pod(self, name: str) -> None:
        """SIGKILL all processes of a pod at once, as when its machine loses power, and remove it.

        The node's processes are this machine's, and each says which pod it belongs to in the name of its cgroup.
        """
        uid = self.kubectl.run("get", "pod", name, "--output=jsonpath={.metadata.uid}").strip()
        assert uid, f"pod {name} has no uid"
        killed = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if uid in _cgroups_of(pid)]
        assert killed, f"pod {name} has no processes"
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.delete_pod(name)

    def workers(self, run: str) -> list[Event]:
        """The run's worker pods."""
        return self.kubectl.items("pods", f"--selector={names.LABEL_RUN}={run},{names.LABEL_COMPONENT}=worker")

    def live_workers(self, run: str) -> list[Event]:
        """Those that have not ended."""
        return [pod for pod in self.workers(run) if pod["status"]["phase"] in {"Pending", "Running"}]

    def allowed(self, review: Event) -> bool:
        """The API server's answer to a SubjectAccessReview."""
        answer = self.kubectl.run("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        return bool(json.loads(answer)["status"]["allowed"])

    def recovery_seconds(self, run: str, action: Callable[[], None]) -> float:
        """Seconds from `action`, which takes a worker away, to the first step of the group that forms afterwards."""
        began = time.time()
        action()
        self.kubectl.wait(f"{run} to go on", lambda: bool(self._recoveries(run, began)), seconds=240)
        return self._recoveries(run, began)[0] - began

    def _recoveries(self, run: str, since: float) -> list[float]:
        """When groups that formed after `since` took their first step: out of memory, or by a new incarnation."""
        found = [e for e in self.events(run) if e["time"] >= since]
        started = {e["incarnation"] for e in found if e["event"] == "started"}
        again = [e["time"] for e in self.regrouped(run, since)]
        anew = [e["time"] for e in found if e["event"] == "step" and e["incarnation"] in started]
        return sorted(again + anew)

    def regrouped(self, run: str, since: float = 0.0) -> list[Event]:
        """The changes of the group that are done."""
        return [e for e in self.events(run) if e["event"] == "regrouped" and e["time"] >= since]

    def steps_during(self, run: str, action: Callable[[], None], steps: int) -> list[Event]:
        """The step events from `action` on, when there are at least so many."""
        began = time.time()
        action()

        def since() -> list[Event]:
            return [e for e in self.events(run) if e["event"] == "step" and e["time"] >= began]

        self.kubectl.wait(f"{steps} more steps of {run}", lambda: len(since()) >= steps, seconds=240)
        return since()


def _cgroups_of(pid: int) -> str:
    """Names of the cgroups of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def assert_same_training(steps: list[Event], reference: list[Event], tolerance: float = 1e-3) -> None:
    """Same samples in the same steps as an undisturbed run, none lost, none repeated, and the same loss curve.

    Samples are compared exactly. The losses are not: while a worker is missing, sums are formed in another order, and
    training amplifies the last bit.
    """
    assert [event["step"] for event in steps] == [event["step"] for event in reference]
    for before, after in itertools.pairwise(steps):
        assert before["end"] == after["first"], f"gap or overlap of samples before step {after['step']}"
    for ours, theirs in zip(steps, reference, strict=True):
        assert ours["digest"] == theirs["digest"], f"other samples in step {ours['step']}"
        assert abs(ours["loss"] - theirs["loss"]) <= tolerance * abs(theirs["loss"]), f"other loss in {ours['step']}"
