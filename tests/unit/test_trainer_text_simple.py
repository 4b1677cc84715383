"""OpenCLIP's tokenizer interface, against ids that OpenCLIP 3.3.0 gave."""

import random
import subprocess
import sys
from collections import Counter

import pytest
import torch

from clip_trainer.text import SimpleTokenizer, decode, tokenize
from clip_trainer.text.reduction import REDUCTIONS, get_reduction_mask_fn

LONG = " ".join(f"w{index}" for index in range(40))


def test_a_caption_or_several():
    one = tokenize("a diagram")
    assert one.dtype == torch.int64
    assert one.shape == (1, 77)
    assert one[0, :4].tolist() == [49406, 320, 22697, 49407]
    assert not one[0, 4:].any()
    both = tokenize(["a diagram", "A photo of a CAT!"], context_length=9)
    assert both.tolist() == [
        [49406, 320, 22697, 49407, 0, 0, 0, 0, 0],
        [49406, 320, 1125, 539, 320, 2368, 256, 49407, 0],
    ]
    assert tokenize([]).shape == (0, 77)


def test_a_long_caption_is_cut_and_ends():
    assert tokenize("word " * 100)[0].tolist() == [49406, *[2653] * 75, 49407]
    assert tokenize("word " * 100, context_length=3)[0].tolist() == [49406, 2653, 49407]


def test_the_interface():
    tokenizer = SimpleTokenizer()
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id, tokenizer.vocab_size) == (49406, 49407, 49408)
    assert tokenizer.all_special_ids == [49406, 49407]
    assert tokenizer.context_length == 77
    assert tokenizer.decoder[tokenizer.encoder["cat</w>"]] == "cat</w>"
    assert tokenizer.encode("a diagram") == [320, 22697]
    assert tokenizer.bpe_ranks["i", "n"] == 0


def test_text_back():
    assert decode(torch.tensor([320, 22697])) == "a diagram "
    assert SimpleTokenizer().decode([49406, 320, 49407]) == "<start_of_text>a <end_of_text>"


def test_special_tokens_of_ones_own():
    tokenizer = SimpleTokenizer(additional_special_tokens=["<mask>"], context_length=6)
    assert tokenizer.all_special_ids == [49406, 49407, 49408]
    assert tokenizer(["a <mask> b"])[0].tolist() == [49406, 320, 49408, 321, 49407, 0]


def test_clean_modes_reach_the_ids():
    kept = SimpleTokenizer(clean="whitespace").encode("A CAT, yes")
    assert kept != SimpleTokenizer().encode("A CAT, yes")
    assert SimpleTokenizer(clean="canonicalize").encode("A CAT, yes!") == SimpleTokenizer().encode("a cat yes")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="cleaning mode"):
        SimpleTokenizer(clean="none")
    with pytest.raises(ValueError, match="reduction 'block'"):
        SimpleTokenizer(reduction_mask="block")
    with pytest.raises(ValueError, match="neither"):
        SimpleTokenizer(context_length=None)("a")
    assert SimpleTokenizer(context_length=None)("a", 4).shape == (1, 4)


def test_a_merge_table_of_ones_own(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("#version\na b\nab c</w>\n")
    tokenizer = SimpleTokenizer(path)
    assert tokenizer.vocab_size == 512 + 2 + 2
    assert tokenizer.encode("abc") == [513]


@pytest.mark.parametrize("kind", ["simple", "random", "shuffle"])
def test_reductions_keep_what_fits(kind):
    tokenizer = SimpleTokenizer(context_length=16, reduction_mask=kind)
    short = "a diagram"
    assert torch.equal(tokenizer(short), SimpleTokenizer(context_length=16)(short))
    everything = tokenizer.encode(LONG)
    row = tokenizer(LONG)[0].tolist()
    assert (row[0], row[-1]) == (49406, 49407)
    assert not Counter(row[1:-1]) - Counter(everything)


def test_simple_keeps_a_block_and_random_the_order():
    source = list(range(100, 160))
    options = {"texts": ["x"], "context_length": 12, "sot_token_id": 1, "eot_token_id": 2}
    random.seed(0)
    torch.manual_seed(0)
    block = get_reduction_mask_fn("simple")(**options, encode_fn=lambda _: source)[0, 1:-1].tolist()
    assert block == list(range(block[0], block[0] + 10))
    ordered = get_reduction_mask_fn("random")(**options, encode_fn=lambda _: source)[0, 1:-1].tolist()
    assert ordered == sorted(ordered) != block
    shuffled = get_reduction_mask_fn("shuffle")(**options, encode_fn=lambda _: source)[0, 1:-1].tolist()
    assert shuffled != sorted(shuffled)
    assert len(set(shuffled)) == 10


@pytest.mark.parametrize("kind", ["simple", "random", "shuffle"])
def test_every_token_is_kept_equally_often_by_reductions(kind):
    """Except that a block seldom reaches the ends."""
    options = {"texts": ["x"] * 2000, "context_length": 7, "sot_token_id": 1, "eot_token_id": 2}
    random.seed(1)
    torch.manual_seed(1)
    rows = get_reduction_mask_fn(kind)(**options, encode_fn=lambda _: list(range(10, 20)))[:, 1:-1]
    share = Counter(rows.flatten().tolist())
    expected = dict.fromkeys(range(10, 20), 1000)
    if kind == "simple":  # six places for a block of five among ten
        expected = {10 + i: 2000 * min(i + 1, 5, 10 - i) / 6 for i in range(10)}
    assert all(abs(share[id_] - count) < 120 for id_, count in expected.items())


def test_all_names_of_reductions_exist():
    assert all(callable(get_reduction_mask_fn(kind)) for kind in REDUCTIONS)


def test_tokenizers_do_not_import_torch_before_they_are_called():
    code = (
        "import sys; from clip_trainer.text import SimpleTokenizer, HFTokenizer, LoaderTokenizer;"
        "SimpleTokenizer().encode('a'); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
