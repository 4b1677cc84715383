"""A hundred thousand generated captions: ids equal OpenCLIP's, in every context length and cleaning mode."""

import time
from collections import Counter

import pytest
import torch

from clip_testkit.captions import fuzzed_captions
from clip_trainer.text import SimpleTokenizer
from clip_trainer.text.clean import CLEAN_MODES

pytestmark = [pytest.mark.parity, pytest.mark.long]
COUNT = 100_000
CONTEXTS = (16, 32, 64, 77)
_AT_ONCE = 500


def test_hundred_thousand_captions(open_clip, capsys):
    """Every caption in CLIP's cleaning mode; every fourth batch in the other modes too."""
    theirs = {mode: open_clip.SimpleTokenizer(clean=mode) for mode in CLEAN_MODES}
    ours = {mode: SimpleTokenizer(clean=mode) for mode in CLEAN_MODES}
    started = time.process_time()
    pairs = list(fuzzed_captions(COUNT, seed=2024))
    compared = Counter()
    cut = 0
    for number, start in enumerate(range(0, COUNT, _AT_ONCE)):
        captions = [caption for _, caption in pairs[start : start + _AT_ONCE]]
        context = CONTEXTS[number % len(CONTEXTS)]
        for mode in CLEAN_MODES if number // len(CONTEXTS) % 4 == 0 else CLEAN_MODES[:1]:
            expected = theirs[mode](captions, context)
            differing = (ours[mode](captions, context) != expected).any(dim=1)
            assert not differing.any(), ascii(captions[int(torch.nonzero(differing)[0])])
            compared[mode] += len(captions)
            cut += int((expected[:, -1] == theirs[mode].eot_token_id).sum())
    kinds = Counter(kind for kind, _ in pairs)
    table = [("captions compared, clean=" + mode, compared[mode]) for mode in CLEAN_MODES]
    table += [("captions that fill the context", cut), *(("kind " + kind, kinds[kind]) for kind in sorted(kinds))]
    with capsys.disabled():
        print("\n" + "\n".join(f"{name:<40} {count:>8,}" for name, count in table))
        print(f"{'CPU seconds':<40} {time.process_time() - started:>8.1f}")
    assert compared["lower"] >= COUNT
    assert min(kinds.values()) > 500
