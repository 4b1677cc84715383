"""When an attempt is beyond repair the operator makes the next one, from a checkpoint that is really intact."""

import json
from contextlib import contextmanager

from clip_testkit.lab import assert_same_training
from clipctl.contract import names
from clipctl.contract.commits import list_checkpoints, read_commit, read_manifest
from clipctl.contract.layout import checkpoint_prefix


def test_failed_attempt_is_resumed_past_a_corrupt_checkpoint(lab, reference):
    lab.clipctl("submit", str(lab.run_file("phoenix", retry={"restarts_in_place": 1, "backoff_seconds": 1})))
    lab.wait_for_step("phoenix", 21)
    with operator_away(lab):  # the damage must come after the last save and before the operator looks
        fail_all_workers(lab, "phoenix", attempt=1)
        damaged = corrupt_newest(lab.store("phoenix"))
    second_job = names.job_name("phoenix", 2)
    # Until the operator is back, the run counts as failed.
    lab.kubectl.wait("the second attempt", lambda: lab.kubectl.ok("get", "pytorchjob", second_job), seconds=120)

    status = lab.wait_for_end("phoenix")

    assert status["state"] == "Succeeded"
    assert status["attempt"] == 2
    second = lab.kubectl.get("pytorchjob", second_job)["metadata"]["annotations"]
    assert str(damaged) in second[names.ANNOTATION_REJECTED]
    resumed_from = second[names.ANNOTATION_RESUME_FROM]
    assert resumed_from
    assert resumed_from != str(damaged)
    events = lab.events("phoenix")
    assert str(damaged) in {event["checkpoint"] for event in events if event["event"] == "checkpoint_rejected"}
    reasons = {event["reason"] for event in lab.kubectl.items("events")}
    assert {names.REASON_RESUMED, names.REASON_CHECKPOINT_REJECTED} <= reasons
    assert_same_training(lab.kept_steps("phoenix"), reference)


def corrupt_newest(store):
    """Flip one byte in the middle of the largest object of the newest checkpoint."""
    newest = list_checkpoints(store)[-1]
    largest = max(read_manifest(store, read_commit(store, newest)).objects, key=lambda stored: stored.size)
    key = checkpoint_prefix(newest) + largest.name
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 0x10
    store.write(key, bytes(data))
    return newest


@contextmanager
def operator_away(lab):
    """Stop the operator, as an eviction would; afterwards it has to work out from the cluster what happened."""
    deployment = "deployment/clip-operator"
    lab.kubectl.run("scale", deployment, "--replicas=0")
    lab.kubectl.run("wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=clip-operator", "--timeout=60s")
    try:
        yield
    finally:
        lab.kubectl.run("scale", deployment, "--replicas=1")


KILL_TRAINERS = """
import os, signal
from pathlib import Path
for process in Path("/proc").iterdir():
    # Not process 1, the agent: the kernel protects it inside its own namespace.
    if process.name.isdigit() and b"clip_trainer.main" in (process / "cmdline").read_bytes():
        os.kill(int(process.name), signal.SIGKILL)
"""


def fail_all_workers(lab, run, attempt):
    """Kill the trainer in every worker pod again and again, until training-operator gives the job up."""
    job = names.job_name(run, attempt)

    def failed():
        if lab.kubectl.condition("pytorchjob", job, "Failed"):
            return True
        for pod in lab.kubectl.items("pods", f"--selector=training.kubeflow.org/job-name={job}"):
            lab.kubectl.ok("exec", pod["metadata"]["name"], "--", "python", "-c", KILL_TRAINERS)
        return False

    lab.kubectl.wait(f"the failure of {job}", failed, seconds=240)
    # Until its pods have left, the failed job may still store what it has trained: they got SIGTERM, and obey.
    selector = f"--selector=training.kubeflow.org/job-name={job}"
    ended = {"Succeeded", "Failed"}
    lab.kubectl.wait(
        f"the last pod of {job}",
        lambda: all(pod["status"]["phase"] in ended for pod in lab.kubectl.items("pods", selector)),
        seconds=120,
    )


def test_data_that_does_not_exist_fails_the_run_at_once(lab):
    missing = lab.run_file("missing", data={"train": f"s3://{lab.bucket}/nothing-here"})
    lab.clipctl("submit", str(missing))

    status = lab.wait_for_end("missing")

    assert status["state"] == "Failed"
    assert status["attempt"] == 1
    assert status["reason"] == names.REASON_USER_ERROR
    assert "nothing-here" in status["message"]


def test_stop_saves_and_submit_resumes(lab, reference):
    file = str(lab.run_file("pause"))
    lab.clipctl("submit", file)
    lab.wait_for_step("pause", 12)
    lab.clipctl("stop", "pause")
    lab.kubectl.wait("the pods to stop", lambda: not lab.live_workers("pause"))
    stopped_at = list_checkpoints(lab.store("pause"))[-1].step
    assert stopped_at >= 12
    assert json.loads(lab.clipctl("status", "pause", "--json"))["state"] == "Stopped"

    assert json.loads(lab.clipctl("submit", file, "--json"))["action"] == "resumed"
    status = lab.wait_for_end("pause")

    assert status["state"] == "Succeeded"
    starts = [event for event in lab.events("pause") if event["event"] == "started"]
    assert starts[-1]["step"] == stopped_at  # not a step was lost
    assert_same_training(lab.kept_steps("pause"), reference)


def test_deadline_and_ttl_are_enforced(lab):
    file = lab.run_file("short", retry={"deadline_seconds": 60, "ttl_seconds": 5}, train={"steps": 5000})
    lab.clipctl("submit", str(file))

    def gone():
        selector = f"--selector={names.LABEL_RUN}=short"
        kinds = "pytorchjobs,deployments,services,configmaps,serviceaccounts,pods"
        return not lab.kubectl.items(kinds, selector)

    lab.kubectl.wait("the run to be failed and deleted", gone, seconds=240)
    reasons = {event["reason"] for event in lab.kubectl.items("events")}
    assert {names.REASON_DEADLINE, names.REASON_EXPIRED} <= reasons
    assert lab.store("short").list("incarnations/")  # storage stays
