"""Where the objects of a run live below `<checkpoint.path>/<run name>`: the key grammar, and nothing else.

All functions are pure; keys are relative to the run root and use `/`. Numbers are zero-padded so that a plain
lexicographic listing is in numeric order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INCARNATIONS = "incarnations/"
CHECKPOINTS = "checkpoints/"
COMMITS = "commits/"
EVENTS = "events/"
EXPORT = "export/"
CLAIMS = "claims/"
PROBES = "probes/"
LATEST = "LATEST"
RESULTS = "results.json"
STATUS = "status.json"
LOSS_CURVE = "loss.png"
TENSORBOARD = "tensorboard/"
WANDB = "wandb/"

_COMMIT = re.compile(r"commits/step-([0-9]{8,})\.inc-([0-9]{6,})\.json")
_OBJECT = re.compile(r"checkpoints/step-([0-9]{8,})/inc-([0-9]{6,})/")
_WRITTEN = re.compile(
    r"(?:checkpoints/step-[0-9]{8,}/inc-|claims/commits/step-[0-9]{8,}\.inc-|claims/incarnations/)([0-9]{6,})[/.]"
)
_INCARNATION = re.compile(r"incarnations/([0-9]{6,})\.json")


@dataclass(frozen=True, order=True)
class CheckpointId:
    """A checkpoint: optimiser step first, so that ids sort from old to new; then the incarnation that wrote it."""

    step: int
    incarnation: int

    def __str__(self) -> str:
        return f"step-{self.step:08d}.inc-{self.incarnation:06d}"


def run_root(checkpoint_path: str, run: str) -> str:
    """URL or path of everything a run stores."""
    return f"{checkpoint_path.rstrip('/')}/{run}"


def incarnation_key(incarnation: int) -> str:
    """The object whose creation allocates an incarnation number."""
    return f"{INCARNATIONS}{incarnation:06d}.json"


def parse_incarnation_key(key: str) -> int | None:
    """The number in an incarnation key; None for any other key."""
    match = _INCARNATION.fullmatch(key)
    return int(match.group(1)) if match else None


def checkpoint_prefix(checkpoint: CheckpointId) -> str:
    """Prefix of the immutable objects of one checkpoint."""
    return f"{CHECKPOINTS}step-{checkpoint.step:08d}/inc-{checkpoint.incarnation:06d}/"


def manifest_key(checkpoint: CheckpointId) -> str:
    """The manifest of a checkpoint."""
    return f"{checkpoint_prefix(checkpoint)}manifest.json"


def share_key(checkpoint: CheckpointId, rank: int, world: int) -> str:
    """What a rank writes when all its objects of a checkpoint are stored."""
    return f"{checkpoint_prefix(checkpoint)}share-{rank:05d}-of-{world:05d}.json"


def parse_checkpoint_key(key: str) -> CheckpointId | None:
    """The checkpoint whose object `key` is, committed or not; None for any other key."""
    match = _OBJECT.match(key)
    return CheckpointId(int(match.group(1)), int(match.group(2))) if match else None


def incarnation_of(key: str) -> int | None:
    """The incarnation that wrote an object of a checkpoint or a claim; None for any other key."""
    match = _WRITTEN.match(key)
    return int(match.group(1)) if match else None


def commit_key(checkpoint: CheckpointId) -> str:
    """The commit record: a checkpoint exists if and only if this object does."""
    return f"{COMMITS}{checkpoint}.json"


def parse_commit_key(key: str) -> CheckpointId | None:
    """The checkpoint a commit key names; None for any other key."""
    match = _COMMIT.fullmatch(key)
    return CheckpointId(int(match.group(1)), int(match.group(2))) if match else None


def parse_checkpoint_id(text: str) -> CheckpointId | None:
    """Read `step-N.inc-M` as `clipctl checkpoints ls` prints it; None if it is something else."""
    return parse_commit_key(f"{COMMITS}{text}.json")


def events_prefix(incarnation: int) -> str:
    """Prefix of the event log of an incarnation."""
    return f"{EVENTS}inc-{incarnation:06d}/"


def events_key(incarnation: int, sequence: int) -> str:
    """One immutable segment of the event log of an incarnation."""
    return f"{events_prefix(incarnation)}{sequence:06d}.jsonl"
