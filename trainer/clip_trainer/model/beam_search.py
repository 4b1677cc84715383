"""Beam search over token sequences, in groups that can be made to differ (arXiv 1610.02424)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

NextScores = Callable[[Tensor, Tensor], Tensor]
"""(tokens [beams, length], which row each beam belongs to [beams]) -> scores of the next token [beams, vocabulary]."""
_IMPOSSIBLE = -1e9  # not -inf: a beam that is not there yet must still sort below one with a forbidden token


@dataclass(frozen=True)
class BeamSettings:
    """How to search."""

    beams: int
    """Texts followed at a time in each group."""
    groups: int
    """Groups of beams; each is a search of its own."""
    end: Tensor
    """Token ids that end a text: int64 [count]."""
    pad: int
    """Token id behind the end."""
    diversity_penalty: float = 0.0
    """Subtracted from a token's score for every earlier group's beam that has just chosen it."""


@dataclass
class _Hypotheses:
    """The best ended texts (without the end token) of one row in one group."""

    capacity: int
    texts: list[tuple[float, Tensor]] = field(default_factory=list)
    done: bool = False

    def add(self, tokens: Tensor, total: float, length: int) -> None:
        """Keep a text if it is good enough: its quality is the sum of its scores over its length, the end counted."""
        quality = total / length
        if len(self.texts) == self.capacity:
            worst = min(range(self.capacity), key=lambda index: self.texts[index][0])
            if quality <= self.texts[worst][0]:
                return
            del self.texts[worst]
        self.texts.append((quality, tokens))

    def settle(self, best_total: float, length: int) -> None:
        """Finish if the best running text would, if it ended at `length`, not beat the worst ended one."""
        full = len(self.texts) >= self.capacity
        self.done |= full and min(quality for quality, _ in self.texts) >= best_total / length


class _Group:
    """One group's beams for all rows: `tokens` [rows, beams, length] and the sums of their scores [rows, beams]."""

    def __init__(self, start: Tensor, settings: BeamSettings) -> None:
        rows = len(start)
        self.settings = settings
        self.tokens = start[:, None].expand(rows, settings.beams, start.shape[1])
        # All beams start equal: only the first may be continued, or each would find the same texts.
        self.totals = torch.full((rows, settings.beams), _IMPOSSIBLE, device=start.device)
        self.totals[:, 0] = 0
        self.ended = [_Hypotheses(settings.beams) for _ in range(rows)]

    @property
    def done(self) -> bool:
        return all(hypotheses.done for hypotheses in self.ended)

    def flat(self) -> Tensor:
        return self.tokens.flatten(0, 1)

    def advance(self, scores: Tensor) -> Tensor:
        """Take one token a beam, given scores [rows * beams, vocabulary]; returns the tokens taken [rows, beams]."""
        rows, beams, length = self.tokens.shape
        vocabulary = scores.shape[1]
        totals = (scores.float() + self.totals.flatten()[:, None]).view(rows, beams * vocabulary)
        # Twice as many as beams: even if half of them are ends, every beam has a successor.
        candidates, places = totals.topk(min(2 * beams, totals.shape[1]), dim=1)
        sources, chosen = places // vocabulary, places % vocabulary
        ends = torch.isin(chosen, self.settings.end)
        taken = torch.full((rows, beams), self.settings.pad, dtype=torch.int64, device=scores.device)
        origin = torch.zeros_like(taken)
        running = torch.zeros_like(self.totals)
        for row, hypotheses in enumerate(self.ended):
            if hypotheses.done:
                continue
            for rank in ends[row, :beams].nonzero().flatten().tolist():
                hypotheses.add(self.tokens[row, sources[row, rank]], candidates[row, rank].item(), length + 1)
            going = (~ends[row]).nonzero().flatten()[:beams]
            count = len(going)
            taken[row, :count], origin[row, :count] = chosen[row, going], sources[row, going]
            running[row, :count] = candidates[row, going]
            running[row, count:] = _IMPOSSIBLE
            hypotheses.settle(candidates[row].max().item(), length + 1)
        earlier = self.tokens.gather(1, origin[:, :, None].expand(-1, -1, length))
        self.tokens = torch.cat([earlier, taken[:, :, None]], dim=2)
        self.totals = running
        return taken

    def finish(self) -> None:
        """Count the running texts of unfinished rows as ended."""
        for row, hypotheses in enumerate(self.ended):
            if not hypotheses.done:
                for tokens, total in zip(self.tokens[row], self.totals[row].tolist(), strict=True):
                    hypotheses.add(tokens, total, len(tokens))


def beam_search(
    next_scores: NextScores, start: Tensor, settings: BeamSettings, stop: Callable[[Tensor], bool], longest: int
) -> Tensor:
    """The text of the highest mean score of each row, as far as the beams find it.

    Args:
        next_scores: what to add up.
        start: int64 [rows, length], the beginning of each text.
        settings: how to search.
        stop: called with all texts [beams, length] after every token; true ends the search.
        longest: cut longer texts, end token included.

    Returns:
        int64 [rows, length]: texts with their end token, padded to the longest.
    """
    # Without a penalty every group would find the same texts.
    count = settings.groups if settings.diversity_penalty else 1
    groups = [_Group(start, settings) for _ in range(count)]
    rows = torch.arange(len(start), device=start.device).repeat_interleave(settings.beams)
    while True:
        scores = next_scores(torch.cat([group.flat() for group in groups]), rows.repeat(count)).chunk(count)
        used: list[Tensor] = []
        for group, raw in zip(groups, scores, strict=True):
            used.append(group.advance(_penalised(raw, used, settings)))
        if all(group.done for group in groups) or stop(torch.cat([group.flat() for group in groups])):
            break
    for group in groups:
        group.finish()
    texts = [
        max((text for group in groups for text in group.ended[row].texts), key=lambda text: text[0])[1]
        for row in range(len(start))
    ]
    return _padded(texts, settings, longest)


def _penalised(scores: Tensor, used: list[Tensor], settings: BeamSettings) -> Tensor:
    """Lower the scores [rows * beams, vocabulary] of tokens that earlier groups have chosen in this step."""
    if not used or not settings.diversity_penalty:
        return scores
    chosen = torch.cat(used, dim=1)
    counts = torch.zeros(len(chosen), scores.shape[1], dtype=scores.dtype, device=scores.device)
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=scores.dtype))
    return scores - settings.diversity_penalty * counts.repeat_interleave(settings.beams, dim=0)


def _padded(texts: list[Tensor], settings: BeamSettings, longest: int) -> Tensor:
    """One tensor of texts, each followed by the end token where there is room, and by padding."""
    width = min(max(len(text) for text in texts) + 1, longest)
    padded = torch.full((len(texts), width), settings.pad, dtype=torch.int64, device=texts[0].device)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text[:width]
        if len(text) < width:
            row[len(text)] = settings.end[0]
    return padded
