"""What `clipctl status` prints: what the backend knows and what the run's storage tells, as text or JSON."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from clipctl.backends.base import Progress, RunStatus
from clipctl.contract.names import STATE_RUNNING, STATE_STOPPED, TERMINAL_STATES
from clipctl.output import age, duration, size, table
from clipctl.runstorage import StorageView

_STALE_SECONDS = 120.0


def as_json(status: RunStatus, view: StorageView) -> dict[str, Any]:
    """The whole status as JSON values."""
    known = asdict(status)
    known.pop("storage_env")
    storage = {
        "reachable": not view.problem,
        "problem": view.problem or None,
        "checkpoints": view.checkpoints,
        "newest_checkpoint": None if view.newest is None else asdict(view.newest),
    }
    return {**known, "progress": asdict(view.progress), "storage": storage, "results": view.results}


def as_text(status: RunStatus, view: StorageView, now: float | None = None) -> str:
    """The status for people: one line per fact, then the table of workers."""
    now = time.time() if now is None else now
    rows = [("Run", f"{status.name} ({status.backend}, {status.location})"), ("State", _state(status))]
    if status.message:
        rows.append(("Message", status.message))
    rows.append(("Attempt", _attempt(status)))
    rows += _progress(status, view.progress, now)
    rows += _checkpoints(status, view, now)
    rows.append(("Storage", status.run_root or "-"))
    rows += results_rows(view.results)
    text = "\n".join(f"{name + ':':<14}{value}" for name, value in rows)
    if status.pods:
        pods = [
            (p.name, p.phase, p.reason or "-", str(p.restarts), p.node or "-", duration(p.age_seconds))
            for p in status.pods
        ]
        text += "\n\n" + table(("WORKER", "PHASE", "REASON", "RESTARTS", "NODE", "AGE"), pods)
    return text


def progress_line(progress: Progress) -> str:
    """Progress in one line: `step 120/500 (24%)  loss 1.234  812 samples/s  ETA 1m3s`."""
    parts = [f"step {_step(progress)}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.samples_per_second is not None:
        parts.append(f"{progress.samples_per_second:.4g} samples/s")
    if progress.eta_seconds is not None:
        parts.append(f"ETA {duration(progress.eta_seconds)}")
    if progress.world_size is not None:
        parts.append(f"{progress.world_size} ranks")
    return "  ".join(parts)


def results_rows(results: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The results of a finished run, as name and value."""
    if not results:
        return []
    rows = []
    for key, label in (("zero_shot", "Zero-shot"), ("retrieval", "Retrieval")):
        metrics = results.get(key)
        if isinstance(metrics, dict) and metrics:
            rows.append((label, "  ".join(f"{name} {_number(value)}" for name, value in sorted(metrics.items()))))
    for key, label in (("final_loss", "Final loss"), ("export", "Exported"), ("loss_curve", "Loss curve")):
        if results.get(key) is not None:
            rows.append((label, _number(results[key])))
    return rows


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _state(status: RunStatus) -> str:
    code = f"exit code {status.exit_code}" if status.exit_code else ""
    details = ", ".join(part for part in (status.reason, code) if part)
    return f"{status.state} ({details})" if details else status.state


def _attempt(status: RunStatus) -> str:
    causes = f" (earlier ones ended by: {', '.join(status.attempt_causes)})" if status.attempt_causes else ""
    return f"{status.attempt}{causes}"


def _step(progress: Progress) -> str:
    if progress.step is None:
        return "-"
    if not progress.total_steps:
        return str(progress.step)
    return f"{progress.step}/{progress.total_steps} ({100 * progress.step / progress.total_steps:.0f}%)"


def _progress(status: RunStatus, progress: Progress, now: float) -> list[tuple[str, str]]:
    rows = [("Step", _step(progress))]
    if progress.loss is not None:
        rows.append(("Loss", f"{progress.loss:.4g}"))
    running = status.state not in (*TERMINAL_STATES, STATE_STOPPED)
    if progress.samples_per_second is not None and running:
        rows.append(("Rate", f"{progress.samples_per_second:.4g} samples/s"))
    if progress.eta_seconds is not None and running:
        rows.append(("ETA", duration(progress.eta_seconds)))
    if progress.world_size is not None:
        rows.append(("World size", str(progress.world_size)))
    if progress.goodput is not None:
        rows.append(("Goodput", f"{100 * progress.goodput:.1f}%"))
    if progress.recoveries:
        changes = ", ".join(f"{count} {rung}" for rung, count in progress.recoveries.items())
        lost = sum((progress.lost_seconds or {}).values())
        rows.append(("Recoveries", f"{changes} ({duration(lost)} lost)" if lost >= 1 else changes))
    if progress.updated_at is not None and status.state == STATE_RUNNING and now - progress.updated_at > _STALE_SECONDS:
        rows.append(("Reported", f"{age(progress.updated_at, now)} ago"))
    return rows


def _checkpoints(status: RunStatus, view: StorageView, now: float) -> list[tuple[str, str]]:
    if view.problem:
        return [("Checkpoint", f"unknown: {view.problem}")]
    rows = []
    if view.newest is None:
        rows.append(("Checkpoint", "none yet"))
    else:
        newest = view.newest
        facts = f"{age(newest.created_at, now)} ago, {newest.samples_consumed} samples, {size(newest.bytes_total)}"
        rows.append(("Checkpoint", f"{newest.id} ({facts}; {view.checkpoints} committed)"))
    if status.resume_from:
        rows.append(("Resumed from", f"{status.resume_from} (verified)"))
    rows += [("Rejected", rejected) for rejected in status.rejected]
    return rows
