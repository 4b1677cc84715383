"""One data set for all ranks: opened once, and described to the others."""

from __future__ import annotations

from clip_trainer.data.index import Dataset, open_dataset
from clip_trainer.train.group import Group


def share_dataset(url: str, group: Group) -> Dataset:
    """Open a data set on rank 0 (which checks or builds its index) and give the index to the others. Collective."""
    opened: list[Dataset] = []

    def read() -> str:
        opened.append(open_dataset(url))
        return opened[0].index.to_json().decode()

    payload: str = group.on_first(read)
    return opened[0] if opened else Dataset.attach(url, payload.encode())
