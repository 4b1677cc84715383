"""Each rule of the operator, one situation at a time."""

import json
from dataclasses import replace
from typing import Any

import pytest

from clip_operator.causes import Failure
from clip_operator.decisions import (
    FAIL_NOW,
    CreateAttempt,
    DeleteJob,
    DeleteRun,
    Emit,
    ForceDeletePod,
    InspectCheckpoints,
    PatchJob,
    Requeue,
    ScaleRendezvous,
)
from clip_operator.moments import parse_time
from clip_operator.pod_view import PodView
from clip_operator.policies import budget
from clip_operator.reconcile import decide
from clip_operator.retry_policy import RetryPolicy
from clip_operator.world import CheckpointSummary, World
from clip_testkit import runs
from clipctl.contract import names

FAILED_AT = parse_time("2026-01-01T01:00:00Z") or 0.0
LATER = FAILED_AT + 3600


def world(*jobs: dict[str, Any], pods: list[dict[str, Any]] | None = None, **fields: Any) -> World:
    replicas = fields.pop("rendezvous_replicas", 1)
    built = World.build(runs.NAMESPACE, runs.RUN, jobs, [PodView.parse(p) for p in pods or []], replicas)
    return replace(built, **fields)


def only(actions: list[Any], kind: type) -> Any:
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, actions
    return found[0]


def failed(attempt: int = 1, **changes: Any) -> dict[str, Any]:
    return runs.with_condition(runs.job(attempt, **changes), "Failed")


SOUND = CheckpointSummary("step-00000040.inc-000002", 40)


# --- nothing to do -------------------------------------------------------------------------------------------------


def test_a_run_without_jobs_or_being_deleted_is_left_alone() -> None:
    assert decide(world(), LATER) == []
    raw = failed()
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T02:00:00Z"
    assert decide(world(raw), LATER) == []


def test_an_attempt_whose_successor_was_deleted_is_not_continued() -> None:
    assert decide(world(failed(superseded_by="2")), LATER) == []


# --- progress ------------------------------------------------------------------------------------------------------


def test_a_running_job_is_reported_once() -> None:
    raw = runs.with_condition(runs.job(), "Running")
    patch = only(decide(world(raw, pods=[runs.pod(), runs.pod(index=1)]), LATER), PatchJob)
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_RUNNING
    assert patch.annotations[names.ANNOTATION_MESSAGE] == "2 of 2 workers run in attempt 1"
    assert patch.annotations[names.ANNOTATION_STARTED_AT] == "2026-01-01T00:00:00Z"
    raw["metadata"]["annotations"] |= patch.annotations
    assert decide(world(raw, pods=[runs.pod(), runs.pod(index=1)]), LATER) == []


@pytest.mark.parametrize(
    ("condition", "waiting", "expected"),
    [
        ({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}, None, "no GPU"),
        (None, {"reason": "ImagePullBackOff", "message": "no such image"}, "ImagePullBackOff: no such image"),
        (None, {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}, 'secret "s3" not found'),
    ],
)
def test_waiting_says_for_what(condition: Any, waiting: Any, expected: str) -> None:
    raw = runs.pod(phase="Pending", state={"waiting": waiting} if waiting else {})
    raw["status"]["conditions"] = [condition] if condition else []
    patch = only(decide(world(runs.job(), pods=[raw]), LATER), PatchJob)
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_PENDING
    assert expected in patch.annotations[names.ANNOTATION_MESSAGE]


def test_queued_and_suspended_are_waiting_and_leave_the_rendezvous_alone() -> None:
    raw = runs.job()
    raw["spec"]["runPolicy"]["suspend"] = True
    patch = only(decide(world(raw, rendezvous_replicas=0), LATER), PatchJob)
    assert (patch.annotations[names.ANNOTATION_STATE], patch.run_policy) == (names.STATE_PENDING, {})
    raw["metadata"]["labels"][names.LABEL_QUEUE] = "gpus"
    assert "Kueue" in only(decide(world(raw), LATER), PatchJob).annotations[names.ANNOTATION_MESSAGE]


def test_a_live_run_gets_its_rendezvous_back() -> None:
    assert ScaleRendezvous(1) in decide(world(runs.job(), rendezvous_replicas=0), LATER)
    assert not [a for a in decide(world(runs.job(), rendezvous_replicas=None), LATER) if isinstance(a, ScaleRendezvous)]


