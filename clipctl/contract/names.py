"""Every label, annotation, reason, environment variable and object name that leaves a process.

Tests, dashboards and docs refer to these constants; changing one is a breaking change and fails the frozen-surface
test.
"""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "clipctl.dev"

# Labels (on every object of a run).
LABEL_RUN: Final = f"{DOMAIN}/run"
LABEL_ATTEMPT: Final = f"{DOMAIN}/attempt"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"

# Annotations on the PyTorchJob: the operator's whole memory.
ANNOTATION_SPEC_DIGEST: Final = f"{DOMAIN}/spec-digest"
ANNOTATION_STATE: Final = f"{DOMAIN}/state"
ANNOTATION_REASON: Final = f"{DOMAIN}/reason"
ANNOTATION_MESSAGE: Final = f"{DOMAIN}/message"
ANNOTATION_HISTORY: Final = f"{DOMAIN}/attempt-causes"
ANNOTATION_RESUME_FROM: Final = f"{DOMAIN}/resume-from"
ANNOTATION_REJECTED: Final = f"{DOMAIN}/rejected-checkpoints"
ANNOTATION_STARTED_AT: Final = f"{DOMAIN}/started-at"
ANNOTATION_FINISHED_AT: Final = f"{DOMAIN}/finished-at"
ANNOTATION_RETRY: Final = f"{DOMAIN}/retry"
ANNOTATION_CHECKPOINT_ROOT: Final = f"{DOMAIN}/checkpoint-root"
ANNOTATION_STOPPED_BY: Final = f"{DOMAIN}/stopped-by"
ANNOTATION_LAST_FAILURE: Final = f"{DOMAIN}/last-failure"
ANNOTATION_SUPERSEDED_BY: Final = f"{DOMAIN}/superseded-by"

# States of a run, as `clipctl status` prints them and the operator writes them.
STATE_PENDING: Final = "Pending"
STATE_RUNNING: Final = "Running"
STATE_RESTARTING: Final = "Restarting"
STATE_STOPPED: Final = "Stopped"
STATE_SUCCEEDED: Final = "Succeeded"
STATE_FAILED: Final = "Failed"
STATES: Final = (
    STATE_PENDING,
    STATE_RUNNING,
    STATE_RESTARTING,
    STATE_STOPPED,
    STATE_SUCCEEDED,
    STATE_FAILED,
)
TERMINAL_STATES: Final = frozenset({STATE_SUCCEEDED, STATE_FAILED})

# Why an attempt ended; also the keys of `retry.attempts` in run.yaml.
CAUSE_USER_ERROR: Final = "user_error"
CAUSE_DATA: Final = "data"
CAUSE_OUT_OF_MEMORY: Final = "out_of_memory"
CAUSE_PREEMPTION: Final = "preemption"
CAUSE_NODE_LOST: Final = "node_lost"
CAUSE_HANG: Final = "hang"
CAUSE_INFRASTRUCTURE: Final = "infrastructure"
CAUSES: Final = (
    CAUSE_USER_ERROR,
    CAUSE_DATA,
    CAUSE_OUT_OF_MEMORY,
    CAUSE_PREEMPTION,
    CAUSE_NODE_LOST,
    CAUSE_HANG,
    CAUSE_INFRASTRUCTURE,
)

# Reasons of Kubernetes Events and of ANNOTATION_REASON.
REASON_RESUMED: Final = "ResumedFromCheckpoint"
REASON_CHECKPOINT_REJECTED: Final = "CheckpointRejected"
REASON_BUDGET_EXHAUSTED: Final = "RetryBudgetExhausted"
REASON_DEADLINE: Final = "DeadlineExceeded"
REASON_USER_ERROR: Final = "PermanentError"
REASON_EXPIRED: Final = "Expired"
REASON_COMPLETED: Final = "Completed"
REASON_CHECKPOINTS_CORRUPT: Final = "AllCheckpointsCorrupt"

# Environment of trainer and operator.
ENV_ATTEMPT: Final = "CLIPCTL_ATTEMPT"
ENV_CACHE: Final = "CLIPCTL_CACHE"
ENV_HOME: Final = "CLIPCTL_HOME"
RESERVED_ENV_PREFIXES: Final = ("CLIPCTL_", "PET_", "TORCHELASTIC_", "LD_", "PYTHON")
RESERVED_ENV: Final = frozenset(
    {
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "WDS_SECURE",
        "HOME",
        "PATH",
    }
)

# Components of a run on Kubernetes.
COMPONENT_WORKER: Final = "worker"
COMPONENT_RENDEZVOUS: Final = "rendezvous"
COMPONENT_CONFIG: Final = "config"
COMPONENT_OPERATOR: Final = "operator"

CONTAINER: Final = "pytorch"  # training-operator insists on this container name
CONFIG_DIR: Final = "/etc/clipctl"
CONFIG_FILE: Final = "run.json"
RENDEZVOUS_PORT: Final = 29400
METRICS_PORT: Final = 9401
OPERATOR_METRICS_PORT: Final = 9402

MAX_RUN_NAME: Final = 44  # `<run>-<attempt>-worker-<i>` must stay a DNS label of at most 63 characters


def job_name(run: str, attempt: int) -> str:
    """Name of the PyTorchJob of one attempt. The suffix is always there, so names never collide between runs."""
    return f"{run}-{attempt}"


def worker_pod_name(run: str, attempt: int, index: int) -> str:
    """Name training-operator gives to the pod of worker `index`."""
    return f"{job_name(run, attempt)}-worker-{index}"


def rendezvous_name(run: str) -> str:
    """Name of the rendezvous Deployment and of its Service."""
    return f"{run}-rendezvous"


def config_name(run: str) -> str:
    """Name of the ConfigMap that carries the resolved spec."""
    return f"{run}-spec"


def rendezvous_id(run: str, spec_digest: str, attempt: int) -> str:
    """`rdzvId` of one attempt.

    A closed rendezvous stays closed in a store that outlives it, so every attempt needs its own id.
    """
    return f"{run}-{spec_digest[:8]}-{attempt}"
