"""Optimisers by name: the right class, the right arguments, and clear words about everything else."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from clip_trainer.optim import GroupRules, OptimizerSettings, build_optimizer, optimizer_names
from clip_trainer.optim.muon import Together
from clipctl.contract.errors import SpecError

NO_DECAY = GroupRules(0.0)


def build(name, rules=NO_DECAY, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    return model, build_optimizer(model, rules, OptimizerSettings(name, **settings))


def step(model, optimizer):
    optimizer.zero_grad(set_to_none=True)
    (model(torch.arange(8.0).reshape(2, 4) ** 1.5) * torch.tensor([1.0, -2.0, 5.0])).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimiser_of_torch_trains(name):
    model, optimizer = build(name, GroupRules(0.0 if name == "rprop" else 0.1), lr=0.01)
    before = [p.clone() for p in model.parameters()]
    step(model, optimizer)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert sorted(n for g in optimizer.param_groups for n in g["names"]) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert {g["lr_scale"] for g in optimizer.param_groups} == {1.0}


@pytest.mark.parametrize("name", ["adam", "sgd", "nadam", "rmsprop", "adafactor"])
def test_the_arithmetic_is_torchs(name):
    model, optimizer = build(name, lr=0.01, options={"maximize": False})
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    cls = {"adam": "Adam", "sgd": "SGD", "nadam": "NAdam", "rmsprop": "RMSprop", "adafactor": "Adafactor"}[name]
    adam = {"betas": (0.9, 0.98), "eps": 1e-6} if name in ("adam", "nadam") else {}
    theirs = getattr(torch.optim, cls)(other.parameters(), lr=0.01, weight_decay=0.0, **adam)
    for _ in range(3):
        step(model, optimizer)
        step(other, theirs)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_names_are_those_that_can_work():
    assert {"adamw", "sgd", "nadam", "adafactor", "muon"} <= set(optimizer_names())
    assert not {"lbfgs", "sparseadam", "optimizer"} & set(optimizer_names())


@pytest.mark.parametrize(
    ("model_name", "settings", "expected"),
    [
        ("ViT-B-32", {}, ((0.9, 0.98), 1e-6)),
        ("RN50", {}, ((0.9, 0.999), 1e-8)),
        ("RN50", {"beta1": 0.5}, ((0.5, 0.999), 1e-8)),
        ("RN50", {"beta2": 0.5, "eps": 1e-3}, ((0.9, 0.5), 1e-3)),
    ],
)
@pytest.mark.parametrize("name", ["adamw", "nadam"])
def test_relatives_of_adam_have_openclips_defaults(name, model_name, settings, expected):
    _, optimizer = build(name, model_name=model_name, **settings)
    assert {(g["betas"], g["eps"]) for g in optimizer.param_groups} == {expected}


def test_others_keep_their_own_defaults():
    assert build("rmsprop")[1].param_groups[0]["eps"] == 1e-8
    assert build("sgd")[1].param_groups[0]["momentum"] == 0
    assert build("sgd", momentum=0.9, options={"nesterov": True})[1].param_groups[0]["nesterov"] is True


@pytest.mark.parametrize(
    ("name", "settings", "problem", "hint"),
    [
        ("adamw2", {}, "There is no optimiser called 'adamw2'.", "Did you mean adamw?"),
        ("lbfgs", {}, "There is no optimiser called 'lbfgs'.", "Known: adadelta"),
        ("adamw", {"options": {"amsgrat": True}}, "takes no option 'amsgrat'", "Did you mean amsgrad?"),
        ("adamw", {"options": {"lr": 1.0}}, "optimizer_options.lr has a field of its own", "train.learning_rate"),
        ("adamw", {"options": {"betas": 1.0}}, "has a field of its own", "train.beta1 and train.beta2"),
        ("adamw", {"momentum": 0.9}, "train.optimizer adamw has no momentum", "Remove train.momentum"),
        ("sgd", {"beta1": 0.9}, "train.optimizer sgd has no betas", "train.beta1"),
        ("sgd", {"eps": 1e-6}, "train.optimizer sgd has no eps", "train.eps"),
        ("adafactor", {"eps": 1e-6}, "no single eps", "train.eps"),
        ("sgd", {"options": {"nesterov": True}}, "Nesterov momentum requires a momentum", "documentation"),
    ],
)
def test_mistakes_are_named_with_a_remedy(name, settings, problem, hint):
    with pytest.raises(SpecError) as caught:
        build(name, **settings)
    assert problem in caught.value.problem
    assert hint in caught.value.hint


def test_an_optimiser_without_weight_decay_says_so():
    with pytest.raises(SpecError, match="rprop has no weight decay"):
        build("rprop", GroupRules(0.2))


def test_a_model_without_trainable_parameters():
    with pytest.raises(SpecError, match="no parameter of the model is trained"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), NO_DECAY, OptimizerSettings())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(5, 4)
        self.mlp = nn.Linear(4, 4)
        self.text_projection = nn.Parameter(torch.ones(4, 2))

    def forward(self, x):
        return self.mlp(self.token_embedding(x)) @ self.text_projection


class TestMuon:
    def build(self, **settings):
        torch.manual_seed(0)
        model = Block()
        return model, build_optimizer(model, GroupRules(0.1), OptimizerSettings("muon", **settings))

    def groups(self, optimizer):
        return {name: group for group in optimizer.param_groups for name in group["names"]}

    def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw(self):
        model, optimizer = self.build(beta2=0.7, momentum=0.8)
        assert isinstance(optimizer, Together)
        groups = self.groups(optimizer)
        assert sorted(groups) == sorted(name for name, _ in model.named_parameters())
        assert {name for name, group in groups.items() if "ns_steps" in group} == {"mlp.weight"}
        assert groups["mlp.weight"]["momentum"] == 0.8
        assert groups["mlp.weight"]["adjust_lr_fn"] == "match_rms_adamw"
        assert groups["text_projection"]["betas"] == (0.9, 0.7)
        assert (groups["text_projection"]["weight_decay"], groups["mlp.bias"]["weight_decay"]) == (0.1, 0.0)

    def test_it_learns_and_keeps_one_state(self):
        model, optimizer = self.build(lr=0.05)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(torch.arange(5)).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2
        assert set(optimizer.state[model.mlp.weight]) == {"momentum_buffer"}
        assert set(optimizer.state[model.text_projection]) == {"step", "exp_avg", "exp_avg_sq"}

    def test_options_are_for_muon(self):
        assert self.groups(self.build(options={"ns_steps": 3})[1])["mlp.weight"]["ns_steps"] == 3
        with pytest.raises(SpecError, match="muon takes no option 'amsgrad'"):
            self.build(options={"amsgrad": True})

    def test_a_model_without_hidden_matrices(self):
        _, optimizer = build("muon", GroupRules(0.1))
        assert len(optimizer.parts) == 2
        norm = nn.LayerNorm(3)
        assert len(build_optimizer(norm, NO_DECAY, OptimizerSettings("muon")).parts) == 1


WITHOUT_DYNAMO = """
import sys
import torch
from clip_trainer.optim import GroupRules, OptimizerSettings, build_optimizer

model = torch.nn.Linear(3, 2)
for name in ("adamw", "sgd", "nadam", "muon", "adafactor"):
    optimizer = build_optimizer(model, GroupRules(0.1), OptimizerSettings(name))
    optimizer.zero_grad(set_to_none=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
print("torch._dynamo" in sys.modules, "timm" in sys.modules)
"""


def test_neither_the_compiler_nor_timm_is_imported():
    done = subprocess.run([sys.executable, "-c", WITHOUT_DYNAMO], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
