"""The commit record: the one object whose existence makes a checkpoint real."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from clipctl.contract.digest import canonical_json, self_digest
from clipctl.contract.errors import CorruptError
from clipctl.contract.jsonrecord import parse_record
from clipctl.contract.layout import CheckpointId

RECORD_VERSION = 1


@dataclass(frozen=True)
class CommitRecord:
    """The object whose existence makes a checkpoint real."""

    run: str
    step: int
    incarnation: int
    attempt: int
    samples_consumed: int
    world_size: int
    manifest_sha256: str
    bytes_total: int
    spec_digest: str
    training_digest: str
    parent: str | None
    created_at: float
    writer: str
    metrics: dict[str, float] = field(default_factory=dict)
    version: int = RECORD_VERSION

    @property
    def id(self) -> CheckpointId:
        """Step and incarnation."""
        return CheckpointId(self.step, self.incarnation)

    def to_bytes(self) -> bytes:
        """The record as stored, with a digest over itself."""
        raw = asdict(self)
        return canonical_json({**raw, "digest": self_digest(raw)})

    @classmethod
    def from_bytes(cls, data: bytes) -> CommitRecord:
        """Parse and check a stored record, which must be byte for byte what `to_bytes` wrote. Raises `CorruptError`."""
        raw = parse_record(data, "the commit record", (RECORD_VERSION,))
        raw.pop("digest", None)
        try:
            record = cls(**raw)
        except TypeError as error:
            raise CorruptError(f"the {cls.__name__} has unexpected fields: {error}.") from error
        try:
            intact = record.to_bytes() == data
        except ValueError:  # damage can turn a number into one that JSON does not have
            intact = False
        if not intact:
            raise CorruptError("the commit record does not match its own digest.")
        return record
