"""Captions from a model that gives next-token scores for an image: beam search, and sampling from the best tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from clip_trainer.model.beam_search import BeamSettings, NextScores, beam_search
from clip_trainer.model.sampling import SamplingSettings, sample
from clip_trainer.model.token_rules import TokenRules, keep_top_k, keep_top_p

StoppingCriterion = Callable[[Tensor, None], Any]
"""(texts [rows, length], None) -> whether to stop: a bool, or one a row. Hugging Face's criteria are such."""

TokenIds = int | Sequence[int] | Tensor
"""One token id or several."""

START, END = 49406, 49407
"""Token ids of the start and the end of a text in CLIP's vocabulary."""
GENERATION_TYPES = ("beam_search", "top_k", "top_p")
"""Ways to choose tokens."""


class Captioner(Protocol):
    """What generation needs of a model."""

    pad_id: int

    def encode_image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image feature and the image's tokens [n, tokens, width]."""
        ...

    def next_token_scores(self, image_embs: Tensor, text: Tensor) -> Tensor:
        """Scores [n, vocabulary] of the token after `text` [n, length]."""
        ...


@dataclass(frozen=True)
class GenerationOptions:
    """How to caption: the arguments of OpenCLIP's `CoCa.generate`, in their order, and two additions at the end."""

    seq_len: int = 30
    """Longest text, start and end included."""
    max_seq_len: int = 77
    """How many of the last tokens sampling looks at."""
    temperature: float = 1.0
    """Divides the scores before sampling."""
    generation_type: str = "beam_search"
    """"beam_search", "top_k" or "top_p"."""
    top_p: float = 0.1
    """Sample from the most probable tokens that together have this probability."""
    top_k: int = 1
    """Sample from this many of the most probable tokens; 1 always takes the best."""
    pad_token_id: int | None = None
    """Default: the model's."""
    eos_token_id: TokenIds | None = None
    """One or several; default: CLIP's."""
    sot_token_id: TokenIds | None = None
    """Default: CLIP's."""
    num_beams: int = 6
    """Beams of all groups together."""
    num_beam_groups: int = 3
    """Groups of beams; divides `num_beams`. Only `diversity_penalty` makes them differ: without it the result is that
    of one group (OpenCLIP computes the same texts once a group)."""
    min_seq_len: int = 5
    """Length below which a text does not end."""
    stopping_criteria: Sequence[StoppingCriterion] | None = None
    """Asked after every token; `seq_len` stops in any case."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that are there already less likely."""
    fixed_output_length: bool = False
    """Pad the result to `seq_len`."""
    diversity_penalty: float = 0.0
    """Subtracted from a token's score for every beam of an earlier group that has just taken it."""
    log_probabilities: bool = False
    """Let beam search add up log-probabilities. False adds up raw scores, as OpenCLIP does."""

    def __post_init__(self) -> None:
        if self.seq_len <= self.min_seq_len:
            raise ValueError(f"seq_len {self.seq_len} must be larger than min_seq_len {self.min_seq_len}")
        if self.num_beams % self.num_beam_groups:
            raise ValueError(f"num_beam_groups {self.num_beam_groups} does not divide num_beams {self.num_beams}")
        if self.generation_type not in GENERATION_TYPES:
            known = ", ".join(GENERATION_TYPES)
            raise ValueError(f"generation_type is {self.generation_type!r}; it must be one of {known}")


@torch.no_grad()
def generate(model: Captioner, image: Tensor, text: Tensor | None, options: GenerationOptions) -> Tensor:
    """Caption images.

    Args:
        model: a CoCa model; put into evaluation mode for the call.
        image: normalised images [n, 3, height, width].
        text: beginnings to continue, int64 [n, length] or [length] (not for beam search, which starts anew).
        options: see there.

    Returns:
        int64 [n, length] (or [length], as `text`): token ids with start, end and padding.

    Raises:
        ValueError: an option does not fit the others.
    """
    start = _ids(START if options.sot_token_id is None else options.sot_token_id, image.device)
    ends = _ids(END if options.eos_token_id is None else options.eos_token_id, image.device)
    rules = TokenRules(ends, options.min_seq_len, options.repetition_penalty)
    pad = model.pad_id if options.pad_token_id is None else options.pad_token_id
    beginning = start[:1].expand(len(image), 1)
    with _evaluating(model):
        _, image_embs = model.encode_image_tokens(image)

        def scores(tokens: Tensor, rows: Tensor) -> Tensor:
            return model.next_token_scores(image_embs[rows], tokens)

        if options.generation_type == "beam_search":
            return _search(scores, beginning, rules, pad, options)
        texts = beginning if text is None else text.reshape(-1, text.shape[-1])
        sampled = _sample(scores, texts, rules, pad, options)
        return sampled.squeeze(0) if text is not None and text.ndim == 1 else sampled


def _search(scores: NextScores, beginning: Tensor, rules: TokenRules, pad: int, options: GenerationOptions) -> Tensor:
    """Beam search over what the rules make of the scores."""

    def ruled(tokens: Tensor, rows: Tensor) -> Tensor:
        raw = scores(tokens, rows)
        return rules(tokens, raw.log_softmax(dim=-1) if options.log_probabilities else raw)

    beams, groups = options.num_beams // options.num_beam_groups, options.num_beam_groups
    settings = BeamSettings(beams, groups, rules.ends, pad, options.diversity_penalty)
    found = beam_search(ruled, beginning, settings, _stopping(options), options.seq_len)
    missing = options.seq_len - found.shape[1] if options.fixed_output_length else 0
    return nn.functional.pad(found, (0, missing), value=pad)


def _sample(scores: NextScores, texts: Tensor, rules: TokenRules, pad: int, options: GenerationOptions) -> Tensor:
    """Sampling from the best tokens."""
    by_count = options.generation_type == "top_k"
    settings = SamplingSettings(
        rules=rules,
        keep=partial(keep_top_k, k=options.top_k) if by_count else partial(keep_top_p, p=options.top_p),
        temperature=options.temperature,
        window=options.max_seq_len,
        longest=options.seq_len,
        pad=pad,
        fixed=options.fixed_output_length,
    )
    return sample(scores, texts, settings, _stopping(options))


def _stopping(options: GenerationOptions) -> Callable[[Tensor], bool]:
    """Whether texts are to stop: at `seq_len`, or when each meets a criterion."""

    def stop(texts: Tensor) -> bool:
        met = torch.zeros(len(texts), dtype=torch.bool, device=texts.device)
        for criterion in options.stopping_criteria or ():
            met |= torch.as_tensor(criterion(texts, None), device=texts.device)
        return texts.shape[1] >= options.seq_len or bool(met.all())

    return stop


def _ids(ids: TokenIds, device: torch.device) -> Tensor:
    """Token ids as int64 [count]."""
    return torch.as_tensor(ids, dtype=torch.int64, device=device).reshape(-1)


@contextmanager
def _evaluating(model: Captioner) -> Iterator[None]:
    """Evaluation mode (no dropout), and back."""
    module = cast(nn.Module, model)
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
