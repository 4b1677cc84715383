"""Training checkpoints in OpenCLIP's form: read by us, written by us without torch, and the same numbers either way."""

import inspect
import io

import pytest
import torch

from clip_trainer.checkpoint import optimizer_state
from clip_trainer.model import ClipConfig, create_model
from clip_trainer.model.interchange import open_clip_config, to_bytes
from clip_trainer.optim import GroupRules, OptimizerSettings, build_optimizer
from clip_trainer.optim.eager import eager
from clip_trainer.weights.activation import ActivationMismatch
from clip_trainer.weights.load import WeightsMismatch
from clip_trainer.weights.training_checkpoint import Position, describe, parameter_order, resume
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, SpecError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore
from clipctl.exporttraining import export_training

CONFIG = ClipConfig.from_dict(
    {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
    },
    "small",
)


def ours(seed=0, lr=1e-3, name="adamw", **changes):
    model = create_model(CONFIG.model_copy(update=changes), seed=seed)
    rules = GroupRules(weight_decay=0.2, decay_rule="modern")
    return model, build_optimizer(model, rules, OptimizerSettings(name=name, lr=lr, model_name="ViT"))


def theirs(model, lr=1e-3):
    """AdamW as OpenCLIP's training program makes it."""
    by_name = dict(model.named_parameters())
    undecayed, decayed = ([by_name[name] for name in group] for group in parameter_order(model))
    groups = [{"params": undecayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    return eager(torch.optim.AdamW)(groups, fused=True, lr=lr, betas=(0.9, 0.98), eps=1e-6)


def restored(optimizer, saved):
    """`optimizer.load_state_dict(saved)` without the wrapper that imports the compiler (5 s)."""
    inspect.unwrap(type(optimizer).load_state_dict)(optimizer, saved)


def moments(model, draw=11):
    """The state of an OpenCLIP optimiser after 5 steps, with invented numbers."""
    torch.manual_seed(draw)
    parameters = dict(model.named_parameters())
    names = [name for group in parameter_order(model) for name in group]
    state = {
        number: {
            "step": torch.tensor(5.0),
            "exp_avg": torch.randn_like(parameters[name]),
            "exp_avg_sq": torch.rand_like(parameters[name]),
        }
        for number, name in enumerate(names)
    }
    first = len(parameter_order(model)[0])
    numbers = list(range(len(names)))
    shared = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-6}
    groups = [
        {**shared, "weight_decay": 0.0, "params": numbers[:first]},
        {**shared, "weight_decay": 0.2, "params": numbers[first:]},
    ]
    return names, {"state": state, "param_groups": groups}


def write(path, model, saved, **changes):
    content = {"epoch": 2, "name": "x", "state_dict": model.state_dict(), "optimizer": saved, **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_the_order_is_undecayed_then_decayed_as_in_the_model():
    model, _ = ours()
    undecayed, decayed = parameter_order(model)
    every = [name for name, _ in model.named_parameters()]
    assert [name for name in every if name in set(undecayed)] == undecayed
    assert [name for name in every if name in set(decayed)] == decayed
    assert "logit_scale" in undecayed
    assert "visual.ln_pre.weight" in undecayed
    assert {"positional_embedding", "visual.conv1.weight", "token_embedding.weight"} <= set(decayed)
    model.visual.requires_grad_(False)
    assert not any(name.startswith("visual") for group in parameter_order(model) for name in group)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_moments_and_position_are_taken_over(tmp_path, prefix):
    source, _ = ours(seed=1)
    names, saved = moments(source)
    prefixed = {prefix + key: value for key, value in source.state_dict().items()}
    path = write(tmp_path / "epoch_2.pt", source, saved, state_dict=prefixed)
    model, optimizer = ours(seed=2)  # with another grouping: the modern rule
    assert resume(path, model, optimizer) == Position(epoch=2, step=5)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    parameters = dict(model.named_parameters())
    for number, name in enumerate(names):
        state = optimizer.state[parameters[name]]
        assert state["step"].item() == 5
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[moment], saved["state"][number][moment]), name


def test_the_next_step_is_the_one_the_other_program_would_do(tmp_path):
    source, _ = ours(seed=1)
    _, saved = moments(source)
    path = write(tmp_path / "epoch_2.pt", source, saved)
    mine, my_optimizer = ours(seed=2)
    resume(path, mine, my_optimizer)
    other, _ = ours(seed=3)
    other.load_state_dict(source.state_dict())
    their_optimizer = theirs(other)
    restored(their_optimizer, saved)
    for model, optimizer in ((mine, my_optimizer), (other, their_optimizer)):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    for name, value in mine.named_parameters():
        if "embedding" not in name:  # the modern rule does not decay these
            torch.testing.assert_close(value, other.get_parameter(name), rtol=1e-6, atol=1e-7)


def test_parameters_that_never_had_a_gradient_start_at_zero(tmp_path):
    source, _ = ours(seed=1)
    names, saved = moments(source)
    del saved["state"][3]
    model, optimizer = ours()
    resume(write(tmp_path / "w.pt", source, saved), model, optimizer)
    state = optimizer.state[model.get_parameter(names[3])]
    assert (state["exp_avg"].abs().sum(), state["step"]) == (0, 5)


@pytest.mark.parametrize("changes", [{"epoch": None}, {"optimizer": None}])
def test_weights_alone_start_at_the_beginning(tmp_path, changes):
    source, _ = ours(seed=1)
    model, optimizer = ours(seed=2)
    position = resume(write(tmp_path / "w.pt", source, {}, **changes), model, optimizer)
    assert (position.epoch, position.step) == (0, 0)
    assert torch.equal(model.visual.proj, source.visual.proj)
    torch.save(source.state_dict(), tmp_path / "bare.pt")
    assert resume(tmp_path / "bare.pt", *ours(seed=2)).step == 0
    assert not optimizer.state


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda saved: saved["param_groups"].pop(), "groups of"),
        (lambda saved: saved["param_groups"][0]["params"].pop(), "groups of"),
        (lambda saved: saved["state"][0].update(exp_avg=torch.zeros(3, 3, 3)), "has shape"),
        (lambda saved: saved.pop("state"), "unknown form"),
        (lambda saved: saved.pop("param_groups"), "unknown form"),
    ],
)
def test_optimiser_state_that_does_not_fit(tmp_path, damage, problem):
    source, _ = ours(seed=1)
    _, saved = moments(source)
    damage(saved)
    with pytest.raises(CorruptError, match=problem):
        resume(write(tmp_path / "w.pt", source, saved), *ours())