def test_a_failure_is_written_down_while_its_pod_still_exists() -> None:
    raw = runs.job(retry_section=runs.retry(restarts_in_place=5))
    pods = [runs.pod(restartCount=1, lastState=runs.terminated(79))]
    patch = only(decide(world(raw, pods=pods), LATER), PatchJob)
    assert json.loads(patch.annotations[names.ANNOTATION_LAST_FAILURE])["cause"] == names.CAUSE_HANG


# --- resume --------------------------------------------------------------------------------------------------------


def test_a_pod_over_its_restarts_fails_the_attempt() -> None:
    pods = [runs.pod(restartCount=1, lastState=runs.terminated(1)), runs.pod(index=1)]
    patch = only(decide(world(runs.job(), pods=pods), LATER), PatchJob)
    assert patch.run_policy == FAIL_NOW
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_RESTARTING
    left = replace(world(runs.job()), pods=tuple(PodView.parse(pod, gone=True) for pod in pods))
    assert only(decide(left, LATER), PatchJob).run_policy == FAIL_NOW, "its pods were deleted, but it did not fail"
    allowed = runs.job(retry_section=runs.retry(restarts_in_place=1))
    assert only(decide(world(allowed, pods=pods), LATER), PatchJob).run_policy == {}


def test_a_failed_job_waits_for_its_back_off_then_asks_storage() -> None:
    early = decide(world(failed()), FAILED_AT + 4)
    assert only(early, Requeue).after == pytest.approx(6)
    assert decide(world(failed()), FAILED_AT + 10) == [InspectCheckpoints()]


def test_the_next_attempt_waits_for_the_old_pods_but_not_for_ever() -> None:
    old = [runs.pod()]
    assert only(decide(world(failed(), pods=old), FAILED_AT + 20), Requeue).after == 5
    assert InspectCheckpoints() in decide(world(failed(), pods=old), FAILED_AT + 60 + 60)
    assert InspectCheckpoints() in decide(world(failed(), pods=[runs.pod(phase="Failed")]), FAILED_AT + 20)


def test_the_next_attempt_carries_history_and_checkpoint() -> None:
    raw = failed(2, attempt_causes='["hang"]', started_at="2025-12-31T00:00:00Z")
    raw["metadata"]["annotations"][names.ANNOTATION_LAST_FAILURE] = json.dumps(
        Failure(names.CAUSE_PREEMPTION, 75, "w", "gone").to_json()
    )
    summary = replace(SOUND, rejected=("step-00000080.inc-000002: damaged",))
    actions = decide(world(raw, checkpoints=summary), LATER)
    create = only(actions, CreateAttempt)
    assert create.number == 3
    assert json.loads(create.annotations[names.ANNOTATION_HISTORY]) == ["hang", "preemption"]
    assert create.annotations[names.ANNOTATION_RESUME_FROM] == SOUND.resume_from
    assert create.annotations[names.ANNOTATION_STARTED_AT] == "2025-12-31T00:00:00Z"
    assert "step-00000080" in create.annotations[names.ANNOTATION_MESSAGE]
    patch = only(actions, PatchJob)
    assert patch.annotations[names.ANNOTATION_SUPERSEDED_BY] == "3"
    assert actions.index(create) < actions.index(patch), "the job is made before the old one is marked"
    reasons = [action.reason for action in actions if isinstance(action, Emit)]
    assert reasons == [names.REASON_RESUMED, names.REASON_CHECKPOINT_REJECTED]


def test_unreachable_storage_does_not_hold_the_run_back() -> None:
    create = only(decide(world(failed(), checkpoints=CheckpointSummary(problem="no answer")), LATER), CreateAttempt)
    assert "the trainer finds the checkpoint itself" in create.annotations[names.ANNOTATION_MESSAGE]


def test_no_checkpoint_yet_means_from_the_beginning() -> None:
    create = only(decide(world(failed(), checkpoints=CheckpointSummary()), LATER), CreateAttempt)
    assert "from the beginning" in create.annotations[names.ANNOTATION_MESSAGE]


def test_only_corrupt_checkpoints_end_the_run() -> None:
    actions = decide(world(failed(), checkpoints=CheckpointSummary(problem="all 2 damaged", all_corrupt=True)), LATER)
    patch = only(actions, PatchJob)
    assert patch.annotations[names.ANNOTATION_REASON] == names.REASON_CHECKPOINTS_CORRUPT
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_FAILED
    assert ScaleRendezvous(0) in actions


