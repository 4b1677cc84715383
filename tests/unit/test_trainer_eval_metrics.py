"""Zero-shot accuracy and retrieval against a dense computation in a few lines, on any number of ranks."""

import pytest
import torch

from clip_testkit import rankwork
from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import TEMPLATES, group_of, small_model
from clip_testkit.training import CLASSES, write_labelled_dataset
from clip_trainer.data.index import open_dataset
from clip_trainer.eval import encoder as encoder_module
from clip_trainer.eval import retrieval as retrieval_module
from clip_trainer.eval.encoder import Encoder
from clip_trainer.eval.retrieval import RECALLS, _ranks, retrieval
from clip_trainer.eval.zero_shot import classifier, zero_shot
from clip_trainer.model import get_precision
from clip_trainer.text import BpeTokenizer
from clip_trainer.vision import OPENAI_PREPROCESS, decode_image, eval_transform
from clipctl.contract.errors import CorruptError
from clipctl.contract.sections import ZeroShotSection

SAMPLES = 25
ALONE = group_of(0, 1)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "data"
    write_labelled_dataset(folder, [11, 9, 5])
    return str(folder)


@pytest.fixture(scope="module")
def encoder():
    model = small_model(3)
    model.eval()
    return Encoder(model, get_precision("fp32"), OPENAI_PREPROCESS, torch.device("cpu"))


@pytest.fixture(scope="module")
def dense(url, encoder):
    """All images, captions and labels embedded at once, by the model's own methods only."""
    from clip_testkit.shards import png

    model = encoder.model
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_PREPROCESS.mean, OPENAI_PREPROCESS.std))
    pixels = torch.stack([eval_transform(decode_image(png(i)), 16) for i in range(SAMPLES)])
    tokenizer = BpeTokenizer(16)

    def texts(lines):
        return model.encode_text(torch.from_numpy(tokenizer(lines)), normalize=True)

    with torch.inference_mode():
        images = model.encode_image((pixels.float() / 255 - mean) / std, normalize=True)
        captions = texts([f"picture {i}" for i in range(SAMPLES)])
        prompts = torch.stack([texts([t.format(c) for t in TEMPLATES]).mean(0) for c in CLASSES])
    labels = torch.tensor([i % len(CLASSES) for i in range(SAMPLES)])
    return images, captions, torch.nn.functional.normalize(prompts, dim=-1), labels


def section(**changes):
    return ZeroShotSection(**{"data": "x", "classes": CLASSES, "templates": TEMPLATES, **changes})


class TestZeroShot:
    def test_it_equals_the_dense_computation(self, url, encoder, dense):
        images, _, weights, labels = dense
        order = (images @ weights.T).argsort(dim=1, descending=True)
        with torch.inference_mode():
            found = zero_shot(encoder, ALONE, open_dataset(url), section())
        assert found == {"top1": int((order[:, 0] == labels).sum()) / SAMPLES, "top5": 1.0, "images": SAMPLES}

    def test_the_classifier_is_the_mean_over_templates(self, encoder, dense):
        with torch.inference_mode():
            weights = classifier(encoder, CLASSES, TEMPLATES)
        torch.testing.assert_close(weights, dense[2], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights.norm(dim=1), torch.ones(3))

    def test_top_five_of_many_classes(self, url, encoder):
        many = section(classes=(*CLASSES, *(f"class {i}" for i in range(20))))
        with torch.inference_mode():
            found = zero_shot(encoder, ALONE, open_dataset(url), many)
        assert 0 <= found["top1"] <= found["top5"] <= 1

    def test_a_class_number_without_a_name_is_refused(self, url, encoder):
        with torch.inference_mode(), pytest.raises(CorruptError, match="without a class number below 2"):
            zero_shot(encoder, ALONE, open_dataset(url), section(classes=("zero", "one")))

    def test_samples_without_a_class_are_refused(self, tmp_path, encoder):
        from clip_testkit.shards import write_dataset

        write_dataset(tmp_path / "plain", [4])
        with torch.inference_mode(), pytest.raises(CorruptError, match="class"):
            zero_shot(encoder, ALONE, open_dataset(str(tmp_path / "plain")), section())


class TestRetrieval:
    def test_it_equals_the_dense_computation(self, url, encoder, dense):
        images, captions, _, _ = dense
        with torch.inference_mode():
            found = retrieval(encoder, ALONE, open_dataset(url))
        for direction, scores in (("image_to_text", images @ captions.T), ("text_to_image", captions @ images.T)):
            places = (scores > scores.diag().unsqueeze(1)).sum(1)
            for recall in RECALLS:
                assert found[f"{direction}_R@{recall}"] == pytest.approx(float((places < recall).float().mean()))
            assert found[f"{direction}_mean_rank"] == pytest.approx(float((places + 1).float().mean()))

    def test_chunks_change_nothing(self, url, encoder, monkeypatch):
        with torch.inference_mode():
            whole = retrieval(encoder, ALONE, open_dataset(url))
            monkeypatch.setattr(retrieval_module, "CHUNK", 4)
            monkeypatch.setattr(encoder_module, "CHUNK", 3)
            assert retrieval(encoder, ALONE, open_dataset(url)) == pytest.approx(whole)


class TestRanks:
    """The place of the right partner, by hand."""

    def places(self, scores, first=0):
        scores = torch.tensor(scores)
        return _ranks(scores, torch.eye(scores.shape[1]), first).tolist()

    def test_best_and_worst(self):
        assert self.places([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.9, 0.1, 0.2]]) == [0.0, 2.0, 1.0]

    def test_a_later_part_of_the_rows(self):
        assert self.places([[0.1, 0.9, 0.2]], first=1) == [0.0]
        assert self.places([[0.1, 0.9, 0.2]], first=2) == [1.0]

    def test_a_tie_counts_as_half_a_place(self):
        """A model that maps everything to one point must not get a recall of 1."""
        assert self.places([[0.5, 0.5, 0.5]]) == [1.0]
        assert self.places([[0.5, 0.5, 0.1]]) == [0.5]

    def test_nothing(self):
        assert _ranks(torch.empty(0, 4), torch.eye(4), 0).tolist() == []


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_work_and_agree(world, url, tmp_path):
    alone = rankwork.evaluation(0, 1, url)
    for answer in run_ranks(world, tmp_path, rankwork.evaluation, world, url):
        assert answer == pytest.approx(alone, abs=1e-6)
