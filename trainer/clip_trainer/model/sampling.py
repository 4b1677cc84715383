"""Token by token sampling of texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_trainer.model.beam_search import NextScores
from clip_trainer.model.token_rules import TokenRules


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample."""

    rules: TokenRules
    """Changes scores before `keep`."""
    keep: Callable[[Tensor], Tensor]
    """Sets the scores of tokens that are not to be taken to -inf."""
    temperature: float
    """Divides the scores that are left."""
    window: int
    """How many of the last tokens are looked at."""
    longest: int
    """Length at which a text is ended."""
    pad: int
    """Token id behind the end."""
    fixed: bool
    """Go on padding after all texts have ended."""


def sample(
    next_scores: NextScores, texts: Tensor, settings: SamplingSettings, stop: Callable[[Tensor], bool]
) -> Tensor:
    """Continue texts by random tokens until they have ended. The randomness is torch's global one.

    Args:
        next_scores: of the model.
        texts: int64 [rows, length], the beginnings.
        settings: how to sample.
        stop: called with all texts after every token; true ends the sampling.

    Returns:
        int64 [rows, length].
    """
    while True:
        last = texts[:, -1]
        active = (~(torch.isin(last, settings.rules.ends) | (last == settings.pad))).nonzero().flatten()
        if not len(active) and not settings.fixed:
            return texts
        taken = torch.full((len(texts),), settings.pad, dtype=texts.dtype, device=texts.device)
        if len(active):
            seen = texts[active, -settings.window :]
            taken[active] = _next(next_scores, seen, active, settings)
        texts = torch.cat([texts, taken[:, None]], dim=1)
        if stop(texts):
            return texts


def _next(next_scores: NextScores, seen: Tensor, rows: Tensor, settings: SamplingSettings) -> Tensor:
    """One token for each text [texts]: the end if there is room for no other."""
    if seen.shape[1] + 1 == settings.longest:
        return settings.rules.ends[:1].expand(len(seen))
    scores = settings.keep(settings.rules(seen, next_scores(seen, rows)))
    probabilities = (scores / settings.temperature).softmax(dim=-1)
    return torch.multinomial(probabilities, 1).squeeze(1)