def test_a_pod_that_has_left_still_tells_its_cause() -> None:
    gone = PodView.parse(runs.pod(lastState=runs.terminated(137, "OOMKilled")), gone=True)
    before = replace(world(failed(), checkpoints=SOUND), pods=(gone,))
    create = only(decide(before, LATER), CreateAttempt)
    assert json.loads(create.annotations[names.ANNOTATION_HISTORY]) == ["out_of_memory"]


# --- budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", names.CAUSES)
def test_the_budget_of_each_cause_ends_the_run(cause: str) -> None:
    allowed = runs.BUDGET.get(cause, 0)
    failure = json.dumps(Failure(cause, None, "w", "why").to_json())
    used_up = failed(5, attempt_causes=json.dumps([cause] * allowed), last_failure=failure)
    patch = only(decide(world(used_up, checkpoints=SOUND), LATER), PatchJob)
    assert patch.annotations[names.ANNOTATION_REASON] == names.REASON_BUDGET_EXHAUSTED
    if allowed:
        left = failed(5, attempt_causes=json.dumps([cause] * (allowed - 1)), last_failure=failure)
        assert only(decide(world(left, checkpoints=SOUND), LATER), CreateAttempt).number == 6


def test_other_causes_do_not_use_up_a_budget() -> None:
    failure = json.dumps(Failure(names.CAUSE_HANG, 79, "w", "why").to_json())
    raw = failed(9, attempt_causes=json.dumps(["preemption"] * 8), last_failure=failure)
    assert only(decide(world(raw, checkpoints=SOUND), LATER), CreateAttempt)


def test_back_off_doubles_up_to_five_minutes() -> None:
    policy = RetryPolicy(backoff_seconds=10)
    assert [budget.backoff_seconds(policy, n) for n in range(7)] == [10, 20, 40, 80, 160, 300, 300]
    assert budget.backoff_seconds(policy, 10**9) == 300


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"attempts": 3}', '{"attempts": {"hang": "many"}}'])
def test_a_damaged_retry_annotation_means_no_retry(text: str | None) -> None:
    policy = RetryPolicy.parse(text)
    assert not any(budget.allows(policy, (), cause) for cause in names.CAUSES)


# --- permanent, deadline, stop, finish, ttl ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [64, 65, 66, 76, 77, 78])
def test_permanent_errors_end_the_run_at_once(code: int) -> None:
    raw = runs.job(retry_section=runs.retry(restarts_in_place=10))
    pods = [runs.pod(restartCount=1, lastState=runs.terminated(code, message="no such shard"))]
    actions = decide(world(raw, pods=pods), LATER)
    patch = only(actions, PatchJob)
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_FAILED
    assert patch.annotations[names.ANNOTATION_REASON] == names.REASON_USER_ERROR
    assert "no such shard" in patch.annotations[names.ANNOTATION_MESSAGE]
    assert patch.run_policy == FAIL_NOW, "verdict and release of the devices are one write"
    assert only(actions, Emit).kind == "Warning"


def test_the_deadline_counts_from_the_first_submission() -> None:
    section = runs.retry(deadline_seconds=7200)
    raw = runs.job(3, retry_section=section, started_at="2025-12-31T23:00:00Z")
    start = parse_time("2025-12-31T23:00:00Z") or 0.0
    assert only(decide(world(raw), start + 7000), Requeue).after == pytest.approx(200)
    patch = only(decide(world(raw), start + 7200), PatchJob)
    assert patch.annotations[names.ANNOTATION_REASON] == names.REASON_DEADLINE
    assert patch.run_policy == FAIL_NOW


def test_the_deadline_beats_a_retry() -> None:
    raw = failed(retry_section=runs.retry(deadline_seconds=60))
    patch = only(decide(world(raw, checkpoints=SOUND), LATER), PatchJob)
    assert patch.annotations[names.ANNOTATION_REASON] == names.REASON_DEADLINE
    assert patch.run_policy == {}, "it has failed already"