def test_another_architecture(tmp_path):
    source = create_model("ViT-tiny-4-32")
    with pytest.raises(WeightsMismatch):
        resume(write(tmp_path / "w.pt", source, moments(source)[1]), *ours())


def test_another_optimiser(tmp_path):
    source, _ = ours(seed=1)
    path = write(tmp_path / "w.pt", source, moments(source)[1])
    with pytest.raises(SpecError, match="state of AdamW"):
        resume(path, *ours(name="sgd"))


def test_files_that_are_none(tmp_path):
    with pytest.raises(MissingError):
        resume(tmp_path / "none.pt", *ours())
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(CorruptError, match="no training checkpoint"):
        resume(tmp_path / "list.pt", *ours())
    torch.save({"state_dict": {}, "optimizer": print}, tmp_path / "unsafe.pt")
    with pytest.raises(CorruptError, match="could run code"):
        resume(tmp_path / "unsafe.pt", *ours())


def test_the_other_activation(tmp_path):
    source, _ = ours(seed=1)
    path = write(tmp_path / "w.pt", source, moments(source)[1], quick_gelu=True)
    with pytest.raises(ActivationMismatch):
        resume(path, *ours())
    assert resume(path, *ours(), check_quick_gelu=False).step == 5
    assert resume(path, *ours(quick_gelu=True)).step == 5


@pytest.fixture
def stored(tmp_path):
    """A checkpoint of ours in a store, in two shards, and what it was made of."""
    model, optimizer = ours(seed=4)
    resume(write(tmp_path / "start.pt", model, moments(model)[1]), model, optimizer)
    store, checkpoint = LocalStore(tmp_path / "run"), CheckpointId(5, 1)
    collected = optimizer_state.collect(optimizer, "adamw")
    parts = {"weights": dict(model.state_dict()), "optimizer": collected.tensors, "average": {"x": torch.zeros(2)}}
    state = {
        "train": {"step": 5},
        "run": "demo",
        "optimizer": collected.numbers,
        "open_clip_config": open_clip_config(model.config),
        "open_clip_training": {**describe(model, optimizer), "epochs": 2.5},
    }

    def commit(**changes):
        objects = []
        for part, content in parts.items():
            for rank in (0, 1):
                share = {name: content[name] for name in sorted(content)[rank::2]}
                data = to_bytes(share)
                objects.append(StoredObject.of(f"{part}-0000{rank}-of-00002.safetensors", data))
                store.write(layout.checkpoint_prefix(checkpoint) + objects[-1].name, data)
        manifest = Manifest(tuple(objects), {k: v for k, v in (state | changes).items() if v is not None}).to_bytes()
        store.write(f"{layout.checkpoint_prefix(checkpoint)}manifest.json", manifest)
        record = CommitRecord(
            run="demo", step=5, incarnation=1, attempt=1, samples_consumed=60, world_size=2, spec_digest="d",
            manifest_sha256=sha256_hex(manifest), bytes_total=sum(o.size for o in objects), training_digest="t",
            parent=None, created_at=1.0, writer="test",
        )  # fmt: skip
        store.create(layout.commit_key(checkpoint), record.to_bytes())
        return store, checkpoint

    return commit, model, optimizer


