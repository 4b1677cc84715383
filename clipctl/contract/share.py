"""The share record: one rank's word that its objects of a checkpoint are stored, written after all of them.

Rank 0 gathers the share records from storage instead of by a collective, so that saving needs no peer in the
background. A share record is not part of the checkpoint: readers look at the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipctl.contract import layout
from clipctl.contract.digest import canonical_json, self_digest
from clipctl.contract.errors import CorruptError
from clipctl.contract.jsonrecord import parse_record
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import StoredObject

SHARE_VERSION = 2


@dataclass(frozen=True)
class Share:
    """What one rank stored of a checkpoint."""

    checkpoint: CheckpointId
    rank: int
    world: int
    objects: tuple[StoredObject, ...]

    @property
    def key(self) -> str:
        """Where it is stored."""
        return layout.share_key(self.checkpoint, self.rank, self.world)

    def to_bytes(self) -> bytes:
        """The record as stored, with a digest over itself."""
        raw = {
            "checkpoint": str(self.checkpoint),
            "rank": self.rank,
            "world": self.world,
            "objects": [stored.to_json() for stored in self.objects],
            "version": SHARE_VERSION,
        }
        return canonical_json({**raw, "digest": self_digest(raw)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Share:
        """Parse and check a stored record. Raises `CorruptError`."""
        raw = parse_record(data, "the share record", (SHARE_VERSION,))
        try:
            if raw.pop("digest", None) != self_digest(raw):
                raise CorruptError("the share record does not match its own digest.")
            checkpoint = layout.parse_checkpoint_id(raw["checkpoint"])
            if checkpoint is None:
                raise ValueError("it names no checkpoint")
            objects = tuple(StoredObject.from_json(item) for item in raw["objects"])
            return cls(checkpoint, int(raw["rank"]), int(raw["world"]), objects)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"the share record is not well-formed: {error}.") from error