def test_a_stopped_run_is_suspended_and_stays_so() -> None:
    patch = only(decide(world(runs.job(stopped_by="ada")), LATER), PatchJob)
    assert patch.run_policy == {"suspend": True}
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_STOPPED
    stopped = failed(stopped_by="ada")
    actions = decide(world(stopped, checkpoints=SOUND), LATER)
    assert not [action for action in actions if isinstance(action, CreateAttempt)]
    assert ScaleRendezvous(0) in actions


def test_success_is_recorded_once_and_releases_the_rendezvous() -> None:
    raw = runs.with_condition(runs.job(2), "Succeeded")
    actions = decide(world(raw), LATER)
    patch = only(actions, PatchJob)
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_SUCCEEDED
    assert patch.annotations[names.ANNOTATION_FINISHED_AT] == "2026-01-01T01:00:00Z"
    assert only(actions, Emit).reason == names.REASON_COMPLETED
    assert ScaleRendezvous(0) in actions
    raw["metadata"]["annotations"] |= patch.annotations
    assert decide(world(raw, rendezvous_replicas=0), LATER) == []


def test_success_wins_over_a_verdict_that_came_too_late() -> None:
    raw = runs.with_condition(runs.job(state="Failed"), "Succeeded")
    assert only(decide(world(raw), LATER), PatchJob).annotations[names.ANNOTATION_STATE] == names.STATE_SUCCEEDED


def test_a_verdict_is_kept_in_force() -> None:
    patch = only(decide(world(runs.job(state="Failed")), LATER), PatchJob)
    assert (patch.annotations, patch.run_policy) == ({}, FAIL_NOW)


def test_a_forged_success_does_not_stop_the_run() -> None:
    raw = runs.with_condition(runs.job(state="Succeeded"), "Running")
    patch = only(decide(world(raw, pods=[runs.pod()]), LATER), PatchJob)
    assert patch.annotations[names.ANNOTATION_STATE] == names.STATE_RUNNING


def test_ttl_deletes_finished_runs_only_and_on_time() -> None:
    section = runs.retry(ttl_seconds=100)
    done = runs.with_condition(
        runs.job(retry_section=section, state="Succeeded", finished_at="2026-01-01T01:00:00Z"), "Succeeded"
    )
    assert only(decide(world(done), FAILED_AT + 40), Requeue).after == pytest.approx(60)
    assert only(decide(world(done), FAILED_AT + 100), DeleteRun)
    running = runs.with_condition(runs.job(retry_section=section), "Running")
    assert not [action for action in decide(world(running), LATER) if isinstance(action, DeleteRun)]


def test_one_finished_attempt_is_kept_for_its_logs() -> None:
    second = failed(2, superseded_by="3")
    third = runs.with_condition(runs.job(3), "Running")
    actions = decide(world(failed(1, superseded_by="2"), second, third), LATER)
    assert only(actions, DeleteJob).job.attempt == 1


def test_an_old_attempt_that_still_runs_is_stopped() -> None:
    actions = decide(world(runs.job(1), runs.with_condition(runs.job(2), "Running")), LATER)
    stops = [action for action in actions if isinstance(action, PatchJob) and action.job.attempt == 1]
    assert [action.run_policy for action in stops] == [FAIL_NOW]


# --- stuck pods ----------------------------------------------------------------------------------------------------


def _terminating(*, node_lost: bool) -> PodView:
    raw = runs.pod()
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    return PodView.parse(raw, node_lost=node_lost)


def test_only_overdue_pods_on_lost_nodes_are_forced_out() -> None:
    base = world(runs.job())
    lost = _terminating(node_lost=True)
    assert ForceDeletePod(lost) in decide(replace(base, pods=(lost,)), FAILED_AT + 31)
    early = decide(replace(base, pods=(lost,)), FAILED_AT + 10)
    assert not [action for action in early if isinstance(action, ForceDeletePod)]
    assert Requeue(20.0) in early
    alive = replace(base, pods=(_terminating(node_lost=False),))
    assert not [action for action in decide(alive, FAILED_AT + 3600) if isinstance(action, ForceDeletePod)]


def test_messages_are_redacted_before_they_are_written() -> None:
    raw = runs.pod(phase="Pending", state={"waiting": {"reason": "X", "message": "https://bob:hunter22@host/x"}})
    patch = only(decide(world(runs.job(), pods=[raw]), LATER), PatchJob)
    assert "hunter22" not in json.dumps(dict(patch.annotations))
