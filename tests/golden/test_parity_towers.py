"""Modified ResNet, CoCa, Hugging Face text towers and timm image towers equal OpenCLIP's."""

import pytest
import torch

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("open_clip")]
TINY = 1e-10


def pair(data, **options):
    """Our model and the oracle's with the same random weights, float64, evaluation mode."""
    ours = create_model(ClipConfig.from_dict(data, "tiny"), **options).double().eval()
    oracle = tinymodels.oracle(data).double().eval()
    tinymodels.fill(ours)
    state = ours.state_dict()
    expected = {key: (value.shape, value.dtype) for key, value in oracle.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in state.items()} == expected
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in oracle.named_parameters()]
    oracle.load_state_dict(state)
    return ours, oracle


def equal(actual, expected):
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            equal(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            equal(one, other)
    else:
        torch.testing.assert_close(actual, expected, rtol=0, atol=TINY)


def check_gradients(ours, oracle, *arguments):
    """Of the sum of squares of everything the models return."""
    for model in (ours, oracle):
        model.zero_grad()
        out = model(*arguments)
        parts = out.values() if isinstance(out, dict) else out
        sum(part.square().sum() for part in parts if part.is_floating_point()).backward()
    wanted = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    for name, parameter in ours.named_parameters():
        if wanted[name] is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "vision", [{}, {"layers": [1, 2, 1, 1], "width": 12, "image_size": 96, "head_width": 32}], ids=["plain", "other"]
)
def test_modified_resnet(vision):
    ours, oracle = pair(tinymodels.resnet(**vision))
    image, text = tinymodels.images(vision.get("image_size", 64)), tinymodels.texts()
    equal(ours(image, text), oracle(image, text))
    for indices in (None, 2, [0, 4]):
        given = {"indices": indices}
        equal(ours.visual.forward_intermediates(image, **given), oracle.visual.forward_intermediates(image, **given))
    given = {"indices": [1], "intermediates_only": True}
    equal(ours.visual.forward_intermediates(image, **given), oracle.visual.forward_intermediates(image, **given))
    ours.train(), oracle.train()
    check_gradients(ours, oracle, image, text)
    statistics = {key: value for key, value in oracle.state_dict().items() if "running" in key}
    assert statistics
    equal({key: ours.state_dict()[key] for key in statistics}, statistics)


def test_modified_resnet_starts_with_the_oracles_distributions():
    data = tinymodels.resnet(width=32)
    ours, oracle = create_model(ClipConfig.from_dict(data, "tiny")), tinymodels.oracle(data)
    wanted = oracle.visual.state_dict()
    for key, value in ours.visual.state_dict().items():
        if value.numel() > 4000:
            assert value.std().item() == pytest.approx(wanted[key].std().item(), rel=0.05), key
            assert abs(value.mean()) < 0.1 * value.std(), key
        elif "bn" in key or "downsample.1" in key:
            assert torch.equal(value, wanted[key]), key


def coca(width, **vision):
    """All three parts of one width, which stacks the matrices of the attentional pool."""
    return {
        "embed_dim": width,
        "vision_cfg": tinymodels.COCA["vision_cfg"] | {"width": width, "attn_pooler_heads": 2} | vision,
        "text_cfg": tinymodels.COCA["text_cfg"] | {"width": width, "heads": 2},
        "multimodal_cfg": tinymodels.COCA["multimodal_cfg"] | {"width": width},
    }


COCA_VARIANTS = {
    "attentional pool": {},
    "stacked pool": coca(16),
    "class token": coca(24, attentional_pool=False),
    "parallel": coca(16, attentional_pool="parallel"),
    "cascade, bias": coca(16, attentional_pool="cascade") | {"init_logit_bias": -3.0, "nonscalar_logit_scale": True},
    "quick gelu": {"quick_gelu": True},
    "layer scale": {"multimodal_cfg": tinymodels.COCA["multimodal_cfg"] | {"ls_init_value": 0.1}},
}


@pytest.mark.parametrize("change", COCA_VARIANTS.values(), ids=COCA_VARIANTS.keys())
def test_coca(change):
    ours, oracle = pair(tinymodels.COCA | change)
    image, text = tinymodels.images(16), tinymodels.texts()
    expected = oracle(image, text)
    equal(ours(image, text), expected)
    for normalize in (False, True):
        equal(ours.encode_image(image, normalize), oracle.encode_image(image, normalize))
        equal(ours.encode_text(text, normalize), oracle.encode_text(text, normalize))
    equal(ours.encode_text(text), oracle.encode_text(text))
    equal(ours(image), oracle(image))
    given = {"image_latent": expected["image_features"], "image_embs": oracle(image)["image_embs"]}
    equal(ours(None, text[:, :4], **given), oracle(None, text[:, :4], **given))
    equal(ours(image, text, output_labels=False), oracle(image, text, output_labels=False))


