"""What a process does before others wait for it."""

from types import SimpleNamespace

import pytest

from clip_trainer.train import prepare as module


@pytest.mark.parametrize(
    ("parallel", "more"), [("ddp", []), ("fsdp", ["clip_trainer.parallel.sharded", "torch._dynamo"])]
)
def test_what_torch_imports_late_is_imported_before_the_group_forms(parallel, more, monkeypatch):
    def stop(root):
        raise RuntimeError(root)

    imported = []
    monkeypatch.setattr(module, "open_store", stop)
    monkeypatch.setattr(module, "importlib", SimpleNamespace(import_module=imported.append))
    spec = SimpleNamespace(root="root", train=SimpleNamespace(parallel=parallel))
    with pytest.raises(RuntimeError, match="root"):
        module.prepare(SimpleNamespace(spec=spec), None)
    assert imported == ["torch.fx.experimental.symbolic_shapes", *more]
