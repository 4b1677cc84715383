"""Retrieval ranks and validation losses against their definitions, on one rank and on several."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit import evalwork
from clip_testkit.evalwork import (
    evaluation,
    losses_of_pairs,
    noisy_pairs,
    retrieval_of_pairs,
    share_of,
    small_encoder,
    write_captioned_dataset,
)
from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import group_of
from clip_testkit.training import CLASSES, write_labelled_dataset
from clip_trainer.eval import ranking
from clip_trainer.eval.pair_loss import validation_losses
from clip_trainer.eval.ranking import Rows, best_places
from clip_trainer.eval.retrieval import get_clip_metrics, retrieval_metrics, summary
from clipctl.contract.errors import CorruptError

ALONE = group_of(0, 1)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "data"
    write_captioned_dataset(folder, [11, 6])
    return str(folder)


def naive_place(scores, owners, own):
    """Place of the first candidate owned by `own` in a stable sort by falling score."""
    order = sorted(range(len(scores)), key=lambda at: -scores[at])
    return next(place for place, at in enumerate(order) if owners[at] == own)


def naive_metrics(images, texts):
    """The definition, with the whole matrix: images [n, d], texts [n, captions, d]."""
    n, captions, width = texts.shape
    flat = texts.reshape(-1, width)
    scores = (images.double() @ flat.double().T).float().tolist()
    owners = [at // captions for at in range(n * captions)]
    forward = [naive_place(scores[at], owners, at) for at in range(n)]
    turned = list(zip(*scores, strict=True))
    backward = [naive_place(turned[at], list(range(n)), at // captions) for at in range(n * captions)]
    return summary(torch.tensor(forward), "image_to_text") | summary(torch.tensor(backward), "text_to_image")


def metrics_of(images, texts):
    return retrieval_metrics(ALONE, *share_of(0, 1, images, texts))


class TestGolden:
    """Numbers measured with open_clip_torch 3.3.0."""

    def test_fifty_pairs(self):
        torch.manual_seed(0)
        images = torch.nn.functional.normalize(torch.randn(50, 16), dim=-1)
        texts = torch.nn.functional.normalize(images + 0.8 * torch.randn(50, 16), dim=-1)
        assert get_clip_metrics(images, texts, torch.tensor(10.0)) == pytest.approx(
            {
                "image_to_text_mean_rank": 8.94,
                "image_to_text_median_rank": 4,
                "image_to_text_R@1": 0.20,
                "image_to_text_R@5": 0.56,
                "image_to_text_R@10": 0.66,
                "text_to_image_mean_rank": 9.38,
                "text_to_image_median_rank": 6,
                "text_to_image_R@1": 0.16,
                "text_to_image_R@5": 0.46,
                "text_to_image_R@10": 0.66,
            }
        )


class TestDefinition:
    @settings(max_examples=40)
    @given(
        n=st.integers(1, 40), captions=st.integers(1, 4), seed=st.integers(0, 10_000), levels=st.sampled_from([0, 2])
    )
    def test_against_the_whole_matrix(self, n, captions, seed, levels):
        images, texts = noisy_pairs(n, captions, seed, width=3)
        if levels:  # few different values, so that there are many ties
            images, texts = (images * levels).round(), (texts * levels).round()
        assert metrics_of(images, texts) == pytest.approx(naive_metrics(images, texts))

    def test_blocks_and_chunks_change_nothing(self, monkeypatch):
        images, texts = noisy_pairs(23, 3, 1)
        whole = metrics_of(images, texts)
        monkeypatch.setattr(ranking, "BLOCK", 4)
        monkeypatch.setattr(ranking, "QUERIES", 5)
        assert metrics_of(images, texts) == whole

    def test_no_matrix_of_all_pairs_is_made(self, monkeypatch):
        monkeypatch.setattr(ranking, "BLOCK", 8)
        monkeypatch.setattr(ranking, "QUERIES", 8)
        shapes, product = [], ranking._similarities
        monkeypatch.setattr(ranking, "_similarities", lambda q, c: shapes.append((len(q), len(c))) or product(q, c))
        metrics_of(*noisy_pairs(50, 2, 1))
        assert max(max(shape) for shape in shapes) == 8
        assert sum(a * b for a, b in shapes) == 2 * 50 * 100

    def test_the_best_of_several_captions_counts(self):
        image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        texts = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.6, 0.8], [0.0, 1.0]]])
        found = metrics_of(image, texts)
        assert found["image_to_text_R@1"] == 0.5  # the caption that image 0 has first is as near to image 1, and first
        assert found["text_to_image_R@1"] == 0.75  # and looked up with, it finds image 1

    def test_ties_go_to_the_first(self):
        """A model that maps everything to one point must not get a recall of 1."""
        found = get_clip_metrics(torch.ones(9, 2), torch.ones(9, 2), 1.0)
        assert found["image_to_text_R@1"] == pytest.approx(1 / 9)
        assert (found["image_to_text_mean_rank"], found["text_to_image_median_rank"]) == (5, 5)

    def test_the_same_caption_twice_ties_exactly(self):
        images, texts = noisy_pairs(40, 1, 2, width=100)
        doubled = torch.cat([texts, texts])
        rows = Rows(torch.cat([images, images]), torch.arange(80), torch.arange(80))
        places = best_places(ALONE, rows, Rows(doubled[:, 0], torch.arange(80), torch.arange(80)))
        assert torch.equal(places[40:], places[:40] + 1)

    def test_a_query_without_a_partner_is_a_bug(self):
        one, other = (
            Rows(torch.ones(1, 2), torch.tensor([1]), torch.tensor([1])),
            Rows(torch.ones(1, 2), torch.tensor([2]), torch.tensor([2])),
        )
        with pytest.raises(AssertionError, match="without a partner"):
            best_places(ALONE, one, other)


class TestSummary:
    @pytest.mark.parametrize(("places", "median"), [([0], 1), ([0, 3], 2), ([0, 1, 9], 2), ([0, 1, 2, 9], 2)])
    def test_the_median_is_rounded_down(self, places, median):
        assert summary(torch.tensor(places), "x")["x_median_rank"] == median

    def test_recall_and_mean(self):
        found = summary(torch.tensor([0, 4, 5, 9, 10]), "x")
        assert found == {"x_mean_rank": 6.6, "x_median_rank": 6, "x_R@1": 0.2, "x_R@5": 0.4, "x_R@10": 0.8}

    def test_nothing(self):
        assert set(summary(torch.tensor([], dtype=torch.int64), "x").values()) == {0.0}


class TestLoss:
    def dense(self, images, texts, batch, bias):
        total = torch.zeros(2).double()
        for at in range(0, len(images), batch):
            logits = 10.0 * images[at : at + batch] @ texts[at : at + batch].T
            n = len(logits)
            own = logits.diag().double()
            softmax = (2 * own - logits.double().logsumexp(0) - logits.double().logsumexp(1)).sum() / -2
            signs = 2 * torch.eye(n) - 1
            total += torch.stack(
                [softmax, torch.nn.functional.softplus(-signs * (logits + (bias or 0))).double().sum()]
            )
        return (total / len(images)).tolist()

    @pytest.mark.parametrize("batch", [1, 7, 64, 1000])
    def test_definition(self, batch):
        images, texts = noisy_pairs(150, 1, 5)
        softmax, sigmoid = self.dense(images, texts[:, 0], batch, -2.5)
        assert losses_of_pairs(0, 1, 150, batch, -2.5) == pytest.approx(
            {"clip_val_loss": softmax, "siglip_val_loss": sigmoid}, rel=1e-5
        )
        assert losses_of_pairs(0, 1, 150, batch, None) == pytest.approx({"clip_val_loss": softmax}, rel=1e-5)

    def test_untold_pairs_cost_the_logarithm_of_the_batch(self):
        ids = torch.arange(128)
        found = validation_losses(
            ALONE, torch.ones(128, 2), torch.ones(128, 2), ids, logit_scale=5.0, logit_bias=None, batch=64
        )
        assert found["clip_val_loss"] == pytest.approx(math.log(64), rel=1e-5)


class TestDataSet:
    def test_all_captions_or_the_first(self, url):
        every = evaluation(0, 1, {"retrieval": {"data": url}})["retrieval"]
        first = evaluation(0, 1, {"retrieval": {"data": url, "captions": "first"}})["retrieval"]
        assert (every["num_samples"], every["num_captions"]) == (17, sum(1 + i % 3 for i in range(17)))
        assert (first["num_samples"], first["num_captions"]) == (17, 17)
        assert every["clip_val_loss"] == pytest.approx(first["clip_val_loss"], rel=1e-6)

    def test_it_equals_the_dense_computation(self, url):
        encoder = small_encoder()
        chunks = list(evalwork.stream_of(url, encoder))
        images = torch.cat([encoder.images(chunk.images) for chunk in chunks])
        firsts = encoder.texts([captions[0] for chunk in chunks for captions in chunk.captions])
        wanted = naive_metrics(images, firsts.unsqueeze(1))
        found = evaluation(0, 1, {"retrieval": {"data": url, "captions": "first"}})["retrieval"]
        assert {name: found[name] for name in wanted} == pytest.approx(wanted)

    def test_samples_without_captions_are_left_out(self, tmp_path):
        from clip_testkit.shards import png, sample_members, tar_bytes

        members = [*sample_members(0), ("000001.png", png(1)), ("000001.cls", b"0"), *sample_members(2)]
        (tmp_path / "shard-000000.tar").write_bytes(tar_bytes(members))
        assert evaluation(0, 1, {"retrieval": {"data": str(tmp_path)}})["retrieval"]["num_samples"] == 2

    def test_no_pair_at_all_is_refused(self, tmp_path):
        from clip_testkit.shards import png, tar_bytes

        (tmp_path / "shard-000000.tar").write_bytes(tar_bytes([("a.png", png(1)), ("a.cls", b"0")]))
        with pytest.raises(CorruptError, match="no image with a caption"):
            evaluation(0, 1, {"retrieval": {"data": str(tmp_path)}})


class TestRanks:
    """Several processes find what one finds."""

    @pytest.mark.parametrize("world", [2, 3])
    def test_metrics(self, world, tmp_path):
        alone = retrieval_of_pairs(0, 1, 31, 3, 4)
        for answer in run_ranks(world, tmp_path, retrieval_of_pairs, world, 31, 3, 4):
            assert answer == alone

    def test_more_ranks_than_images(self, tmp_path):
        assert run_ranks(3, tmp_path, retrieval_of_pairs, 3, 2, 2, 4) == [retrieval_of_pairs(0, 1, 2, 2, 4)] * 3

    def test_losses(self, tmp_path):
        alone = losses_of_pairs(0, 1, 31, 7, -3.0)
        for answer in run_ranks(3, tmp_path, losses_of_pairs, 3, 31, 7, -3.0):
            assert answer == pytest.approx(alone, rel=1e-12)

    def test_everything(self, tmp_path):
        write_labelled_dataset(tmp_path / "labelled", [11, 9, 5])
        write_captioned_dataset(tmp_path / "pairs", [5, 8])
        asked = {
            "zero_shot": {"data": str(tmp_path / "labelled"), "classes": list(CLASSES), "templates": "simple"},
            "retrieval": {"data": str(tmp_path / "pairs"), "loss_batch": 4},
        }
        alone = evaluation(0, 1, asked)
        answers = run_ranks(2, tmp_path, evaluation, 2, asked)
        assert answers[0] == answers[1]
        for name, wanted in alone.items():
            assert answers[0][name] == pytest.approx(wanted, abs=1e-5)

    def test_more_ranks_than_samples_and_classes(self, tmp_path):
        write_labelled_dataset(tmp_path / "labelled", [2])
        asked = {
            "zero_shot": {"data": str(tmp_path / "labelled"), "classes": ["zero", "one"]},
            "retrieval": {"data": str(tmp_path / "labelled"), "loss_batch": 1},
        }
        alone = evaluation(0, 1, asked)
        for answer in run_ranks(3, tmp_path, evaluation, 3, asked):
            for name, wanted in alone.items():
                assert answer[name] == pytest.approx(wanted, abs=1e-5)

    def test_a_problem_of_one_rank_reaches_all(self, tmp_path):
        write_labelled_dataset(tmp_path / "labelled", [1, 2])
        asked = {"zero_shot": {"data": str(tmp_path / "labelled"), "classes": ["zero", "one"]}}
        with pytest.raises(RuntimeError, match=r"rank 0 failed: CorruptError\(.*without a class number below 2"):
            run_ranks(2, tmp_path, evaluation, 2, asked)
