"""`python -m clip_operator.main`: run the operator until SIGTERM, or until another replica takes over."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence

from clip_operator import jsonlog, webserver
from clip_operator.api import Api, ApiError
from clip_operator.controller import Controller, Scope
from clip_operator.lease import LeaderElector
from clip_operator.metrics import OperatorMetrics
from clip_operator.settings import Settings, parse
from clipctl.contract.errors import ExitCode

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    settings = parse(sys.argv[1:] if arguments is None else arguments)
    jsonlog.set_up(settings.log_level)
    from clip_operator.kube import KubeApi  # slow to import; `--help` need not wait for it

    try:
        api = KubeApi.from_environment()
    except ApiError as error:
        logger.error("%s", error)
        return ExitCode.CLUSTER_CONFIG
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return run(api, settings, stopping)


def run(api: Api, settings: Settings, stopping: threading.Event) -> int:
    """Serve until `stopping` is set; returns 0, or 75 if the Lease was lost (start anew as a candidate)."""
    metrics = OperatorMetrics()
    identity = f"{os.environ.get('HOSTNAME', 'clip-operator')}_{uuid.uuid4().hex[:8]}"
    elector = LeaderElector(
        api,
        settings.lease_namespace,
        settings.lease_name,
        identity,
        monotonic=time.monotonic,
        wall=time.time,
    )
    metrics.leader.set_function(lambda: float(elector.is_leader()))
    controller = Controller(api, Scope(settings.namespaces, settings.read_nodes), metrics, elector.is_leader)
    try:
        server = webserver.serve(settings.metrics_port, metrics.registry, lambda: controller.problem)
    except OSError as error:
        logger.error("cannot listen on port %d: %s", settings.metrics_port, error)
        return ExitCode.CANNOT_CREATE
    threads = controller.start(settings.workers)
    logger.info("started", extra={"identity": identity, "namespaces": settings.namespaces or "all"})
    lost = _lead(elector, stopping)
    logger.info("stopping", extra={"lost_lease": lost})
    controller.stop()
    for thread in threads[-settings.workers :]:
        thread.join(timeout=10)
    elector.release()
    server.shutdown()
    server.server_close()
    return ExitCode.TRY_AGAIN if lost else ExitCode.OK


def _lead(elector: LeaderElector, stopping: threading.Event) -> bool:
    """Hold the Lease until told to stop; True if it was held and lost."""
    led = False
    while not stopping.is_set():
        leads = elector.step()
        if leads and not led:
            logger.info("leading")
        if led and not leads:
            return True
        led = leads
        stopping.wait(elector.timing.retry)
    return False


if __name__ == "__main__":
    sys.exit(main())
