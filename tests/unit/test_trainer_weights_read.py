"""Every format weights come in, and the forms that differ only in name or shape."""

import json
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

from clip_trainer.model import ClipConfig
from clip_trainer.weights.activation import ActivationMismatch, check_activation, recorded_beside
from clip_trainer.weights.layouts import fit, to_custom_text, to_plain_text
from clip_trainer.weights.load import WeightsMismatch, load_file, load_state
from clip_trainer.weights.openai import infer_config
from clip_trainer.weights.read import Format, plain_keys, read_weights
from clip_trainer.weights.resize import resize_grid, resize_sequence
from clipctl.contract.errors import CorruptError, MissingError


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 1)

    def forward(self, x):
        return self.attn(self.ln_1(x), x, x)[0]


class Stack(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width) for _ in range(layers)))

    def forward(self, x):
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self, grid=(2, 2), width=64):
        super().__init__()
        self.grid_size = grid
        self.conv1 = nn.Conv2d(3, width, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(grid[0] * grid[1] + 1, width))
        self.transformer = Stack(width, 3)
        self.proj = nn.Parameter(torch.randn(width, 32))

    def forward(self, image):
        x = self.conv1(image).flatten(2).transpose(1, 2) + self.positional_embedding[1:] + self.class_embedding
        return self.transformer(x).mean(1) @ self.proj


class TinyClip(nn.Module):
    """The module tree of OpenAI's CLIP, a little."""

    def __init__(self, context=7, grid=(2, 2), *, bias=False, scalar=()):
        super().__init__()
        self.visual = Visual(grid)
        self.transformer = Stack(128, 2)
        self.token_embedding = nn.Embedding(50, 128)
        self.positional_embedding = nn.Parameter(torch.randn(context, 128))
        self.ln_final = nn.LayerNorm(128)
        self.text_projection = nn.Parameter(torch.randn(128, 32))
        self.logit_scale = nn.Parameter(torch.full(scalar, 2.5))
        if bias:
            self.logit_bias = nn.Parameter(torch.full(scalar, -10.0))

    def forward(self, image, text):
        x = self.transformer(self.token_embedding(text).to(image.dtype) + self.positional_embedding)
        return self.visual(image) @ (self.ln_final(x)[:, 0] @ self.text_projection).T * self.logit_scale.exp()


class OpenAiClip(TinyClip):
    """With the three numbers that OpenAI's archives keep among the weights."""

    def __init__(self):
        super().__init__()
        for name, value in (("input_resolution", 16), ("context_length", 7), ("vocab_size", 50)):
            self.register_buffer(name, torch.tensor(value))


class CustomTextClip(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        inner = TinyClip()
        self.visual = inner.visual
        self.text = inner
        del inner.visual
        scale = inner.logit_scale.detach()
        del inner.logit_scale
        self.logit_scale = nn.Parameter(scale)
        if bias:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key]) or a[key].dtype != b[key].dtype] == []


