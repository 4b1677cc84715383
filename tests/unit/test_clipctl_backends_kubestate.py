import json

import pytest

from clipctl.backends import kubestate
from clipctl.backends.base import Progress
from clipctl.contract import names

NOW = kubestate.timestamp("2026-01-01T01:00:00Z")


def job(*conditions, attempt=1, suspend=False, queue=None, env=(), **annotations):
    labels = {names.LABEL_RUN: "demo", names.LABEL_ATTEMPT: str(attempt)}
    if queue:
        labels[names.LABEL_QUEUE] = queue
    return {
        "metadata": {
            "name": f"demo-{attempt}",
            "namespace": "team",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels,
            "annotations": {f"{names.DOMAIN}/{k.replace('_', '-')}": v for k, v in annotations.items()},
        },
        "spec": {
            "runPolicy": {"suspend": suspend},
            "pytorchReplicaSpecs": {"Worker": {"template": {"spec": {"containers": [{"env": list(env)}]}}}},
        },
        "status": {
            "conditions": [{"type": c, "status": "True", "reason": f"Job{c}", "message": c} for c in conditions]
        },
    }


def pod(name="demo-1-worker-0", phase="Running", **status):
    metadata = {"name": name, "creationTimestamp": "2026-01-01T00:59:00Z"}
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": phase, **status}}


def waiting(reason, message=""):
    return {"containerStatuses": [{"restartCount": 2, "state": {"waiting": {"reason": reason, "message": message}}}]}


def status(item, pods=(), events=()):
    return kubestate.run_status("demo", item, pods, events, NOW)


@pytest.mark.parametrize(
    ("item", "state"),
    [
        (job(), "Pending"),
        (job("Created"), "Pending"),
        (job("Created", "Running"), "Running"),
        (job("Created", "Restarting"), "Restarting"),
        (job("Created", "Succeeded"), "Succeeded"),
        (job("Failed"), "Failed"),
        # The operator is about to make the next attempt.
        (job("Failed", state="Restarting"), "Restarting"),
        (job("Failed", state="Running"), "Failed"),
        # A finished run stays finished whatever becomes of the job.
        (job("Running", state="Failed"), "Failed"),
        (job("Running", state="Succeeded"), "Succeeded"),
        # Stopped by the user, or suspended by a queue.
        (job("Suspended", suspend=True, stopped_by="user"), "Stopped"),
        (job("Suspended", suspend=True), "Pending"),
        (job("Running", stopped_by="user"), "Running"),
        (job("Succeeded", suspend=True, stopped_by="user"), "Succeeded"),
    ],
)
def test_state_of_a_run(item, state):
    assert kubestate.state_of(item) == state
    assert state in names.STATES


def test_a_condition_that_is_false_does_not_count():
    item = job("Running")
    item["status"]["conditions"][0]["status"] = "False"
    assert kubestate.state_of(item) == "Pending"


def test_the_newest_attempt_is_the_highest_number_not_the_last_name():
    assert kubestate.newest_attempt([job(attempt=9), job(attempt=10), job(attempt=2)])["metadata"]["name"] == "demo-10"
    assert kubestate.newest_attempt([]) is None
    assert kubestate.attempt_of({"metadata": {"labels": {names.LABEL_ATTEMPT: "x"}}}) == 0
    assert kubestate.attempt_of({"metadata": {}}) == 0


@pytest.mark.parametrize(
    ("pods", "reason", "message"),
    [
        (
            [
                pod(
                    phase="Pending",
                    conditions=[
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
                    ],
                )
            ],
            "Unschedulable",
            "0/1 nodes",
        ),
        ([pod(phase="Pending", **waiting("ImagePullBackOff", "no image"))], "ImagePullBackOff", "no image"),
        (
            [pod(phase="Pending", **waiting("CreateContainerConfigError", "secret x"))],
            "CreateContainerConfigError",
            "secret x",
        ),
        (
            [pod(phase="Pending", **waiting("ContainerCreating")), pod("w1", "Pending", **waiting("ErrImagePull"))],
            "ErrImagePull",
            "w1",
        ),
        ([pod(phase="Failed", reason="Evicted", message="disk")], "Evicted", "disk"),
    ],
)
def test_why_a_run_is_pending(pods, reason, message):
    found = status(job("Created"), pods)
    assert (found.state, found.reason, found.message) == ("Pending", reason, message)


