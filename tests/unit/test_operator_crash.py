"""The operator dies at every single API call, before and after it takes effect: the run must end up the same."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from clip_operator.actions import Executor, NotLeaderError
from clip_operator.api import ConflictError, RefusedError, UnreachableError
from clip_operator.metrics import RunCollector
from clip_operator.moments import format_time
from clip_operator.reconciler import Reconciler
from clip_operator.snapshot import Snapshots
from clip_testkit import runs
from clip_testkit.directapi import WRITES, Crash, DirectApi
from clip_testkit.fakeapi_objects import FakeObjects
from clip_testkit.trainingsim import JOBS, PODS, TrainingSim
from clipctl.contract import layout, names
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import UnavailableError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore

KEY = (runs.NAMESPACE, runs.RUN)


def commit(store: LocalStore, step: int, *, damaged: bool = False) -> CheckpointId:
    """Store a small checkpoint of the real format."""
    identity = CheckpointId(step, 1)
    data = b"weights" * step
    manifest = Manifest((StoredObject.of("weights", data),), {}).to_bytes()
    prefix = layout.checkpoint_prefix(identity)
    store.write(f"{prefix}weights", b"x" + data[1:] if damaged else data)
    store.write(f"{prefix}manifest.json", manifest)
    record = CommitRecord(
        run=runs.RUN,
        step=step,
        incarnation=1,
        attempt=1,
        samples_consumed=step,
        world_size=1,
        manifest_sha256=sha256_hex(manifest),
        bytes_total=len(data),
        spec_digest="d",
        training_digest="t",
        parent=None,
        created_at=0.0,
        writer="test",
    )
    store.write(layout.commit_key(identity), record.to_bytes())
    return identity


@dataclass
class Stage:
    """A cluster in memory, a clock, and an operator that can be restarted."""

    store: LocalStore
    retry: dict[str, Any] = field(default_factory=runs.retry)
    now: float = 1_767_225_600.0
    crash_at: int = 0
    after: bool = False
    writes: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.objects = FakeObjects(now=lambda: format_time(self.now))
        self.sim = TrainingSim(self.objects)
        runs.install(self.objects, runs.job(retry_section=self.retry))
        self.sim.step()
        self.api = DirectApi(self.objects, self.crash_at, after=self.after)
        self.crashed = 0
        self._restart()

    def _restart(self) -> None:
        snapshots = Snapshots(self.api, lambda _: [], lambda: self.now, read_nodes=True)
        executor = Executor(self.api, lambda: self.now, lambda: True)
        self.collector = RunCollector()
        self.reconciler = Reconciler(snapshots, executor, self.collector, lambda: self.now, lambda _: self.store)

    def settle(self, until: Callable[["Stage"], bool], steps: int = 60) -> None:
        """Let operator and cluster take turns until `until`."""
        for _ in range(steps):
            self.turn()
            if until(self):
                return
        raise AssertionError(self.summary())

    def turn(self) -> None:
        try:
            delay = self.reconciler.reconcile(KEY)
        except Crash:
            self.crashed += 1
            self.writes += [call for call in self.api.calls if call[0] in WRITES]
            self.api = DirectApi(self.objects)
            self._restart()
            delay = 0.0
        except (ConflictError, RefusedError, UnreachableError):
            delay = 1.0
        self.sim.step()
        self.now += max(delay or 0.0, 1.0)

    def jobs(self) -> list[dict[str, Any]]:
        return self.objects.list(JOBS)

    def newest(self) -> dict[str, Any]:
        return max(self.jobs(), key=lambda job: int(job["metadata"]["labels"][names.LABEL_ATTEMPT]))

    def state(self) -> str:
        return self.newest()["metadata"]["annotations"].get(names.ANNOTATION_STATE, "")

    def summary(self) -> dict[str, Any]:
        """Everything that counts, without times and versions."""
        deployments = self.objects.list(("apps/v1", "deployments"))
        return {
            "jobs": [
                {
                    "name": job["metadata"]["name"],
                    "spec": job["spec"],
                    "annotations": {
                        key: value
                        for key, value in job["metadata"]["annotations"].items()
                        if not key.endswith(("started-at", "finished-at"))
                    },
                }
                for job in self.jobs()
            ],
            "pods": [pod["metadata"]["name"] for pod in self.objects.list(PODS)],
            "rendezvous": [item["spec"]["replicas"] for item in deployments],
            "events": sorted(
                (event["involvedObject"]["name"], event["reason"], event["message"])
                for event in self.objects.list(("v1", "events"))
            ),
            "others": [
                [item["metadata"]["name"] for item in self.objects.list(("v1", plural))]
                for plural in ("services", "configmaps", "serviceaccounts")
            ],
        }


def scenario_failure_then_success(stage: Stage) -> None:
    """A worker crashes, the run is resumed, the second attempt succeeds."""
    stage.sim.crash("demo-1-worker-0", 79)
    stage.settle(lambda s: bool(s.sim.pods("demo-2")))
    stage.settle(lambda s: s.state() == names.STATE_RUNNING)
    stage.turn()
    first = stage.objects.get(JOBS, runs.NAMESPACE, "demo-1")["metadata"]["annotations"]
    assert first[names.ANNOTATION_SUPERSEDED_BY] == "2"
    stage.sim.succeed("demo-2-worker-0")
    stage.settle(lambda s: s.state() == names.STATE_SUCCEEDED and not s.objects.get(*_DEPLOYMENT)["spec"]["replicas"])
    for _ in range(3):
        stage.turn()


def scenario_permanent_error(stage: Stage) -> None:
    """A worker says that run.yaml is wrong."""
    stage.sim.crash("demo-1-worker-1", 64, message="model: no such model")
    stage.settle(lambda s: s.state() == names.STATE_FAILED and not s.sim.pods("demo-1"))
    for _ in range(3):
        stage.turn()


def scenario_deleted_after_success(stage: Stage) -> None:
    """The run succeeds and its time to live passes."""
    stage.sim.succeed("demo-1-worker-0")
    stage.settle(lambda s: not s.jobs())
    for _ in range(3):
        stage.turn()


_DEPLOYMENT = (("apps/v1", "deployments"), runs.NAMESPACE, names.rendezvous_name(runs.RUN))
SCENARIOS = [
    (scenario_failure_then_success, {}),
    (scenario_permanent_error, {}),
    (scenario_deleted_after_success, {"ttl_seconds": 30}),
]


@pytest.fixture
def store(tmp_path: Any) -> LocalStore:
    built = LocalStore(str(tmp_path))
    commit(built, 20)
    commit(built, 40, damaged=True)
    return built


def play(scenario: Callable[[Stage], None], retry: dict[str, Any], store: LocalStore, **crash: Any) -> Stage:
    stage = Stage(store, runs.retry(**retry), **crash)
    scenario(stage)
    return stage


@pytest.mark.parametrize(("scenario", "retry"), SCENARIOS)
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_call_changes_nothing(
    scenario: Callable[[Stage], None], retry: dict[str, Any], after: bool, store: LocalStore
) -> None:
    undisturbed = play(scenario, retry, store)
    expected = undisturbed.summary()
    calls = len(undisturbed.api.calls)
    assert calls > 10
    for at in range(1, calls + 1):
        stage = play(scenario, retry, store, crash_at=at, after=after)
        assert stage.crashed == 1, (at, stage.api.calls)
        assert stage.summary() == expected, f"crash {'after' if after else 'before'} call {at}"


def test_the_story_of_a_resumed_run(store: LocalStore) -> None:
    stage = play(scenario_failure_then_success, {}, store)
    (second,) = stage.jobs()  # the first attempt is deleted once the second has ended
    annotations = second["metadata"]["annotations"]
    assert json.loads(annotations[names.ANNOTATION_HISTORY]) == [names.CAUSE_HANG]
    assert annotations[names.ANNOTATION_RESUME_FROM] == "step-00000020.inc-000001"
    (rejected,) = json.loads(annotations[names.ANNOTATION_REJECTED])
    assert rejected.startswith("step-00000040.inc-000001: ")
    assert second["spec"]["elasticPolicy"]["rdzvId"] == names.rendezvous_id(runs.RUN, runs.DIGEST, 2)
    template = second["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["spec"]["containers"][0]["env"][0] == {"name": names.ENV_ATTEMPT, "value": "2"}
    assert template["metadata"]["labels"][names.LABEL_ATTEMPT] == "2"
    assert "activeDeadlineSeconds" not in second["spec"]["runPolicy"]
    reasons = {event["reason"] for event in stage.objects.list(("v1", "events"))}
    assert reasons == {names.REASON_RESUMED, names.REASON_CHECKPOINT_REJECTED, names.REASON_COMPLETED}


def test_every_write_is_tried_before_and_after_a_crash(store: LocalStore) -> None:
    """The scenarios above reach every kind of write the operator has, but for pods on lost nodes."""
    writes = set()
    for scenario, retry in SCENARIOS:
        writes |= {(verb, plural) for verb, plural, _ in play(scenario, retry, store).api.calls if verb in WRITES}
    assert writes == {
        ("create", "pytorchjobs"),
        ("patch", "pytorchjobs"),
        ("delete", "pytorchjobs"),
        ("patch", "deployments"),
        ("delete", "deployments"),
        ("delete", "services"),
        ("delete", "configmaps"),
        ("delete", "serviceaccounts"),
        ("create", "events"),
    }


@pytest.mark.parametrize(
    "error", [ConflictError("somebody was faster"), UnreachableError("no answer"), UnreachableError("slow down", 5)]
)
@pytest.mark.parametrize(
    ("verb", "plural"), [("list", "pytorchjobs"), ("patch", "pytorchjobs"), ("create", "pytorchjobs"), ("list", "pods")]
)
def test_errors_are_met_by_deciding_anew(error: Exception, verb: str, plural: str, store: LocalStore) -> None:
    if (verb, type(error)) == ("create", ConflictError):
        error = UnreachableError("a conflict on create is AlreadyExists, which has its own test")
    expected = play(scenario_failure_then_success, {}, store).summary()
    stage = Stage(store)
    stage.api.errors += [(verb, plural, error)] * 2
    scenario_failure_then_success(stage)
    assert stage.summary() == expected


def test_a_run_deleted_meanwhile_is_not_made_again(store: LocalStore) -> None:
    stage = Stage(store)
    stage.sim.crash("demo-1-worker-0", 1)
    stage.settle(lambda s: s.state() == names.STATE_RESTARTING)
    stage.objects.delete(JOBS, runs.NAMESPACE, "demo-1")
    for _ in range(20):
        stage.turn()
    assert stage.jobs() == []
    assert next(iter(stage.collector.collect())).samples == []


def test_the_newest_attempt_deleted_by_hand_is_not_made_again(store: LocalStore) -> None:
    stage = Stage(store)
    stage.sim.crash("demo-1-worker-0", 1)
    stage.settle(lambda s: bool(s.sim.pods("demo-2")))
    stage.objects.delete(JOBS, runs.NAMESPACE, "demo-2")
    for _ in range(20):
        stage.turn()
    assert [job["metadata"]["name"] for job in stage.jobs()] == ["demo-1"]


def test_an_object_of_the_same_name_that_is_not_ours_survives_the_ttl(store: LocalStore) -> None:
    stage = Stage(store, runs.retry(ttl_seconds=30))
    stage.objects.merge(("v1", "serviceaccounts"), runs.NAMESPACE, runs.RUN, {"metadata": {"labels": None}})
    scenario_deleted_after_success(stage)
    assert [item["metadata"]["name"] for item in stage.objects.list(("v1", "serviceaccounts"))] == [runs.RUN]
    assert stage.objects.list(("v1", "configmaps")) == []


def test_the_budget_ends_a_run_that_fails_for_ever(store: LocalStore) -> None:
    stage = Stage(store)
    for attempt in range(1, 5):
        stage.settle(lambda s, attempt=attempt: bool(s.sim.pods(f"demo-{attempt}")))
        stage.sim.crash(f"demo-{attempt}-worker-0", 79)
        stage.turn()
        if attempt == 3:
            break
    stage.settle(lambda s: s.state() == names.STATE_FAILED)
    annotations = stage.newest()["metadata"]["annotations"]
    assert annotations[names.ANNOTATION_REASON] == names.REASON_BUDGET_EXHAUSTED
    assert stage.newest()["metadata"]["labels"][names.LABEL_ATTEMPT] == "3", "2 further attempts for a hang"


def test_nothing_is_written_without_the_lease(store: LocalStore) -> None:
    stage = Stage(store)
    stage.sim.crash("demo-1-worker-0", 64)
    snapshots = Snapshots(stage.api, lambda _: [], lambda: stage.now, read_nodes=True)
    executor = Executor(stage.api, lambda: stage.now, lambda: False)
    reconciler = Reconciler(snapshots, executor, RunCollector(), lambda: stage.now, lambda _: store)
    with pytest.raises(NotLeaderError):
        reconciler.reconcile(KEY)
    assert not [call for call in stage.api.calls if call[0] in WRITES]


def test_storage_that_does_not_answer_costs_only_the_message(tmp_path: Any) -> None:
    def no_answer(_: str) -> Any:
        raise UnavailableError("the store does not answer.")

    stage = Stage(LocalStore(str(tmp_path)))
    stage.reconciler._opener = no_answer
    stage.sim.crash("demo-1-worker-0", 79)
    stage.settle(lambda s: bool(s.sim.pods("demo-2")))
    stage.settle(lambda s: True)
    events = [event["message"] for event in stage.objects.list(("v1", "events"))]
    assert any("the trainer finds the checkpoint itself" in message for message in events)


def test_a_pod_stuck_on_a_lost_node_is_forced_out(store: LocalStore) -> None:
    stage = Stage(store)
    due = {"metadata": {"deletionTimestamp": format_time(stage.now)}, "spec": {"nodeName": "node-9"}}
    stage.objects.merge(PODS, runs.NAMESPACE, "demo-1-worker-0", due)
    uid = stage.objects.get(PODS, runs.NAMESPACE, "demo-1-worker-0")["metadata"]["uid"]
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    stage.objects.create(("v1", "nodes"), "", {"metadata": {"name": "node-9"}, **ready})
    stage.now += 300
    stage.turn()
    assert stage.objects.get(PODS, runs.NAMESPACE, "demo-1-worker-0")["metadata"]["uid"] == uid
    lost = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    stage.objects.merge(("v1", "nodes"), "", "node-9", lost)
    stage.turn()
    assert ("delete", "pods", "demo-1-worker-0") in stage.api.calls
    assert stage.objects.get(PODS, runs.NAMESPACE, "demo-1-worker-0")["metadata"]["uid"] != uid


def test_a_foreign_job_under_the_next_attempts_name_is_not_taken_for_ours(store: LocalStore) -> None:
    stage = Stage(store)
    stage.objects.create(
        JOBS, runs.NAMESPACE, {"metadata": {"name": "demo-2"}, "spec": {"runPolicy": {"suspend": True}}}
    )
    stage.sim.crash("demo-1-worker-0", 79)
    for _ in range(30):
        stage.turn()
    annotations = stage.objects.get(JOBS, runs.NAMESPACE, "demo-1")["metadata"]["annotations"]
    assert names.ANNOTATION_SUPERSEDED_BY not in annotations
    stage.objects.delete(JOBS, runs.NAMESPACE, "demo-2")
    stage.settle(lambda s: bool(s.sim.pods("demo-2")))
