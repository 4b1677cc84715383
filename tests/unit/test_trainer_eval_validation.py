"""Models with more to say than a softmax: a bias (SigLIP), a decoder (CoCa)."""

import pytest
import torch

from clip_testkit.evalwork import stream_of, write_captioned_dataset
from clip_testkit.rankwork import group_of
from clip_testkit.training import SMALL_MODEL
from clip_trainer.data.loading.eval_stream import EvalChunk
from clip_trainer.eval import encoder as encoder_module
from clip_trainer.eval.encoder import encoder_for
from clip_trainer.eval.validation import MAX_CAPTIONS, PairTable, caption_losses, validate, writes_captions
from clip_trainer.model import ClipConfig, create_model, get_precision
from clip_trainer.vision import OPENAI_PREPROCESS

ALONE = group_of(0, 1)
COCA = {
    "embed_dim": 16,
    "vision_cfg": {**SMALL_MODEL["vision_cfg"], "attentional_pool": True, "output_tokens": True},
    "text_cfg": {**SMALL_MODEL["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"width": 16, "context_length": 16, "heads": 2, "layers": 1},
    "custom_text": True,
}
COCA["vision_cfg"]["attn_pooler_heads"] = 2


def encoder_of(raw, precision="fp32"):
    model = create_model(ClipConfig.from_dict(raw, "test"), precision, 3).eval()
    return encoder_for(model, get_precision(precision), torch.device("cpu"), OPENAI_PREPROCESS)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation") / "data"
    write_captioned_dataset(folder, [7, 4])
    return str(folder)


def metrics_of(encoder, url, **options):
    options = {"captions": "all", "loss_batch": 4, "name": "data", **options}
    return validate(encoder, ALONE, stream_of(url, encoder), **options)


class TestBias:
    def test_a_model_without_bias_has_one_loss(self, url):
        found = metrics_of(encoder_of(SMALL_MODEL), url)
        assert "clip_val_loss" in found
        assert "siglip_val_loss" not in found
        assert "val_generative_loss" not in found

    def test_the_bias_counts_in_the_sigmoid_loss_only(self, url):
        found = [metrics_of(encoder_of({**SMALL_MODEL, "init_logit_bias": bias}), url) for bias in (-10.0, -5.0)]
        assert found[0]["clip_val_loss"] == found[1]["clip_val_loss"]
        assert found[0]["siglip_val_loss"] != pytest.approx(found[1]["siglip_val_loss"], rel=1e-3)

    def test_scale_and_bias_may_be_vectors(self, url):
        shapes = [{}, {"nonscalar_logit_scale": True}]
        found = [metrics_of(encoder_of({**SMALL_MODEL, "init_logit_bias": -10.0, **shape}), url) for shape in shapes]
        assert found[0] == pytest.approx(found[1])


class TestCaptions:
    def test_only_coca_writes_captions(self):
        assert writes_captions(encoder_of(COCA).model)
        assert not writes_captions(encoder_of(SMALL_MODEL).model)

    def test_the_loss_is_the_mean_over_samples_for_any_chunk(self, url, monkeypatch):
        """OpenCLIP counts every hundredth batch and divides by all samples."""
        encoder = encoder_of(COCA)
        found = []
        for chunk in (128, 3, 2):
            monkeypatch.setattr(encoder_module, "CHUNK", chunk)
            found.append(metrics_of(encoder, url)["val_generative_loss"])
        assert found == pytest.approx([found[0]] * 3, rel=1e-5)

    def test_one_sample_by_hand(self):
        encoder = encoder_of(COCA)
        images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
        losses = caption_losses(encoder, images, ["a cat", "two dogs"])
        with torch.no_grad():
            out = encoder.model(encoder.pixels(images), encoder.tokens(["a cat", "two dogs"]))
        logs = out["logits"].log_softmax(-1)
        wanted = [-sum(logs[n, t, out["labels"][n, t]] for t in range(logs.shape[1])) / logs.shape[1] for n in (0, 1)]
        torch.testing.assert_close(losses, torch.stack(wanted))

    def test_several_captions_do_not_weigh_more(self, url):
        encoder = encoder_of(COCA)
        every, first = (metrics_of(encoder, url, captions=kind) for kind in ("all", "first"))
        assert every["val_generative_loss"] == pytest.approx(first["val_generative_loss"], rel=1e-6)


class TestPairTable:
    def chunk(self, ids, captions):
        images = torch.zeros(len(ids), 3, 16, 16, dtype=torch.uint8)
        return EvalChunk(images, captions, [None] * len(ids), ids)

    def test_rows_know_their_image_and_their_place(self):
        table, encoder = PairTable("all"), encoder_of(SMALL_MODEL)
        table.add(encoder, self.chunk([4, 6, 8], [("a", "b"), (), ("c",)]))
        table.add(encoder, self.chunk([10], [("d", "e", "f")]))
        images, texts = table.images(16), table.texts(16)
        assert images.owners.tolist() == [4, 8, 10]
        assert texts.owners.tolist() == [4, 4, 8, 10, 10, 10]
        assert (texts.keys - texts.owners * MAX_CAPTIONS).tolist() == [0, 1, 0, 0, 1, 2]
        torch.testing.assert_close(table.first_texts(16), encoder.texts(["a", "c", "d"]))

    def test_first_captions_only(self):
        table = PairTable("first")
        table.add(encoder_of(SMALL_MODEL), self.chunk([4, 6], [("a", "b"), ("c",)]))
        assert table.texts(16).owners.tolist() == [4, 6]

    def test_nothing(self):
        table = PairTable("all")
        table.add(encoder_of(SMALL_MODEL), self.chunk([1], [()]))
        assert (len(table.images(16)), len(table.texts(16)), table.width()) == (0, 0, 0)
        assert table.first_texts(16).shape == (0, 16)


@pytest.mark.parametrize("precision", ["amp_bf16", "bf16", "pure_bf16"])
def test_features_are_unit_vectors_in_float32_in_any_precision(precision, url):
    encoder = encoder_of(SMALL_MODEL, precision)
    features = encoder.texts(["one", "two"])
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2), rtol=0, atol=1e-2)
    assert metrics_of(encoder, url)["num_samples"] == 11
