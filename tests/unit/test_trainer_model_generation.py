"""Caption generation: rules, beam search against brute force, sampling."""

import itertools

import pytest
import torch
from torch import nn

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model
from clip_trainer.model.generation import GenerationOptions, generate
from clip_trainer.model.token_rules import TokenRules, keep_top_k, keep_top_p

START, END, VOCABULARY = 4, 3, 5


class Table(nn.Module):
    """A captioner whose scores depend on the image and on the last two tokens, through a random table."""

    pad_id = 0

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (3, VOCABULARY, VOCABULARY, VOCABULARY)
        self.table = nn.Parameter(2 * torch.randn(shape, generator=generator))
        self.asked, self.modes = [], []

    def encode_image_tokens(self, image):
        return image, image

    def next_token_scores(self, image_embs, text):
        self.asked.append(text.shape)
        self.modes.append(self.training)
        before = text[:, -2] if text.shape[1] > 1 else torch.zeros_like(text[:, -1])
        return self.table[image_embs, before, text[:, -1]]


def images(rows=3):
    return torch.arange(rows)


def options(**changes):
    given = {"seq_len": 5, "min_seq_len": 0, "sot_token_id": START, "eos_token_id": END}
    return GenerationOptions(**given | changes)


def run(model, text=None, rows=3, **changes):
    return generate(model, images(rows), text, options(**changes))


def quality(model, row, tokens, log_probabilities):
    """Sum of scores over length, the start counted, of tokens that follow the start."""
    total, text = 0.0, [START]
    for token in tokens:
        scores = model.next_token_scores(torch.tensor([row]), torch.tensor([text]))[0]
        total += (scores.log_softmax(0) if log_probabilities else scores)[token].item()
        text.append(token)
    return total / len(text)


def every_text(seq_len):
    """All texts that end, or reach `seq_len` with the start."""
    inner = [token for token in range(VOCABULARY) if token != END]
    for length in range(1, seq_len):
        for tokens in itertools.product(inner, repeat=length - 1):
            yield (*tokens, END)
    yield from itertools.product(inner, repeat=seq_len - 1)


