"""The environment a worker process sees: torchrun's names, so any `env://` program works."""

from __future__ import annotations

from collections.abc import Mapping

from clip_trainer.elastic.orphan import ENV_PARENT
from clip_trainer.elastic.progress import ENV_PROGRESS_FILE
from clip_trainer.elastic.rendezvous import Round
from clip_trainer.elastic.settings import LaunchSettings


def worker_environments(
    base: Mapping[str, str],
    settings: LaunchSettings,
    place: Round,
    *,
    agent_pid: int,
    progress_file: str,
    cpus: int,
) -> dict[int, dict[str, str]]:
    """Environment of each of this node's workers, by global rank.

    Every node runs the same number of workers, so ranks follow from the node's rank alone. RANK and WORLD_SIZE of the
    pod (training-operator sets them with another meaning) are overwritten.
    """
    local_world = settings.workers_per_node
    shared = {
        "WORLD_SIZE": str(place.nodes * local_world),
        "LOCAL_WORLD_SIZE": str(local_world),
        "GROUP_RANK": str(place.node_rank),
        "GROUP_WORLD_SIZE": str(place.nodes),
        "MASTER_ADDR": place.master_address,
        "MASTER_PORT": str(place.master_port),
        "TORCHELASTIC_RUN_ID": settings.rendezvous_id,
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": base.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "OMP_NUM_THREADS": base.get("OMP_NUM_THREADS", str(max(1, cpus // local_world))),
        "PYTHONUNBUFFERED": "1",
        ENV_PARENT: str(agent_pid),
        ENV_PROGRESS_FILE: progress_file,
    }
    environments = {}
    for local_rank in range(local_world):
        rank = place.node_rank * local_world + local_rank
        environments[rank] = {**base, **shared, "RANK": str(rank), "LOCAL_RANK": str(local_rank)}
    return environments
