"""A worker without torch that behaves like the trainer as far as the agent can tell; it starts in 50 ms.

Ranks meet at MASTER_ADDR:MASTER_PORT and take lock-step "steps". Everything is under $PROBE_DIR:

- `checkpoint`: the newest safe step, written by rank 0 every 5 steps and on a stop;
- `ledger.jsonl`: one line per event: time, event, step, rank, world, pid, attempt;
- `fail-RANK`: its content is an exit status (or `hang`) that this rank takes at its next step, once;
- `always-fail`: exit status that every rank takes at once whenever it starts.

Environment: PROBE_STEPS (default 50), PROBE_STEP_SECONDS (default 0.02).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from clip_trainer.elastic.progress import report_progress

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
DIRECTORY = Path(os.environ["PROBE_DIR"])
STEPS = int(os.environ.get("PROBE_STEPS", "50"))
STEP_SECONDS = float(os.environ.get("PROBE_STEP_SECONDS", "0.02"))
PEER_SECONDS = 20.0
LOST_PEER = 75


def note(event: str, step: int) -> None:
    """Append one event to the ledger; lines this short are written atomically."""
    line = {"t": time.time(), "event": event, "step": step, "rank": RANK, "world": WORLD, "pid": os.getpid()}
    line["attempt"] = int(os.environ.get("CLIPCTL_ATTEMPT", "1"))
    with (DIRECTORY / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")


class Ring:
    """One bit per step, or-ed over all ranks through rank 0. Raises OSError when a peer is gone."""

    def __init__(self) -> None:
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if RANK == 0:
            with socket.create_server(address) as server:
                server.settimeout(PEER_SECONDS)
                self._peers = [server.accept()[0] for _ in range(WORLD - 1)]
        else:
            self._peers = [self._connect(address)]
        for peer in self._peers:
            peer.settimeout(PEER_SECONDS)

    @staticmethod
    def _connect(address: tuple[str, int]) -> socket.socket:
        deadline = time.monotonic() + PEER_SECONDS
        while True:
            try:
                return socket.create_connection(address, timeout=1)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def any(self, mine: bool) -> bool:
        """Whether any rank says True."""
        if RANK != 0:
            self._peers[0].sendall(bytes([mine]))
            return self._receive(self._peers[0])
        total = any([mine, *[self._receive(peer) for peer in self._peers]])
        for peer in self._peers:
            peer.sendall(bytes([total]))
        return total

    @staticmethod
    def _receive(peer: socket.socket) -> bool:
        data = peer.recv(1)
        if not data:
            raise ConnectionResetError("peer is gone")
        return bool(data[0])


def take_fault(step: int) -> None:
    """Do what a `fail-RANK` file says, once."""
    file = DIRECTORY / f"fail-{RANK}"
    what = file.read_text().strip() if file.exists() else ""
    if not what:  # absent, or its writer has not finished yet
        return
    file.unlink()
    note(f"fault {what}", step)
    if what == "hang":
        signal.pause()
    os._exit(int(what))


def save(step: int) -> None:
    """Make `step` safe (rank 0 only)."""
    if RANK == 0:
        staged = DIRECTORY / "checkpoint.new"
        staged.write_text(str(step))
        staged.replace(DIRECTORY / "checkpoint")
        report_progress(step)


def main() -> int:
    """Train; returns the exit status."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    if (DIRECTORY / "always-fail").exists():
        note("fault always", 0)
        return int((DIRECTORY / "always-fail").read_text())
    checkpoint = DIRECTORY / "checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    report_progress(step)
    note("start", step)
    print(f"rank {RANK} of {WORLD} starts at step {step}")
    try:
        ring = Ring()
        while step < STEPS:
            time.sleep(STEP_SECONDS)
            take_fault(step)
            stop = ring.any(bool(stopping))
            step += 1
            note("step", step)
            if stop or step % 5 == 0 or step == STEPS:
                save(step)
            if stop:
                note("stopped", step)
                return LOST_PEER
        ring.any(False)
    except OSError as error:
        print(f"lost a peer: {error}", file=sys.stderr)
        return LOST_PEER
    note("done", step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
