"""The library interface against the oracle: the same names, arguments, results; programs that change their import."""

import inspect
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import clip_trainer
from clip_testkit.model_parity import filled
from clip_trainer import api
from clip_trainer.model.interchange import open_clip_config, save_weights

pytestmark = pytest.mark.parity

ABSENT = {"trace_model", "push_to_hf_hub", "push_pretrained_to_hf_hub"}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None}
CONFIGS = {
    "api-vit": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT},
    "api-quick": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
    "api-resnet": {"embed_dim": 32, "vision_cfg": RESNET, "text_cfg": TEXT},
    "api-custom": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT, "custom_text": True},
    "api-bias": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT, "init_logit_bias": -10, "custom_text": True},
    "coca-api": {
        "embed_dim": 32,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def configs(open_clip, tmp_path_factory):
    """The small models, known to both libraries."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    clip_trainer.add_model_config(folder)
    return tuple(CONFIGS)


def inputs(config, batch=3):
    torch.manual_seed(0)
    size = config["vision_cfg"]["image_size"]
    text = torch.randint(1, 49406, (batch, config["text_cfg"]["context_length"]))
    text[:, 5] = 49407
    return torch.randn(batch, 3, size, size), text


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def callables(module):
    return {n for n in dir(module) if not n.startswith("_") and not inspect.ismodule(getattr(module, n))}


def test_every_public_name_of_the_oracle_is_there(open_clip):
    assert callables(open_clip) - ABSENT <= set(api.__all__)
    assert set(api.__all__) & ABSENT == set()


FUNCTIONS = [
    "add_model_config",
    "build_zero_shot_classifier",
    "build_zero_shot_classifier_legacy",
    "convert_weights_to_fp16",
    "convert_weights_to_lp",
    "create_loss",
    "create_model",
    "create_model_and_transforms",
    "create_model_from_pretrained",
    "decode",
    "download_pretrained",
    "download_pretrained_from_url",
    "get_cast_dtype",
    "get_input_dtype",
    "get_model_config",
    "get_model_preprocess_cfg",
    "get_model_tokenize_cfg",
    "get_pretrained_cfg",
    "get_pretrained_url",
    "get_tokenizer",
    "image_transform",
    "is_pretrained_cfg",
    "list_models",
    "list_openai_models",
    "list_pretrained",
    "list_pretrained_models_by_tag",
    "list_pretrained_tags_by_model",
    "load_checkpoint",
    "load_openai_model",
    "set_model_preprocess_cfg",
    "tokenize",
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments(open_clip, name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (clip_trainer, open_clip))
    assert list(ours) == list(theirs)
    for argument, parameter in theirs.items():
        assert (ours[argument].kind, ours[argument].default) == (parameter.kind, parameter.default), argument


@pytest.mark.parametrize("name", ["ClipLoss", "CoCaLoss", "DistillClipLoss", "AugmentationCfg"])
def test_arguments_of_classes(open_clip, name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (clip_trainer, open_clip))
    assert list(ours) == list(theirs)
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}


def test_arguments_of_the_tokenizer(open_clip):
    ours, theirs = (dict(inspect.signature(m.SimpleTokenizer).parameters) for m in (clip_trainer, open_clip))
    assert list(ours) == list(theirs)
    del ours["bpe_path"], theirs["bpe_path"]  # a path inside of each package
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}


def test_models_and_their_configurations(open_clip, configs):
    ours = clip_trainer.list_models()
    theirs = [name for name in open_clip.list_models() if name in ours]  # other tests may have added some there
    assert len(theirs) == 144 + len(configs)
    assert [name for name in ours if name in theirs] == theirs
    for name in theirs:
        assert clip_trainer.get_model_config(name) == open_clip.get_model_config(name), name
    assert clip_trainer.get_model_config("nothing") == open_clip.get_model_config("nothing")


def test_constants(open_clip):
    for name in ("OPENAI_DATASET_MEAN", "OPENAI_DATASET_STD"):
        assert getattr(clip_trainer, name) == getattr(open_clip, name)
    assert list(clip_trainer.IMAGENET_CLASSNAMES) == list(open_clip.IMAGENET_CLASSNAMES)
    for name in ("OPENAI_IMAGENET_TEMPLATES", "SIMPLE_IMAGENET_TEMPLATES"):
        ours, theirs = ([make("x") for make in getattr(module, name)] for module in (clip_trainer, open_clip))
        assert ours == theirs


@pytest.mark.parametrize(("name", "how"), [*zip(CONFIGS, ["pt", "safetensors"] * 3, strict=True)])
def test_weights_go_both_ways(open_clip, configs, tmp_path, name, how):
    """Theirs to ours by file, ours to theirs by the other format; outputs of both, as tuples and as dicts."""
    path = tmp_path / f"w.{how}"
    torch.manual_seed(3)
    theirs = filled(open_clip.create_model(name)).eval()
    save = torch.save if how == "pt" else safetensors.torch.save_file
    save(theirs.state_dict(), path)
    ours = clip_trainer.create_model(name, pretrained=str(path)).eval()
    image, text = inputs(CONFIGS[name])
    with torch.no_grad():
        compare(ours(image, text), theirs(image, text))
        ours.output_dict = theirs.output_dict = True
        compare(ours(image, text), theirs(image, text))
        close(ours.encode_image(image), theirs.encode_image(image))
        close(ours.encode_text(text, normalize=True), theirs.encode_text(text, normalize=True))
        if hasattr(theirs, "get_logits"):  # the oracle's CoCa has none
            close(ours.get_logits(image, text)[0], theirs.get_logits(image, text)[0], 1e-4)
    torch.manual_seed(4)
    other = clip_trainer.create_model(name).eval()
    save_weights(other.state_dict(), tmp_path / "back.safetensors")
    back = open_clip.create_model(name, pretrained=str(tmp_path / "back.safetensors")).eval()
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in other.state_dict().items())


def compare(ours, theirs):
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            close(ours[key], theirs[key])
        return
    assert isinstance(ours, tuple)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_exported_folder_is_a_model_of_both(open_clip, configs, tmp_path, name):
    source = clip_trainer.create_model(name, force_preprocess_cfg={"mean": (0.4,) * 3, "resize_mode": "squash"}).eval()
    save_weights(source.state_dict(), tmp_path / "open_clip_model.safetensors")
    preprocess = source.visual.preprocess_cfg
    content = {"model_cfg": open_clip_config(source.config)["model_cfg"], "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    theirs, preprocess_theirs = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    ours, preprocess_ours = clip_trainer.create_model_from_pretrained(f"local-dir:{tmp_path}")
    image, text = inputs(CONFIGS[name])
    with torch.no_grad():
        compare(ours.eval()(image, text), theirs.eval()(image, text))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8))
    close(preprocess_ours(picture), preprocess_theirs(picture), 1e-6)
    tokenizers = [module.get_tokenizer(f"local-dir:{tmp_path}") for module in (clip_trainer, open_clip)]
    assert torch.equal(*(tokenizer(["a photo of a cat", "x"]) for tokenizer in tokenizers))


def test_a_hub_repository_in_the_cache(open_clip, configs, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text(commit)
    source = clip_trainer.create_model("api-vit")
    save_weights(source.state_dict(), snapshot / "open_clip_model.safetensors")
    (snapshot / "open_clip_config.json").write_text(json.dumps(open_clip_config(source.config)))
    for module in (clip_trainer, open_clip):
        model = module.create_model("hf-hub:org/tiny", cache_dir=str(tmp_path))
        assert torch.equal(model.text_projection, source.text_projection)
        tokenizer = module.get_tokenizer("hf-hub:org/tiny", cache_dir=str(tmp_path))
        assert tokenizer("a").shape == (1, 77)


@pytest.mark.parametrize(
    "options",
    [
        {"force_image_size": 64},
        {"force_image_size": (32, 64)},
        {"force_context_length": 32},
        {"force_custom_text": True},
        {"force_quick_gelu": True},
        {"force_patch_dropout": 0.5},
        {"precision": "bf16"},
        {"precision": "pure_bf16"},
        {"init_logit_bias": -10, "init_logit_scale": 2.3},
        {"nonscalar_logit_scale": True},
        {"output_dict": True},
    ],
    ids=str,
)
def test_options_of_create_model(open_clip, configs, tmp_path, options):
    torch.save(open_clip.create_model("api-vit").state_dict(), tmp_path / "w.pt")
    ours, theirs = (m.create_model("api-vit", str(tmp_path / "w.pt"), **options) for m in (clip_trainer, open_clip))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert ours.state_dict()[key].dtype == value.dtype, key
        close(ours.state_dict()[key], value, 1e-6)
    assert ours.output_dict == theirs.output_dict
    assert ours.visual.preprocess_cfg == theirs.visual.preprocess_cfg
    assert ours.training == theirs.training
    if "force_patch_dropout" not in options and not options.get("precision"):
        config = {"vision_cfg": {"image_size": 32}, "text_cfg": {"context_length": ours.context_length}}
        image, text = inputs(config)
        if "force_image_size" in options:
            image = torch.randn(3, 3, *ours.visual.image_size)
        with torch.no_grad():
            compare(ours.eval()(image, text), theirs.eval()(image, text))


def usage(library, name, weights, picture):
    """The usage example of OpenCLIP's README."""
    model, _, preprocess = library.create_model_and_transforms(name, pretrained=weights)
    model.eval()
    tokenizer = library.get_tokenizer(name)

    image = preprocess(Image.open(picture)).unsqueeze(0)
    text = tokenizer(["a diagram", "a dog", "a cat"])

    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        image_features = model.encode_image(image)
        text_features = model.encode_text(text)
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        return (100.0 * image_features @ text_features.T).softmax(dim=-1)


def classification(library, name, weights, picture):
    """Zero-shot classification with OpenCLIP's prompts."""
    model, preprocess = library.create_model_from_pretrained(name, weights, return_transform=True)
    model.eval()
    classifier = library.build_zero_shot_classifier(
        model,
        tokenizer=library.get_tokenizer(name),
        classnames=library.IMAGENET_CLASSNAMES[:6],
        templates=library.SIMPLE_IMAGENET_TEMPLATES,
        num_classes_per_batch=4,
        device="cpu",
    )
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.open(picture)).unsqueeze(0), normalize=True)
    return 100 * image @ classifier


