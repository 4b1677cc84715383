"""What a process does before others wait for it."""

from types import SimpleNamespace

import pytest

from clip_trainer.train import prepare as module


def test_what_torch_imports_in_its_first_backward_pass_is_imported_before_the_group_forms(monkeypatch):
    def stop(root):
        raise RuntimeError(root)

    imported = []
    monkeypatch.setattr(module, "open_store", stop)
    monkeypatch.setattr(module, "importlib", SimpleNamespace(import_module=imported.append))
    with pytest.raises(RuntimeError, match="root"):
        module.prepare(SimpleNamespace(spec=SimpleNamespace(root="root")), None)
    assert imported == ["torch.fx.experimental.symbolic_shapes"]
