"""Zero-shot classifiers: the weights of a linear layer made from prompts (CLIP paper, section 3.1.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from clip_trainer.eval.prompts.template import AnyTemplate, filled

Tokenize = Callable[[list[str]], torch.Tensor]


def build_zero_shot_classifier(
    model: Any,
    tokenizer: Tokenize,
    classnames: Sequence[str],
    templates: Sequence[AnyTemplate],
    num_classes_per_batch: int | None = 10,
    device: str | torch.device = "cpu",
    use_tqdm: bool = False,
) -> torch.Tensor:
    """Classifier weights, with OpenCLIP's signature and result.

    Args:
        model: has `encode_text(tokens, normalize=True)`.
        tokenizer: texts to tokens.
        classnames: names of the classes.
        templates: format strings, functions of the name, or `Template`.
        num_classes_per_batch: classes encoded at once; None: all.
        device: where the tokens go.
        use_tqdm: show a progress bar (needs the package tqdm).

    Returns:
        Unit vectors [d, classes]: the mean of the unit embeddings of a class's prompts, normalised again.
    """
    assert isinstance(templates, Sequence)
    assert len(templates) > 0
    assert isinstance(classnames, Sequence)
    assert len(classnames) > 0
    size = num_classes_per_batch or len(classnames)
    batches: Iterable[Sequence[str]] = [classnames[at : at + size] for at in range(0, len(classnames), size)]
    parts = []
    with torch.no_grad():
        for names in _with_progress(batches, use_tqdm, size):
            prompts = [prompt for name in names for prompt in filled(templates, name)]
            embedded = model.encode_text(tokenizer(prompts).to(device), normalize=True)
            mean = embedded.reshape(len(names), len(templates), -1).mean(dim=1)
            parts.append((mean / mean.norm(dim=1, keepdim=True)).T)
    return torch.cat(parts, dim=1)


def build_zero_shot_classifier_legacy(
    model: Any,
    tokenizer: Tokenize,
    classnames: Sequence[str],
    templates: Sequence[AnyTemplate],
    device: str | torch.device = "cpu",
    use_tqdm: bool = False,
) -> torch.Tensor:
    """As `build_zero_shot_classifier`, one class at a time."""
    return build_zero_shot_classifier(model, tokenizer, classnames, templates, 1, device, use_tqdm)


def _with_progress(batches: Iterable[Sequence[str]], wanted: bool, size: int) -> Iterable[Sequence[str]]:
    if not wanted:
        return batches
    from tqdm import tqdm  # type: ignore[import-untyped]

    shown: Iterable[Sequence[str]] = tqdm(batches, unit_scale=size)
    return shown