def test_a_pending_run_without_pods_shows_the_newest_warning():
    events = [
        {"type": "Normal", "reason": "Fine", "message": "", "lastTimestamp": "2026-01-01T00:09:00Z"},
        {"type": "Warning", "reason": "FailedCreatePod", "message": "quota", "lastTimestamp": "2026-01-01T00:08:00Z"},
        {"type": "Warning", "reason": "Older", "message": "x", "lastTimestamp": "2026-01-01T00:01:00Z"},
    ]
    found = status(job("Created"), [], events)
    assert (found.reason, found.message) == ("FailedCreatePod", "quota")


def test_a_job_nobody_picked_up_and_a_queued_job():
    assert status(job()).reason == "NotPickedUp"
    found = status(job("Suspended", suspend=True, queue="gpu"))
    assert (found.reason, found.message) == ("Queued", "waiting for admission by the queue gpu")


def test_the_operators_words_and_the_conditions():
    found = status(
        job(
            "Failed",
            state="Failed",
            reason="RetryBudgetExhausted",
            message="no more",
            last_failure=json.dumps({"code": 65}),
        )
    )
    assert (found.reason, found.message, found.exit_code) == ("RetryBudgetExhausted", "no more", 65)
    assert status(job("Failed")).reason == "JobFailed"
    assert status(job("Running"), [pod()]).reason == ""
    assert status(job("Suspended", suspend=True, stopped_by="user")).message.startswith("submit the same file")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"code": "x"}', '{"code": true}', None])
def test_damaged_failure_records_are_ignored(text):
    assert status(job("Failed", state="Failed", last_failure=text)).exit_code is None


def test_everything_else_the_annotations_say():
    found = status(
        job(
            "Running",
            attempt=3,
            checkpoint_root="s3://b/r/demo",
            spec_digest="abc",
            started_at="2025-12-31T00:00:00Z",
            attempt_causes='["preemption", "hang"]',
            rejected_checkpoints='["step-1.inc-1: damaged"]',
            resume_from="step-00000004.inc-000002",
            env=[
                {"name": "AWS_REGION", "value": "x"},
                {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {}},
                {"name": "A", "value": "1"},
            ],
        )
    )
    assert (found.run_root, found.spec_digest, found.attempt) == ("s3://b/r/demo", "abc", 3)
    assert found.attempt_causes == ("preemption", "hang")
    assert found.rejected == ("step-1.inc-1: damaged",)
    assert found.resume_from == "step-00000004.inc-000002"
    assert found.storage_env == {"AWS_REGION": "x"}
    assert found.created_at == kubestate.timestamp("2025-12-31T00:00:00Z")
    assert found.location == "team/demo-3"
    assert kubestate.summary("demo", job("Running")).created_at == kubestate.timestamp("2026-01-01T00:00:00Z")


@pytest.mark.parametrize("text", ["not json", "3", "{}", ""])
def test_damaged_lists_are_empty(text):
    assert status(job("Running", attempt_causes=text)).attempt_causes == ()


def test_pods_are_described():
    terminating = pod("w2")
    terminating["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:30Z"
    crashed = pod(
        "w1", containerStatuses=[{"restartCount": 4, "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]
    )
    found = status(job("Running"), [terminating, crashed, pod("w0"), pod("w3", "Succeeded")]).pods
    assert [(p.name, p.phase, p.reason, p.restarts) for p in found] == [
        ("w0", "Running", "", 0),
        ("w1", "Running", "OOMKilled", 4),
        ("w2", "Terminating", "", 0),
        ("w3", "Succeeded", "", 0),
    ]
    assert found[0].age_seconds == 60
    assert found[0].node == "n1"


def test_timestamps():
    assert kubestate.timestamp("1970-01-01T00:00:10Z") == 10
    assert kubestate.timestamp("1970-01-01T00:00:10.5Z") == 10
    assert kubestate.timestamp("yesterday") is None
    assert kubestate.timestamp(None) is None


def test_progress_is_read_tolerantly():
    good = Progress.from_json(
        b'{"step": 3, "loss": 1, "state": "Running", "new_field": 1, "eta_seconds": "soon", "goodput": true}'
    )
    assert (good.step, good.loss, good.state, good.eta_seconds, good.goodput) == (3, 1.0, "Running", None, None)
    for damaged in (b"", b"{", b"[]", b"\xff"):
        assert Progress.from_json(damaged) == Progress()
