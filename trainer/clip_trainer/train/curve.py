"""The loss curve as a PNG, drawn from the ledger; restarts are marked, because they should not show."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from typing import Any


def loss_curve_png(steps: list[dict[str, Any]], title: str) -> bytes:
    """Draw loss over step.

    Args:
        steps: step events in order, as `events.trajectory` gives them.
        title: name of the run.

    Returns:
        The PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    numbers = [event["step"] for event in steps]
    losses = [math.nan if event["loss"] is None else event["loss"] for event in steps]  # a gap where it was not finite
    axes.plot(numbers, losses, linewidth=1.2, color="#2563eb", label="loss")
    restarts = [b["step"] for a, b in pairwise(steps) if a["incarnation"] != b["incarnation"]]
    for index, step in enumerate(restarts):
        axes.axvline(step, color="#dc2626", linestyle=":", linewidth=1, label=None if index else "restart")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("contrastive loss")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    if numbers:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