def fine_tuning(library, name, weights, picture):
    """A few steps with the library's loss; the loss after each."""
    model, _, preprocess = library.create_model_and_transforms(name, weights, output_dict=True)
    loss_of = library.ClipLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    image = preprocess(Image.open(picture)).unsqueeze(0)
    images, text = torch.cat([image, -image, image.flip(3)]), library.tokenize(["a", "b", "c"])
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        out = model(images, text)
        loss = loss_of(**out, output_dict=True)["contrastive_loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("program", [usage, classification, fine_tuning])
@pytest.mark.parametrize("name", ["api-vit", "api-quick", "api-resnet", "api-custom"])
def test_programs_written_for_the_oracle_run_after_changing_the_import(open_clip, configs, tmp_path, program, name):
    torch.manual_seed(5)
    torch.save(filled(open_clip.create_model(name)).state_dict(), tmp_path / "w.pt")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 45, 3), dtype=np.uint8)).save(picture)
    ours, theirs = (program(library, name, str(tmp_path / "w.pt"), picture) for library in (clip_trainer, open_clip))
    close(ours, theirs, 2e-4)
    assert ours.shape == theirs.shape


def test_a_caption_as_in_the_readme(configs, tmp_path):
    """The oracle's own `generate` does not run with the version of transformers installed here."""
    model, _, transform = clip_trainer.create_model_and_transforms("coca-api")
    image = transform(Image.new("RGB", (40, 30), "red")).unsqueeze(0)
    with torch.no_grad():
        generated = model.eval().generate(image, seq_len=8)
    text = clip_trainer.decode(generated[0]).split("<end_of_text>")[0].replace("<start_of_text>", "")
    assert isinstance(text, str)


def test_errors_have_the_oracles_types(open_clip, tmp_path):
    cases = [
        lambda library: library.create_model("no-such-model"),
        lambda library: library.create_model("ViT-B-32", pretrained="no_such_tag"),
        lambda library: library.create_model("local-dir:" + str(tmp_path / "none")),
        lambda library: library.create_model("local-dir:"),
        lambda library: library.create_model("local-dir:" + str(tmp_path)),
        lambda library: library.create_model("ViT-tiny-none", require_pretrained=True),
    ]
    for case in cases:
        with pytest.raises((RuntimeError, OSError, ValueError)) as theirs:
            case(open_clip)
        with pytest.raises(theirs.type):
            case(clip_trainer)