def test_coca_gradients_and_intermediates():
    ours, oracle = pair(tinymodels.COCA)
    image, text = tinymodels.images(16), tinymodels.texts()
    check_gradients(ours, oracle, image, text)
    options = {"image_indices": 2, "text_indices": [0], "text_output_extra_tokens": True}
    options |= {"image_output_extra_tokens": True, "output_logit_scale_bias": True}
    expected = oracle.forward_intermediates(image, text, **options)
    equal(ours.forward_intermediates(image, text, **options), expected)
    with pytest.raises(AssertionError):
        oracle.forward_intermediates(image, text, output_logits=True)
    features = {name: expected[name] for name in ("image_features", "text_features")}
    logits = ours.forward_intermediates(image, text, output_logits=True)["image_logits"]
    equal(logits, ours.logit_scale.exp() * features["image_features"] @ features["text_features"].T)


def test_coca_with_a_hugging_face_tower(tmp_path):
    folder = tinymodels.hf_folder(tmp_path / "roberta", "roberta")
    text = tinymodels.hf(folder, output_tokens=True, hf_proj_type="linear")["text_cfg"]
    vision = tinymodels.VIT | {"width": 24, "output_tokens": True}
    multimodal = tinymodels.COCA["multimodal_cfg"] | {"width": 24}
    ours, oracle = pair(tinymodels.COCA | {"text_cfg": text, "vision_cfg": vision, "multimodal_cfg": multimodal})
    image, ids = tinymodels.images(16), tinymodels.texts(pad=1)
    equal(ours(image, ids), oracle(image, ids))


HF_VARIANTS = [
    ("roberta", {}),
    ("roberta", {"hf_pooler_type": "cls_pooler", "output_tokens": True}),
    ("roberta", {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "linear"}),
    ("xlm-roberta", {"hf_proj_type": "linear"}),
    ("mt5", {}),
    ("m2m_100", {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}),
    ("bert", {"hf_pooler_type": "cls_pooler"}),
]


@pytest.mark.parametrize(("kind", "text"), HF_VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
def test_hugging_face_text_towers(tmp_path, kind, text):
    ours, oracle = pair(tinymodels.hf(tinymodels.hf_folder(tmp_path / kind, kind), **text))
    pad = tinymodels.HF[kind]["pad_token_id"]
    ids = tinymodels.texts(pad=pad)
    assert (ids == pad).any()
    equal(ours.text(ids), oracle.text(ids))
    if not text.get("output_tokens"):
        equal(ours.encode_text(ids, normalize=True), oracle.encode_text(ids, normalize=True))
        image = tinymodels.images(16)
        check_gradients(ours, oracle, image, ids)
    assert ours.text.context_length == oracle.text.context_length
    assert ours.text.vocab_size == oracle.text.vocab_size


TIMM_VARIANTS = [
    ("test_vit", {"pool": "token", "proj": "linear"}),
    ("test_vit", {"pool": "avg", "proj": "none"}),
    ("test_vit3", {"pool": "map", "proj": "mlp", "proj_bias": True, "drop": 0.1}),
    ("test_vit4", {"pool": "", "proj": None, "drop_path": 0.1}),
    ("test_convnext", {"pool": "", "proj": "linear", "drop_path": 0.1}),
    ("test_efficientnet", {"pool": "abs_attn", "proj": None}),
    ("test_byobnet", {"pool": "rot_attn", "proj": "linear", "proj_bias": True}),
]


@pytest.mark.parametrize(("name", "vision"), TIMM_VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
def test_timm_image_towers(name, vision):
    ours, oracle = pair(tinymodels.timm(name, **vision))
    image = tinymodels.images(160, rows=2)
    equal(ours.encode_image(image), oracle.encode_image(image))
    assert ours.visual.image_size == oracle.visual.image_size
    for options in ({"indices": 2, "normalize_intermediates": True}, {"indices": [0], "intermediates_only": True}):
        expected = oracle.visual.forward_intermediates(image, **options)
        equal(ours.visual.forward_intermediates(image, **options), expected)
    if name.startswith("test_vit"):
        options = {"indices": 1, "output_fmt": "NLC", "output_extra_tokens": True}
        expected = oracle.visual.forward_intermediates(image, **options)
        equal(ours.visual.forward_intermediates(image, **options), expected)


def test_timm_towers_of_another_size():
    ours, oracle = pair(tinymodels.timm("test_vit3", pool="avg"))
    image = tinymodels.images(96)
    for size in (96, (96, 96)):
        for model in (ours, oracle):
            model.visual.set_input_size(size)
        equal(ours.encode_image(image), oracle.encode_image(image))
        assert ours.visual.image_size == (96, 96) == tuple(oracle.visual.image_size)
