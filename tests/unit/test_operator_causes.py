"""Exit codes and pod reasons to causes: the table, and which failure of several explains the others."""

import json

import pytest

from clip_operator.causes import Failure, pod_failures, worst
from clip_testkit import runs
from clipctl.contract import names
from clipctl.contract.errors import ExitCode


@pytest.mark.parametrize(
    ("code", "reason", "cause"),
    [
        (64, "Error", names.CAUSE_USER_ERROR),
        (66, "Error", names.CAUSE_USER_ERROR),
        (76, "Error", names.CAUSE_USER_ERROR),
        (77, "Error", names.CAUSE_USER_ERROR),
        (78, "Error", names.CAUSE_USER_ERROR),
        (65, "Error", names.CAUSE_DATA),
        (75, "Error", names.CAUSE_PREEMPTION),
        (143, "Error", names.CAUSE_PREEMPTION),
        (79, "Error", names.CAUSE_HANG),
        (137, "OOMKilled", names.CAUSE_OUT_OF_MEMORY),
        (1, "OOMKilled", names.CAUSE_OUT_OF_MEMORY),
        (137, "Error", names.CAUSE_INFRASTRUCTURE),
        (139, "Error", names.CAUSE_INFRASTRUCTURE),
        (69, "Error", names.CAUSE_INFRASTRUCTURE),
        (70, "Error", names.CAUSE_INFRASTRUCTURE),
        (73, "Error", names.CAUSE_INFRASTRUCTURE),
        (1, "Error", names.CAUSE_INFRASTRUCTURE),
    ],
)
@pytest.mark.parametrize("field", ["state", "lastState"])
def test_exit_codes(code: int, reason: str, cause: str, field: str) -> None:
    (failure,) = pod_failures(runs.pod(**{field: runs.terminated(code, reason)}))
    assert (failure.cause, failure.code) == (cause, code)
    assert failure.message.startswith("demo-1-worker-0: exit code ")


def test_every_exit_code_of_the_contract_has_a_cause() -> None:
    for code in ExitCode:
        if code != ExitCode.OK:
            assert pod_failures(runs.pod(state=runs.terminated(int(code))))[0].cause in names.CAUSES


@pytest.mark.parametrize(
    ("reason", "message", "cause"),
    [
        ("Evicted", "The node was low on resource: memory.", names.CAUSE_OUT_OF_MEMORY),
        ("Evicted", "The node was low on resource: ephemeral-storage.", names.CAUSE_INFRASTRUCTURE),
        ("NodeShutdown", "", names.CAUSE_PREEMPTION),
        ("Terminated", "Pod was terminated in response to imminent node shutdown.", names.CAUSE_PREEMPTION),
        ("Preempting", "", names.CAUSE_PREEMPTION),
        ("NodeLost", "", names.CAUSE_NODE_LOST),
    ],
)
def test_pod_reasons(reason: str, message: str, cause: str) -> None:
    raw = runs.pod(phase="Failed")
    raw["status"] |= {"reason": reason, "message": message, "containerStatuses": []}
    (failure,) = pod_failures(raw)
    assert (failure.cause, failure.code) == (cause, None)


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("PreemptionByScheduler", names.CAUSE_PREEMPTION),
        ("EvictionByEvictionAPI", names.CAUSE_PREEMPTION),
        ("DeletionByTaintManager", names.CAUSE_NODE_LOST),
        ("DeletionByPodGC", names.CAUSE_NODE_LOST),
    ],
)
def test_disruption_conditions(reason: str, cause: str) -> None:
    raw = runs.pod()
    raw["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": reason}]
    assert [failure.cause for failure in pod_failures(raw)] == [cause]


def test_success_restarts_and_foreign_containers_are_no_failures() -> None:
    assert pod_failures(runs.pod(state=runs.terminated(0))) == ()
    assert pod_failures(runs.pod(restartCount=3)) == ()
    sidecar = runs.pod()
    sidecar["status"]["containerStatuses"] = [{"name": "istio-proxy", "state": runs.terminated(1)}]
    assert pod_failures(sidecar) == ()
    assert pod_failures({"metadata": {"name": "x"}}) == ()


def test_a_lost_peer_does_not_hide_what_happened_to_the_peer() -> None:
    lost_peer = Failure(names.CAUSE_PREEMPTION, 75, "w1", "")
    segfault = Failure(names.CAUSE_INFRASTRUCTURE, 139, "w0", "")
    wrong_spec = Failure(names.CAUSE_USER_ERROR, 64, "w2", "")
    assert worst([lost_peer, segfault]) is segfault
    assert worst([lost_peer, segfault, wrong_spec]) is wrong_spec
    assert worst([lost_peer]) is lost_peer
    assert worst([]) is None


def test_messages_carry_the_last_words_without_credentials_and_bounded() -> None:
    words = "x" * 5000 + "\nOSError: password=hunter22 refused\n"
    (failure,) = pod_failures(runs.pod(state=runs.terminated(1, message=words)))
    assert "hunter22" not in failure.message
    assert failure.message.endswith("refused")
    assert len(failure.message) < 700


def test_the_annotation_survives_a_round_trip_and_refuses_nonsense() -> None:
    failure = Failure(names.CAUSE_HANG, 79, "w0", "stuck")
    assert Failure.from_json(failure.to_json()) == failure
    for nonsense in (None, [], "x", {}, {"cause": "bad luck"}, {"cause": "hang", "code": "79"}):
        assert Failure.from_json(nonsense) is None


def told(cause: str, message: str = "rank 1 died by SIGKILL") -> str:
    return json.dumps({"code": 75, "cause": cause, "rank": 1, "message": message, "exhausted": False})


@pytest.mark.parametrize("cause", names.CAUSES)
def test_the_launcher_knows_better_than_the_exit_code(cause: str) -> None:
    (failure,) = pod_failures(runs.pod(state=runs.terminated(75, "Error", told(cause))))
    assert failure.cause == cause
    assert failure.message == "demo-1-worker-0: exit code 75: rank 1 died by SIGKILL"


@pytest.mark.parametrize("message", ["", "plain last words", "{", "[]", "17", '{"cause": "bad luck"}', '{"cause": []}'])
def test_other_termination_messages_leave_the_exit_code_to_decide(message: str) -> None:
    (failure,) = pod_failures(runs.pod(state=runs.terminated(75, "Error", message)))
    assert failure.cause == names.CAUSE_PREEMPTION
    assert message in failure.message


def test_the_kernel_knows_better_than_the_launcher() -> None:
    (failure,) = pod_failures(runs.pod(state=runs.terminated(137, "OOMKilled", told(names.CAUSE_INFRASTRUCTURE))))
    assert failure.cause == names.CAUSE_OUT_OF_MEMORY
