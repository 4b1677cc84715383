"""How many parameters the named models have, known without building them: `sizes.json`, counted on the meta device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from clip_trainer.pretrained.registry import canonical_model


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters."""

    total: int
    image: int  # of the image tower

    @property
    def rest(self) -> int:
        """Those of the text tower, the logit scale and, in CoCa, the caption decoder."""
        return self.total - self.image


def model_size(name: str) -> ModelSize | None:
    """The size of a named model; None if it was not counted, as for those a user added."""
    found = _table().get(canonical_model(name))
    return None if found is None else ModelSize(*found)


@cache
def _table() -> dict[str, list[int]]:
    text = resources.files(__package__).joinpath("sizes.json").read_text(encoding="utf-8")
    table: dict[str, list[int]] = json.loads(text)
    return table