@pytest.mark.parametrize("log_probabilities", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_the_tree_finds_the_best_text(seed, log_probabilities):
    model = Table(seed)
    with torch.no_grad():
        best = [
            max(every_text(4), key=lambda tokens, row=row: quality(model, row, tokens, log_probabilities))
            for row in range(3)
        ]
    beams = {"num_beams": 200, "num_beam_groups": 1, "log_probabilities": log_probabilities}
    found = run(model, seq_len=4, fixed_output_length=True, **beams).tolist()
    assert found == [[START, *tokens, 0, 0, 0][:4] for tokens in best]


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_is_at_least_as_good_as_a_narrow_one(seed):
    model = Table(seed)
    shared = {"num_beam_groups": 1, "log_probabilities": True, "fixed_output_length": True}
    wide, narrow = (run(model, num_beams=beams, **shared).tolist() for beams in (200, 2))

    def score(row, tokens):
        return quality(model, row, tokens[1 : tokens.index(END) + 1 if END in tokens else None], True)

    for row in range(3):
        assert score(row, wide[row]) >= score(row, narrow[row]) - 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_a_single_beam_is_greedy_while_texts_cannot_end(seed):
    shared = {"min_seq_len": 4, "pad_token_id": 9}  # a sampled padding token would end a text
    single = run(Table(seed), num_beams=1, num_beam_groups=1, **shared)
    assert torch.equal(single[:, :4], run(Table(seed), generation_type="top_k", top_k=1, **shared)[:, :4])


@pytest.mark.parametrize("seed", range(4))
def test_top_1_takes_the_best_token_every_time(seed):
    model = Table(seed)
    for row, text in enumerate(run(model, generation_type="top_k", top_k=1, seq_len=8).tolist()):
        for place in range(1, len(text)):
            if text[place - 1] in (0, END) and place > 1:
                assert text[place] == 0
            elif place == 7:
                assert text[place] == END
            else:
                scores = model.next_token_scores(torch.tensor([row]), torch.tensor([text[:place]]))[0]
                assert text[place] == scores.argmax()


@pytest.mark.parametrize("kind", ["top_k", "top_p"])
def test_sampling_depends_on_the_seed_alone(kind):
    model = Table()
    found = []
    for seed in (0, 0, *range(1, 8)):
        torch.manual_seed(seed)
        found.append(run(model, generation_type=kind, top_k=5, top_p=0.99, fixed_output_length=True).tolist())
    assert found[0] == found[1]
    assert any(other != found[0] for other in found[2:])


def test_beam_search_is_deterministic_and_leaves_the_random_state_alone():
    model = Table()
    state = torch.get_rng_state()
    assert torch.equal(run(model), run(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_groups_without_a_penalty_are_one_group():
    model = Table(1)
    one = run(model, num_beams=2, num_beam_groups=1, fixed_output_length=True)
    model.asked.clear()
    three = run(model, num_beams=6, num_beam_groups=3, fixed_output_length=True)
    assert torch.equal(one, three)
    assert {shape[0] for shape in model.asked} == {3 * 2}


def test_a_diversity_penalty_makes_groups_take_different_tokens():
    model = Table(1)
    model.asked.clear()
    firsts = []
    original = model.next_token_scores

    def spy(image_embs, text):
        if text.shape[1] == 2:
            firsts.append(text[:, 1].view(3, 3, 1))  # group, row, beam
        return original(image_embs, text)

    model.next_token_scores = spy
    run(model, num_beams=3, num_beam_groups=3, diversity_penalty=100.0, min_seq_len=2)
    (taken,) = firsts
    for row in range(3):
        assert len(set(taken[:, row, 0].tolist())) == 3
    assert {shape[0] for shape in model.asked} == {9}


def test_no_text_ends_before_its_minimum():
    for kind in ("beam_search", "top_k"):
        for text in run(Table(2), generation_type=kind, min_seq_len=4, seq_len=7, fixed_output_length=True).tolist():
            assert END not in text[:4]


def test_several_tokens_can_end_a_text():
    model = Table(3)
    for kind in ("beam_search", "top_k"):
        found = run(model, generation_type=kind, eos_token_id=[END, 2], seq_len=8, fixed_output_length=True)
        for text in found.tolist():
            ends = [place for place, token in enumerate(text) if token in (END, 2)]
            assert not ends or not any(text[ends[0] + 1 :])


def test_texts_are_continued():
    model = Table()
    text = torch.tensor([[START, 1], [START, 2], [START, END]])
    found = run(model, text, generation_type="top_k", seq_len=6)
    assert torch.equal(found[:, :2], text)
    assert found[2, 2:].tolist() == [0] * (found.shape[1] - 2)
    single = generate(model, torch.tensor([1]), text[1], options(generation_type="top_k", seq_len=6))
    assert single.ndim == 1
    assert single.tolist()[: len(single)] == found[1].tolist()[: len(single)]


def test_only_the_last_tokens_are_looked_at():
    model = Table()
    run(model, generation_type="top_k", seq_len=9, max_seq_len=3, min_seq_len=8, pad_token_id=9)
    assert [shape[1] for shape in model.asked] == [1, 2, 3, 3, 3, 3, 3, 3]


def test_stops_when_every_text_meets_a_criterion():
    model = Table()
    long = {"eos_token_id": END, "min_seq_len": 8, "seq_len": 9}
    for kind in ("beam_search", "top_k"):
        for criterion in (lambda texts, _: texts.shape[1] >= 4, lambda texts, _: torch.full((len(texts),), True)):
            found = run(model, generation_type=kind, stopping_criteria=[criterion], **long)
            assert found.shape[1] in (2, 3, 4, 5)
    never = run(model, generation_type="top_k", stopping_criteria=[lambda texts, _: False], **long)
    assert never.shape[1] == 9
    halves = [lambda texts, _: torch.arange(len(texts)) < 1, lambda texts, _: torch.arange(len(texts)) >= 1]
    assert run(model, generation_type="top_k", stopping_criteria=halves, **long).shape[1] == 2


def test_fixed_length_pads():
    for kind in ("beam_search", "top_k"):
        assert run(Table(), generation_type=kind, seq_len=12, fixed_output_length=True).shape == (3, 12)


@pytest.mark.parametrize("training", [True, False])
def test_generates_in_evaluation_mode_without_gradients(training):
    model = Table().train(training)
    assert not run(model).requires_grad
    assert set(model.modes) == {False}
    assert model.training == training
    with pytest.raises(IndexError):
        run(model, rows=9)
    assert model.training == training


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seq_len": 5, "min_seq_len": 5}, "seq_len 5 must be larger"),
        ({"num_beams": 5, "num_beam_groups": 2}, "num_beam_groups 2 does not divide num_beams 5"),
        ({"generation_type": "greedy"}, "must be one of beam_search, top_k, top_p"),
    ],
)
def test_refuses_options_that_do_not_fit(changes, problem):
    with pytest.raises(ValueError, match=problem):
        options(**changes)


def test_defaults_are_those_of_clip():
    given = GenerationOptions()
    assert (given.seq_len, given.max_seq_len, given.num_beams, given.num_beam_groups) == (30, 77, 6, 3)
    assert (given.min_seq_len, given.top_k, given.top_p, given.repetition_penalty) == (5, 1, 0.1, 1.0)


def test_top_k_keeps_ties():
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    kept = keep_top_k(scores, 2)
    assert torch.isfinite(kept).tolist() == [[False, True, True, True], [True, True, False, False]]
    assert torch.equal(keep_top_k(scores, 99), scores)
    assert torch.isfinite(keep_top_k(scores, 0)).sum() == 2


def test_top_p_keeps_what_is_needed():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()
    assert torch.isfinite(keep_top_p(scores, 0.6)).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert torch.isfinite(keep_top_p(scores, 1e-9)).sum(dim=1).tolist() == [1, 1]
    assert torch.equal(keep_top_p(scores, 1.0), scores)


def test_repeated_tokens_become_less_likely():
    rules = TokenRules(torch.tensor([END]), 0, repetition_penalty=2.0)
    scores = rules(torch.tensor([[0, 1]]), torch.tensor([[4.0, -4.0, 4.0, -4.0, 0.0]]))
    assert scores.tolist() == [[2.0, -8.0, 4.0, -4.0, 0.0]]


def test_the_end_is_hidden_below_the_minimum():
    rules = TokenRules(torch.tensor([END]), 3)
    assert rules(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 5))[0, END] == -torch.inf
    assert rules(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 5))[0, END] == 1


def test_scores_of_the_next_token_are_those_of_the_whole_decoder():
    model = create_model(ClipConfig.from_dict(tinymodels.COCA, "tiny")).eval()
    image, text = tinymodels.images(16, dtype=torch.float32), tinymodels.texts()[:, :5]
    _, tokens = model.encode_image_tokens(image)
    expected = model(image, text, output_labels=False)["logits"][:, -1]
    torch.testing.assert_close(model.next_token_scores(tokens, text), expected)
