"""The environment a worker process sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clip_trainer.elastic.beacon import ENV_BEACON
from clip_trainer.elastic.member_settings import (
    ENV_LAST_CALL,
    ENV_MAX_MEMBERS,
    ENV_MEMBER,
    ENV_MIN_MEMBERS,
    ENV_NODE,
    ENV_RUN,
    ENV_SLOT,
)
from clip_trainer.elastic.membership import ENV_COORDINATOR
from clip_trainer.elastic.node_memory import ENV_MEMORY
from clip_trainer.elastic.orphan import ENV_PARENT
from clip_trainer.elastic.progress import ENV_PROGRESS_FILE
from clip_trainer.elastic.settings import LaunchSettings

_OF_A_FIXED_GROUP = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "GROUP_WORLD_SIZE")
"""training-operator sets some of them for the pod; a worker learns its rank from the coordinator, for each generation
anew."""


@dataclass(frozen=True)
class AgentPlace:
    """What all workers of one agent share."""

    coordinator: str
    """host:port."""
    pid: int
    """The agent's process id."""
    token: str
    """Tells this agent's workers from those of an earlier agent on the same node."""
    scratch: Path
    """Directory of the beacons, of the progress file and of snapshots in memory."""
    cpus: int

    @property
    def progress_file(self) -> Path:
        """Where workers report the newest safely stored step."""
        return self.scratch / "progress"


def worker_environment(
    base: Mapping[str, str], settings: LaunchSettings, place: AgentPlace, slot: int, start: int
) -> dict[str, str]:
    """Environment of the worker in `slot`, started for the `start`-th time (from 1)."""
    workers = settings.workers_per_node
    own = {
        ENV_COORDINATOR: place.coordinator,
        ENV_RUN: settings.rendezvous_id,
        ENV_MEMBER: f"{settings.node}/{slot}#{place.token}-{start}",
        ENV_NODE: settings.node,
        ENV_SLOT: str(slot),
        # The least that fills so many nodes: a node that loses one of its workers goes on with the others meanwhile.
        ENV_MIN_MEMBERS: str((settings.min_nodes - 1) * workers + 1),
        ENV_MAX_MEMBERS: str(settings.max_nodes * workers),
        ENV_LAST_CALL: str(settings.last_call),
        ENV_BEACON: str(place.scratch / f"beacon-{slot}-{start}"),
        ENV_PROGRESS_FILE: str(place.progress_file),
        ENV_MEMORY: str(place.scratch / f"memory-{slot}"),
        ENV_PARENT: str(place.pid),
        "LOCAL_RANK": str(slot),
        "LOCAL_WORLD_SIZE": str(workers),
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": base.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "OMP_NUM_THREADS": base.get("OMP_NUM_THREADS", str(max(1, place.cpus // workers))),
        "PYTHONUNBUFFERED": "1",
        # torch's TCPStore looks up the name of every address it connects to, and waits as long as the resolver does.
        "RES_OPTIONS": base.get("RES_OPTIONS", "timeout:1 attempts:2"),
        # A lost peer is daily business here and reported in one line; torch's C++ part prints a page about each.
        "TORCH_CPP_LOG_LEVEL": base.get("TORCH_CPP_LOG_LEVEL", "FATAL"),
    }
    return {**{name: value for name, value in base.items() if name not in _OF_A_FIXED_GROUP}, **own}
