"""Random worlds, hand-edited and half-finished ones among them: what must hold whatever the cluster looks like."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clip_operator.causes import Failure
from clip_operator.decisions import CreateAttempt, DeleteRun, ForceDeletePod, PatchJob, Requeue
from clip_operator.moments import format_time
from clip_operator.pod_view import PodView
from clip_operator.reconcile import decide
from clip_operator.world import CheckpointSummary, World
from clip_testkit import runs
from clipctl.contract import names

NOW = 1_800_000_000.0

moments = st.floats(NOW - 10_000, NOW + 10_000).map(format_time)
texts = st.sampled_from(["", "x", "{}", "[]", "{", '["hang"]', "null", "1e999", "-1", "Failed", "2026-01-01"])
states = st.sampled_from([*names.STATES, "", "Nonsense"])
failures = st.builds(
    Failure,
    cause=st.sampled_from(names.CAUSES),
    code=st.sampled_from([None, 1, 64, 65, 75, 79, 137]),
    pod=st.just("w"),
    message=st.just("why"),
)
retries = st.fixed_dictionaries(
    {
        "attempts": st.dictionaries(st.sampled_from(names.CAUSES), st.integers(0, 3)),
        "restarts_in_place": st.integers(0, 3),
        "backoff_seconds": st.integers(0, 600),
        "deadline_seconds": st.none() | st.integers(1, 20_000),
        "ttl_seconds": st.none() | st.integers(0, 20_000),
    }
)


@st.composite
def jobs(draw: st.DrawFn, attempt: int) -> dict[str, Any]:
    raw = runs.job(attempt, retry_section=draw(retries))
    annotations = raw["metadata"]["annotations"]
    optional = {
        names.ANNOTATION_STATE: states,
        names.ANNOTATION_HISTORY: st.lists(st.sampled_from(names.CAUSES), max_size=4).map(json.dumps) | texts,
        names.ANNOTATION_LAST_FAILURE: failures.map(lambda f: json.dumps(f.to_json())) | texts,
        names.ANNOTATION_STARTED_AT: moments | texts,
        names.ANNOTATION_FINISHED_AT: moments | texts,
        names.ANNOTATION_STOPPED_BY: st.just("ada"),
        names.ANNOTATION_SUPERSEDED_BY: st.just(str(attempt + 1)),
        names.ANNOTATION_RETRY: texts,
    }
    chosen = draw(st.sets(st.sampled_from(sorted(optional)), max_size=3))
    annotations |= {key: draw(optional[key]) for key in sorted(chosen)}
    raw["metadata"]["creationTimestamp"] = draw(moments)
    raw["spec"]["runPolicy"]["suspend"] = draw(st.booleans())
    if draw(st.booleans()):
        raw["spec"]["runPolicy"]["activeDeadlineSeconds"] = 0
    condition = draw(st.sampled_from(["", "Created", "Running", "Restarting", "Succeeded", "Failed", "Failed"]))
    return runs.with_condition(raw, condition, draw(moments)) if condition else raw


pods = st.builds(
    PodView,
    name=st.just("p"),
    uid=st.uuids().map(str),
    attempt=st.integers(1, 3),
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    node_lost=st.booleans(),
    deletion_due=st.none() | st.floats(NOW - 1000, NOW + 1000),
    restarts=st.integers(0, 4),
    failures=st.lists(failures, max_size=2).map(tuple),
    waiting=st.none() | st.just(("ImagePullBackOff", "no image")),
    gone=st.booleans(),
)
summaries = st.none() | st.sampled_from(
    [
        CheckpointSummary(),
        CheckpointSummary("step-00000001.inc-000001", 1),
        CheckpointSummary(problem="no answer"),
        CheckpointSummary(problem="all damaged", all_corrupt=True),
    ]
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    present = draw(st.sets(st.integers(1, 3), min_size=1))
    built = World.build(
        runs.NAMESPACE,
        runs.RUN,
        [draw(jobs(attempt)) for attempt in sorted(present)],
        draw(st.lists(pods, max_size=3)),
        draw(st.sampled_from([None, 0, 1])),
    )
    return replace(built, checkpoints=draw(summaries))


def after(world: World, actions: list[Any]) -> World:
    """The world once the actions' writes have taken effect."""
    changed = {job.name: json.loads(json.dumps(job.raw)) for job in world.jobs}
    for action in actions:
        if isinstance(action, PatchJob):
            raw = changed[action.job.name]
            raw["metadata"]["annotations"] |= action.annotations
            raw["spec"]["runPolicy"] |= action.run_policy
        elif isinstance(action, CreateAttempt):
            raw = runs.job(action.number)
            raw["metadata"]["annotations"] |= action.annotations
            raw["metadata"]["creationTimestamp"] = format_time(NOW)
            changed[raw["metadata"]["name"]] = raw
    replicas = next((a.replicas for a in actions if hasattr(a, "replicas")), world.rendezvous_replicas)
    return World.build(world.namespace, world.run, changed.values(), world.pods, replicas)