def test_an_export_is_what_the_other_program_saves(stored, tmp_path):
    commit, model, optimizer = stored
    path, epochs = export_training(*commit(), str(tmp_path / "out"))
    assert (path.name, epochs) == ("epoch_2.pt", 2.5)
    content = torch.load(path, weights_only=True)
    assert (content["epoch"], content["name"], content["quick_gelu"]) == (2, "demo", False)
    assert content["state_dict"].keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in content["state_dict"].items())
    reader, _ = ours(seed=9)
    loaded = theirs(reader)
    expected_keys = set(loaded.param_groups[0])
    restored(loaded, content["optimizer"])
    assert set(loaded.param_groups[0]) == expected_keys
    by_name = dict(model.named_parameters())
    for name, parameter in reader.named_parameters():
        mine, other = optimizer.state[by_name[name]], loaded.state[parameter]
        assert set(other) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[key].cpu(), other[key]) for key in other), name


def test_what_is_exported_is_taken_over_again(stored, tmp_path):
    commit, model, optimizer = stored
    path, _ = export_training(*commit(), str(tmp_path / "out"))
    other, other_optimizer = ours(seed=5)
    assert resume(path, other, other_optimizer).step == 5
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))
        mine, back = optimizer.state[parameter], other_optimizer.state[other.get_parameter(name)]
        assert torch.equal(mine["exp_avg_sq"], back["exp_avg_sq"])


def test_the_activation_goes_along(stored, tmp_path):
    commit, model, _ = stored
    config = open_clip_config(model.config.model_copy(update={"quick_gelu": True}))
    path, _ = export_training(*commit(open_clip_config=config), str(tmp_path / "out"))
    with pytest.raises(ActivationMismatch):
        resume(path, *ours())


def test_exports_that_cannot_be(stored, tmp_path):
    commit, _, _ = stored
    store, checkpoint = commit()
    export_training(store, checkpoint, str(tmp_path / "out"))
    with pytest.raises(CannotCreateError, match="exists already"):
        export_training(store, checkpoint, str(tmp_path / "out"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError, match="cannot write"):
        export_training(store, checkpoint, str(tmp_path / "file"))
    key = f"{layout.checkpoint_prefix(checkpoint)}weights-00000-of-00002.safetensors"
    store.write(key, store.read(key)[:-1] + b"x")
    with pytest.raises(CorruptError):
        export_training(store, checkpoint, str(tmp_path / "other"))


def test_a_parameter_without_a_gradient_has_no_state(stored, tmp_path):
    commit, model, optimizer = stored
    del optimizer.state[model.get_parameter("ln_final.weight")]
    numbers = optimizer_state.collect(optimizer, "adamw").numbers
    path, _ = export_training(*commit(optimizer=numbers), str(tmp_path / "out"))
    saved = torch.load(path, weights_only=True)["optimizer"]
    parameters = len(list(model.parameters()))
    assert sum(len(group["params"]) for group in saved["param_groups"]) == parameters
    names = [name for group in parameter_order(model) for name in group]
    assert "step" not in saved["state"].get(names.index("ln_final.weight"), {})


def test_other_optimisers_have_no_form_there(stored, tmp_path):
    commit, _, _ = stored
    assert describe(*ours(name="sgd")) is None
    with pytest.raises(SpecError, match="no form for the optimiser state"):
        export_training(*commit(open_clip_training=None), str(tmp_path / "out"))


def test_the_command(stored, tmp_path, capsys):
    from clipctl.cli import main

    commit, _, _ = stored
    commit()
    arguments = ["checkpoints", "export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "open-clip"]
    assert main(arguments) == 0
    out = capsys.readouterr()
    assert "epoch_2.pt" in out.out
    assert "epoch 2.50; OpenCLIP continues at the start of epoch 2" in out.err
    assert torch.load(io.BytesIO((tmp_path / "out" / "epoch_2.pt").read_bytes()), weights_only=True)["epoch"] == 2
