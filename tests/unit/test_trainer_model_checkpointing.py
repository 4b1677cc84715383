"""Recomputing activations changes no gradient."""

import pytest
import torch
from torch import nn

from clip_testkit import tinymodels
from clip_trainer.model import ClipConfig, create_model
from clip_trainer.model.checkpointing import recompute
from clipctl.contract.errors import SpecError

HF = ("roberta", "mt5", "m2m_100")
MODELS = {
    "vit": tinymodels.vit(),
    "custom text": tinymodels.vit(True, scale_heads=True),
    "resnet": tinymodels.resnet(),
    "coca": tinymodels.COCA,
    "timm vit": tinymodels.timm("test_vit"),
    "timm resnet": tinymodels.timm("test_resnet"),
    "timm convnext": tinymodels.timm("test_convnext", pool=""),
} | dict.fromkeys(HF)


class Counter(nn.Module):
    """Counts its forward passes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, x, *, factor=1.0):
        self.calls += 1
        return torch.tanh(x * self.weight * factor)


def gradients(model, image, text):
    model.zero_grad()
    torch.manual_seed(3)  # of dropout
    out = model(image, text)
    parts = out.values() if isinstance(out, dict) else out
    sum(part.square().sum() for part in parts if part.is_floating_point()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def make(name, tmp_path):
    data = MODELS[name] or tinymodels.hf(tinymodels.hf_folder(tmp_path / name, name))
    return create_model(ClipConfig.from_dict(data, name)).double().train()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_statistics_are_equal_on_and_off(name, tmp_path):
    model = make(name, tmp_path)
    size = 160 if name.startswith("timm") else 64 if name == "resnet" else 16
    image, text = tinymodels.images(size, rows=2), tinymodels.texts(rows=2, pad=1 if name in HF else 0)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    plain = gradients(model, image, text)
    after = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    model.set_grad_checkpointing()
    assert any(grad is not None for grad in plain.values())
    for key, grad in gradients(model, image, text).items():
        if plain[key] is None:
            assert grad is None, key
        else:
            torch.testing.assert_close(grad, plain[key], rtol=0, atol=1e-13, msg=key)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, after[key], rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", ["vit", "resnet", "coca", "roberta"])
def test_blocks_really_run_twice_until_switched_off(name, tmp_path):
    model = make(name, tmp_path)
    inside = {
        "vit": lambda: (model.visual.transformer.resblocks[0], model.transformer.resblocks[0]),
        "resnet": lambda: (model.visual.layer1[0], model.visual.layer4[0]),
        "coca": lambda: (model.text_decoder.cross_attn[1], model.text_decoder.resblocks[0]),
        "roberta": lambda: (model.text.transformer.encoder.layer[0].attention,),
    }[name]()
    calls = []
    for block in inside:
        block.register_forward_pre_hook(lambda block, *rest: calls.append(block))
    image, text = tinymodels.images(64 if name == "resnet" else 16), tinymodels.texts(pad=1)
    gradients(model, image, text)
    assert len(calls) == len(inside)
    model.set_grad_checkpointing(True)
    gradients(model, image, text)
    assert len(calls) == 3 * len(inside)
    model.set_grad_checkpointing(False)
    gradients(model, image, text)
    assert len(calls) == 4 * len(inside)


def test_one_block_runs_again_for_its_gradient():
    block = Counter()
    x = torch.ones(3, requires_grad=True)
    recompute(block, x, factor=2.0).sum().backward()
    assert block.calls == 2
    torch.testing.assert_close(x.grad, 2 * (1 - torch.tanh(torch.tensor([2.0] * 3)) ** 2))


def test_plain_call_when_disabled_or_without_gradients():
    block = Counter()
    recompute(block, torch.ones(3), enabled=False).sum().backward()
    with torch.no_grad():
        recompute(block, torch.ones(3))
    assert block.calls == 2


def test_statistics_move_once_and_go_on_moving_afterwards():
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
    x = torch.randn(4, 3, 2, 2)
    recompute(block, x).sum().backward()
    assert block[1].num_batches_tracked == 1
    assert block[1].momentum == 0.1
    batch = block[0](x).mean(dim=(0, 2, 3))
    torch.testing.assert_close(block[1].running_mean, 0.1 * batch.detach())


def test_statistics_go_on_moving_even_if_the_recomputation_fails():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            y = self.norm(x)
            if self.calls == 2:
                raise RuntimeError("again")
            return torch.tanh(y)

    block = Failing()
    with pytest.raises(RuntimeError, match="again"):
        recompute(block, torch.randn(2, 3, 2, 2, requires_grad=True)).sum().backward()
    assert block.norm.momentum == 0.1
    assert block.norm.num_batches_tracked == 1


def test_a_frozen_hugging_face_tower_does_not_run_backwards(tmp_path):
    model = make("roberta", tmp_path)
    model.set_grad_checkpointing()
    model.lock_text_tower()
    states, _ = model.text._encode(tinymodels.texts(pad=1))
    assert not states.last_hidden_state.requires_grad


def test_a_text_model_that_cannot_is_refused(tmp_path, monkeypatch):
    model = make("roberta", tmp_path)
    monkeypatch.setattr(type(model.text.transformer), "supports_gradient_checkpointing", False)
    with pytest.raises(SpecError, match="cannot recompute activations of a roberta model"):
        model.set_grad_checkpointing()


def test_a_network_that_cannot_is_refused(monkeypatch):
    model = make("timm convnext", None)

    def refuse(enable=True):
        assert not enable, "gradient checkpointing not supported"

    monkeypatch.setattr(model.visual.trunk, "set_grad_checkpointing", refuse)
    with pytest.raises(SpecError, match="cannot recompute activations of test_convnext"):
        model.set_grad_checkpointing()