def a_new_attempt_needs_a_failed_one_that_nobody_stopped_within_budget(world: World) -> None:
    for action in decide(world, NOW):
        if not isinstance(action, CreateAttempt):
            continue
        newest = world.newest
        assert newest.failed
        assert not newest.succeeded
        assert newest.state != names.STATE_FAILED, "the run was given up"
        assert names.ANNOTATION_STOPPED_BY not in newest.annotations
        assert names.ANNOTATION_SUPERSEDED_BY not in newest.annotations
        assert action.number == newest.attempt + 1
        history = json.loads(action.annotations[names.ANNOTATION_HISTORY])
        cause = history[-1]
        assert history.count(cause) <= newest.retry.budget.get(cause, 0)
        assert cause not in (names.CAUSE_USER_ERROR, names.CAUSE_DATA) or newest.retry.budget[cause] > 0


def never_two_live_attempts(world: World) -> None:
    actions = decide(world, NOW)
    created = [action for action in actions if isinstance(action, CreateAttempt)]
    assert len(created) <= 1
    if created:
        stopped = {a.job.name for a in actions if isinstance(a, PatchJob) and a.run_policy}
        assert all(job.over or job.deadline_forced or job.name in stopped for job in world.jobs)


@given(worlds())
def test_deciding_is_pure_and_settles(world: World) -> None:
    assert decide(world, NOW) == decide(world, NOW)
    once = after(world, decide(world, NOW))
    twice = after(once, decide(once, NOW))
    settled = decide(twice, NOW)
    writes = [a for a in settled if isinstance(a, PatchJob) and a.annotations]
    assert not writes, "the third look still writes annotations"


def each_job_is_written_at_most_once(world: World) -> None:
    """Two writes in one go would conflict: each names the version it has seen."""
    patched = [action.job.name for action in decide(world, NOW) if isinstance(action, PatchJob)]
    assert len(patched) == len(set(patched))


def only_finished_runs_are_deleted_and_only_lost_pods_forced(world: World) -> None:
    for action in decide(world, NOW):
        if isinstance(action, DeleteRun):
            assert world.newest.state in names.TERMINAL_STATES
            assert world.newest.retry.ttl_seconds is not None
        if isinstance(action, ForceDeletePod):
            assert action.pod.node_lost
            assert action.pod.deletion_due is not None
            assert action.pod.deletion_due < NOW
        if isinstance(action, Requeue):
            assert action.after >= 0


@given(worlds())
def test_invariants(world: World) -> None:
    a_new_attempt_needs_a_failed_one_that_nobody_stopped_within_budget(world)
    never_two_live_attempts(world)
    each_job_is_written_at_most_once(world)
    only_finished_runs_are_deleted_and_only_lost_pods_forced(world)
