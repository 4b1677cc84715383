"""Captions from a model that gives next-token scores for an image: beam search, and sampling from the best tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from clip_trainer.model.beam_search import BeamSettings, beam_search
from clip_trainer.model.sampling import SamplingSettings, sample
from clip_trainer.model.token_rules import TokenRules, keep_top_k, keep_top_p

StoppingCriterion = Callable[[Tensor, None], Any]
"""(texts [rows, length], None) -> whether to stop: a bool, or one a row. Hugging Face's criteria are such."""

START, END = 49406, 49407
"""Token ids of the start and the end of a text in CLIP's vocabulary."""


class Captioner(Protocol):
    """What generation needs of a model."""

    pad_id: int

    def encode_image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image feature and the image's tokens [n, tokens, width]."""
        ...

    def next_token_scores(self, image_embs: Tensor, text: Tensor) -> Tensor:
        """Scores [n, vocabulary] of the token after `text` [n, length]."""
        ...


@torch.no_grad()
def generate(
    model: Captioner,
    image: Tensor,
    text: Tensor | None = None,
    seq_len: int = 30,
    max_seq_len: int = 77,
    temperature: float = 1.0,
    generation_type: str = "beam_search",
    top_p: float = 0.1,
    top_k: int = 1,
    pad_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | Tensor | None = None,
    sot_token_id: int | Sequence[int] | Tensor | None = None,
    num_beams: int = 6,
    num_beam_groups: int = 3,
    min_seq_len: int = 5,
    stopping_criteria: Sequence[StoppingCriterion] | None = None,
    repetition_penalty: float = 1.0,
    fixed_output_length: bool = False,
    diversity_penalty: float = 0.0,
    log_probabilities: bool = False,
) -> Tensor:
    """Caption images. Arguments and results are those of OpenCLIP's `CoCa.generate`; the last two are additions.

    Args:
        model: a CoCa model; put into evaluation mode for the call.
        image: normalised images [n, 3, height, width].
        text: beginnings to continue, int64 [n, length] or [length] (not for beam search, which starts anew).
        seq_len: longest text, start and end included.
        max_seq_len: how many of the last tokens the model sees.
        temperature: divides the scores before sampling.
        generation_type: "beam_search", "top_k" or "top_p".
        top_p: sample from the most probable tokens that together have this probability.
        top_k: sample from this many of the most probable tokens; 1 always takes the best.
        pad_token_id: default the model's.
        eos_token_id: one or several; default CLIP's.
        sot_token_id: default CLIP's.
        num_beams: beams of all groups together.
        num_beam_groups: groups of beams; divides `num_beams`. Only `diversity_penalty` makes them differ: without it
            the result is that of one group (OpenCLIP computes the same texts once a group).
        min_seq_len: length below which a text does not end.
        stopping_criteria: asked after every token; the default stops at `seq_len`.
        repetition_penalty: above 1 makes tokens that are there already less likely.
        fixed_output_length: pad the result to `seq_len`.
        diversity_penalty: subtracted from a token's score for every beam of an earlier group that has just taken it.
        log_probabilities: let beam search add up log-probabilities. False adds up raw scores, as OpenCLIP does.

    Returns:
        int64 [n, length].

    Raises:
        ValueError: an argument does not fit the others.
    """
    if seq_len <= min_seq_len:
        raise ValueError(f"seq_len {seq_len} must be larger than min_seq_len {min_seq_len}")
    start = _ids(START if sot_token_id is None else sot_token_id, image.device)
    ends = _ids(END if eos_token_id is None else eos_token_id, image.device)
    pad = model.pad_id if pad_token_id is None else pad_token_id
    rules = TokenRules(ends, min_seq_len, repetition_penalty)
    stop = _stopping(stopping_criteria or (), seq_len)
    beginning = start[:1].expand(len(image), 1)
    with _evaluating(model):
        _, image_embs = model.encode_image_tokens(image)

        def scores(tokens: Tensor, rows: Tensor) -> Tensor:
            return model.next_token_scores(image_embs[rows], tokens)

        def beam_scores(tokens: Tensor, rows: Tensor) -> Tensor:
            raw = scores(tokens, rows)
            return rules(tokens, raw.log_softmax(dim=-1) if log_probabilities else raw)

        if generation_type == "beam_search":
            if num_beams % num_beam_groups:
                raise ValueError(f"num_beam_groups {num_beam_groups} does not divide num_beams {num_beams}")
            beams = BeamSettings(num_beams // num_beam_groups, num_beam_groups, ends, pad, diversity_penalty)
            found = beam_search(beam_scores, beginning, beams, stop, seq_len)
            missing = seq_len - found.shape[1] if fixed_output_length else 0
            return nn.functional.pad(found, (0, missing), value=pad)
        keep = _filter(generation_type, top_k, top_p)
        settings = SamplingSettings(rules, keep, temperature, max_seq_len, seq_len, pad, fixed_output_length)
        texts = beginning if text is None else text.reshape(-1, text.shape[-1])
        sampled = sample(scores, texts, settings, stop)
        return sampled.squeeze(0) if text is not None and text.ndim == 1 else sampled


def _filter(generation_type: str, top_k: int, top_p: float) -> Callable[[Tensor], Tensor]:
    """What leaves the tokens to sample from."""
    filters = {"top_k": partial(keep_top_k, k=top_k), "top_p": partial(keep_top_p, p=top_p)}
    if generation_type not in filters:
        raise ValueError(f"generation_type is {generation_type!r}; it must be beam_search, top_k or top_p")
    return filters[generation_type]


def _stopping(criteria: Sequence[StoppingCriterion], seq_len: int) -> Callable[[Tensor], bool]:
    """Whether texts are to stop: at `seq_len`, or when each meets a criterion."""

    def stop(texts: Tensor) -> bool:
        met = torch.zeros(len(texts), dtype=torch.bool, device=texts.device)
        for criterion in criteria:
            met |= torch.as_tensor(criterion(texts, None), device=texts.device)
        return texts.shape[1] >= seq_len or bool(met.all())

    return stop


def _ids(ids: int | Sequence[int] | Tensor, device: torch.device) -> Tensor:
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