def archive(model, path, *, how):
    """Save as TorchScript; its deprecation warnings are not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = (torch.randn(1, 3, 16, 16, dtype=model.visual.proj.dtype), torch.zeros(1, 7, dtype=torch.int64))
        torch.jit.save(torch.jit.script(model) if how == "script" else torch.jit.trace(model, inputs), path)
    return path


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    return TinyClip()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors", ""])
def test_formats(net, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path)
    assert_equal(read_weights(path).state_dict, net.state_dict())
    assert read_weights(path).quick_gelu is None


def test_a_safetensors_file_without_its_ending(net, tmp_path):
    safetensors.torch.save_file(net.state_dict(), tmp_path / "blob")
    read = read_weights(tmp_path / "blob")
    assert read.format is Format.SAFETENSORS
    assert_equal(read.state_dict, net.state_dict())


def test_a_training_checkpoint(net, tmp_path):
    moments = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    prefixed = {f"module.{key}": value for key, value in net.state_dict().items()}
    content = {"epoch": 3, "name": "x", "state_dict": prefixed, "optimizer": moments}
    torch.save(content, tmp_path / "epoch_3.pt")
    assert_equal(read_weights(tmp_path / "epoch_3.pt").state_dict, net.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", ""])
def test_prefixes(net, prefix):
    state = net.state_dict()
    assert_equal(plain_keys({prefix + key: value for key, value in state.items()}), state)


def test_a_prefix_that_only_some_names_have_is_part_of_them():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert plain_keys(state).keys() == state.keys()


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_openai_archives(tmp_path, how, dtype):
    torch.manual_seed(2)
    model = OpenAiClip().to(dtype)
    read = read_weights(archive(model, tmp_path / "ViT.pt", how=how))
    names = ("input_resolution", "context_length", "vocab_size")
    expected = {key: value.float() for key, value in model.state_dict().items() if key not in names}
    assert_equal(read.state_dict, expected)
    assert (read.format, read.quick_gelu) == (Format.TORCHSCRIPT, True)
    fresh = TinyClip()
    load_file(fresh, tmp_path / "ViT.pt")
    assert_equal(fresh.state_dict(), expected)


def test_openai_state_dicts_without_torchscript(tmp_path):
    model = OpenAiClip().half()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt")
    assert read.quick_gelu is True
    assert "vocab_size" not in read.state_dict
    assert {value.dtype for value in read.state_dict.values()} == {torch.float32}


def test_other_archives_do_not_claim_an_activation(net, tmp_path):
    assert read_weights(archive(net, tmp_path / "m.pt", how="script")).quick_gelu is None


def test_the_configuration_of_an_openai_vit():
    config = infer_config(TinyClip().state_dict())
    assert config == {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 16, "layers": 3, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 7, "vocab_size": 50, "width": 128, "heads": 2, "layers": 2},
        "quick_gelu": True,
    }
    assert ClipConfig.from_dict(config, "x").vision.kind == "vit"


def test_the_configuration_of_an_openai_resnet():
    state = {key: value for key, value in TinyClip().state_dict().items() if not key.startswith("visual.")}
    for stage, blocks in enumerate([3, 4, 6, 3], 1):
        for block in range(blocks):
            state[f"visual.layer{stage}.{block}.conv1.weight"] = torch.zeros(8 * stage, 1)
            state[f"visual.layer{stage}.{block}.bn1.weight"] = torch.zeros(1)
    state["visual.attnpool.positional_embedding"] = torch.zeros(7 * 7 + 1, 4)
    config = infer_config(state)
    assert config["vision_cfg"] == {"image_size": 224, "layers": [3, 4, 6, 3], "width": 8, "patch_size": None}
    assert ClipConfig.from_dict(config, "x").vision.kind == "resnet"


def test_the_configuration_of_something_else():
    with pytest.raises(CorruptError, match=r"visual\.attnpool"):
        infer_config({"a": torch.zeros(1)})


def test_a_text_tower_moves_below_text_and_back(net):
    custom = CustomTextClip()
    load_state(custom, net.state_dict())
    assert_equal(to_plain_text(custom.state_dict()), dict(net.state_dict()))
    other = TinyClip()
    load_state(other, custom.state_dict())
    assert_equal(other.state_dict(), net.state_dict())
    assert_equal(to_custom_text(net.state_dict()), custom.state_dict())


def test_only_what_is_text_moves():
    state = {"visual.transformer.x": 1, "logit_scale": 2, "transformer.x": 3, "transformers": 4}
    assert list(to_custom_text(state)) == ["visual.transformer.x", "logit_scale", "text.transformer.x", "transformers"]
    assert list(to_plain_text({"text.proj.0.weight": 1, "text.ln_final.bias": 2})) == [
        "text.proj.0.weight",
        "ln_final.bias",
    ]


@pytest.mark.parametrize("given", [(), (1,)])
@pytest.mark.parametrize("wanted", [(), (1,)])
def test_scalars_between_0_and_1_dimensions(given, wanted):
    source, target = TinyClip(bias=True, scalar=given), TinyClip(bias=True, scalar=wanted)
    nn.init.constant_(source.logit_scale, 1.25)
    nn.init.constant_(source.logit_bias, -3.5)
    load_state(target, source.state_dict())
    assert (target.logit_scale.shape, target.logit_bias.shape) == (wanted, wanted)
    assert (target.logit_scale.item(), target.logit_bias.item()) == (1.25, -3.5)


def test_a_missing_bias_starts_at_zero(net):
    target = TinyClip(bias=True)
    load_state(target, net.state_dict())
    assert target.logit_bias.item() == 0


def test_position_ids_of_old_transformers_are_left_out(net):
    state = {**net.state_dict(), "text.transformer.embeddings.position_ids": torch.zeros(3)}
    assert "text.transformer.embeddings.position_ids" not in fit(state, net)


@pytest.mark.parametrize("grid", [(4, 4), (1, 1), (3, 2), (2, 5)])
def test_patch_positions_for_another_image_size(net, grid):
    target = TinyClip(grid=grid)
    load_state(target, net.state_dict())
    old, new = net.visual.positional_embedding, target.visual.positional_embedding
    assert torch.equal(new[0], old[0])
    assert torch.equal(new, resize_grid(old, grid))


@pytest.mark.parametrize("context", [3, 7, 20])
def test_text_positions_for_another_context(net, context):
    target = TinyClip(context)
    load_state(target, net.state_dict())
    assert torch.equal(target.positional_embedding, resize_sequence(net.positional_embedding, context))


def test_resizing_keeps_what_is_constant_and_the_type():
    table = torch.full((10, 4), 3.0, dtype=torch.float16)
    assert torch.equal(resize_grid(table, (5, 5)), torch.full((26, 4), 3.0, dtype=torch.float16))
    assert torch.equal(resize_sequence(table, 6), torch.full((6, 4), 3.0, dtype=torch.float16))


def test_resizing_keeps_a_slope():
    line = torch.arange(8.0)[:, None]
    assert resize_sequence(line, 4)[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]


def test_positions_that_are_no_square_are_refused():
    with pytest.raises(CorruptError, match=r"6 position embeddings .* not a square"):
        resize_grid(torch.zeros(7, 4), (2, 2))


def test_the_same_size_is_not_touched():
    table = torch.randn(7, 4)
    assert resize_grid(table, (2, 3)) is table


def test_misfits_are_named_and_change_nothing(net):
    target = TinyClip()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {**net.state_dict(), "extra": torch.zeros(1), "ln_final.bias": torch.zeros(3)}
    del state["ln_final.weight"]
    with pytest.raises(WeightsMismatch) as caught:
        load_state(target, state, source="a.pt")
    for part in ("a.pt", "missing: ln_final.weight", "unexpected: extra", "ln_final.bias [3] instead of [128]"):
        assert part in caught.value.problem
    assert isinstance(caught.value, RuntimeError)  # what torch raises
    assert_equal(target.state_dict(), before)


def test_loading_that_is_not_strict_says_what_it_left_out(net):
    state = {**net.state_dict(), "extra": torch.zeros(1)}
    del state["ln_final.weight"]
    missing, unexpected = load_state(TinyClip(), state, strict=False)
    assert (missing, unexpected) == (["ln_final.weight"], ["extra"])


def test_many_misfits_are_counted(net):
    with pytest.raises(WeightsMismatch, match=r"missing: .* and \d+ more"):
        load_state(net, {})


def test_a_missing_file(net, tmp_path):
    for name in ("none.pt", "none.safetensors", "none.npz"):
        with pytest.raises(MissingError, match="no weights"):
            load_file(net, tmp_path / name)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.npz", "w.npy"])
@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 40])
def test_damaged_files(net, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorruptError):
        load_file(net, tmp_path / name)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["torch", "script", "safetensors"])
def test_truncated_files(net, tmp_path, kind, share):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "torch":
        torch.save(net.state_dict(), path)
    elif kind == "script":
        archive(net, path, how="script")
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CorruptError):
        read_weights(path)


def config(**changes):
    sizes = {"embed_dim": 32, "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64}, "text_cfg": {}}
    return ClipConfig.from_dict({**sizes, **changes}, "x")


@pytest.mark.parametrize(("recorded", "model"), [(True, False), (False, True)])
def test_the_other_activation_is_refused(recorded, model):
    with pytest.raises(ActivationMismatch, match="silently drop") as caught:
        check_activation(recorded, config(quick_gelu=model), "w.pt")
    assert f"quick_gelu={recorded}" in caught.value.hint or f"force_quick_gelu={recorded}" in caught.value.hint


@pytest.mark.parametrize(("recorded", "model"), [(True, True), (False, False), (None, True), (None, False)])
def test_the_same_or_an_unknown_activation_passes(recorded, model):
    check_activation(recorded, config(quick_gelu=model), "w.pt")


def test_towers_of_others_bring_their_activation_along():
    others = config(vision_cfg={"timm_model_name": "x"}, text_cfg={"hf_model_name": "y"}, quick_gelu=True)
    check_activation(False, others, "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("recorded", [True, False])
def test_files_say_their_activation(net, tmp_path, suffix, recorded):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": net.state_dict(), "quick_gelu": recorded}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path, {"quick_gelu": str(recorded).lower()})
    assert read_weights(path).quick_gelu is recorded


def test_a_file_for_the_other_activation_is_refused_unless_asked_for(tmp_path):
    model = TinyClip()
    model.config = config(quick_gelu=False)
    torch.save({"state_dict": model.state_dict(), "quick_gelu": True}, tmp_path / "w.pt")
    with pytest.raises(ActivationMismatch, match=r"w\.pt was trained with QuickGELU"):
        load_file(model, tmp_path / "w.pt")
    load_file(model, tmp_path / "w.pt", check_quick_gelu=False)


def test_the_configuration_beside_the_weights_counts(tmp_path):
    assert recorded_beside(tmp_path / "w.pt") is None
    for content, expected in (({"model_cfg": {"quick_gelu": True}}, True), ({"model_cfg": {}}, False), ([], None)):
        (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
        assert recorded_beside(tmp_path / "w.pt") is expected
    model = TinyClip()
    model.config = config(quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(ActivationMismatch, match="trained with GELU"):
        load_file(model, tmp_path / "w.pt")
