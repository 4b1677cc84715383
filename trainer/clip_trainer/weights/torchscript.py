"""Weights out of TorchScript archives, the form OpenAI published CLIP in, without `torch.jit` and without their code.

An archive is a zip file: `data.pkl` describes the module tree, `data/<n>` hold the bytes of the tensors, `code/` the
source of the modules (torch/csrc/jit/serialization). The description is read by an interpreter that cannot call
anything (`inert`); from the source only the two lists that name parameters and buffers are taken, as text.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from clip_trainer.weights.inert import Global, Instance, Reference, read_pickle
from clipctl.contract.errors import CorruptError

_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
_CLASS = re.compile(r"^class (\w+)\(Module\):$")
_LISTED = re.compile(r"^  __(?:parameters|buffers)__ = \[(.*)\]$")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MAX_DEPTH = 100


def is_torchscript(path: str | Path) -> bool:
    """Whether the file is a TorchScript archive (torch's own checkpoints are zip files too, without constants)."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_torchscript(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict of a TorchScript archive: all parameters and buffers, in the types they are stored in.

    Raises:
        CorruptError: the archive is damaged, or made in a way that torch never writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(_Archive(archive, str(path)).state())
    except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
        raise CorruptError(f"{path} is a damaged TorchScript archive: {error}.", hint="Fetch it again.") from None


class _Archive:
    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive = archive
        self._name = name
        self._root = archive.namelist()[0].partition("/")[0]
        self._declared: dict[str, dict[str, frozenset[str]]] = {}
        self._storages: dict[str, torch.Tensor] = {}

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._has("byteorder") and self._read("byteorder") != b"little":
            raise self._broken("it is not little-endian")
        root = read_pickle(self._read("data.pkl"), self._name)
        yield from self._tensors(root, "", 0)

    def _tensors(self, module: object, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters and buffers of a module and of those inside it, in the order they are stored."""
        if not isinstance(module, Instance) or not isinstance(module.state, dict) or depth > _MAX_DEPTH:
            raise self._broken("its description is not a tree of modules")
        declared = self._declared_tensors(module.of)
        modules = []
        for name, value in module.state.items():
            if isinstance(value, Instance) and value.of == _REBUILD:
                if declared is None or name in declared:
                    yield prefix + name, self._tensor(value)
            elif isinstance(value, Instance) and value.of.module.startswith("__torch__"):
                modules.append((f"{prefix}{name}.", value))
        for below, inner in modules:
            yield from self._tensors(inner, below, depth + 1)

    def _declared_tensors(self, of: Global) -> frozenset[str] | None:
        """Names of the parameters and buffers of a class; None where the archive does not say."""
        source = f"code/{of.module.replace('.', '/')}.py"
        if source not in self._declared:
            text = self._read(source).decode() if self._has(source) else ""
            self._declared[source] = dict(_classes(text))
        return self._declared[source].get(of.name)

    def _tensor(self, built: Instance) -> torch.Tensor:
        try:
            reference, offset, size, stride = built.arguments[:4]
            storage = self._storage(reference)
            needed = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if math.prod(size) else 0
            if min((offset, *size, *stride)) < 0 or offset + needed > len(storage):
                raise ValueError("a tensor lies outside of its bytes")
            return storage.as_strided(size, stride, offset)
        except (ValueError, TypeError, IndexError) as error:
            raise self._broken(str(error)) from None

    def _storage(self, reference: Any) -> torch.Tensor:
        """The bytes of one or several tensors as a flat tensor."""
        if not isinstance(reference, Reference):
            raise ValueError("a tensor without bytes")
        kind, storage_type, key, _, length = reference.value
        if kind != "storage" or storage_type.name not in _DTYPES:
            raise ValueError(f"unknown type of tensor {storage_type}")
        if key not in self._storages:
            dtype, entry = _DTYPES[storage_type.name], self._archive.getinfo(f"{self._root}/data/{key}")
            # torch never compresses tensors; a compressed one could unpack to any size.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < length * dtype.itemsize:
                raise ValueError(f"data/{key} has the wrong size")
            data = bytearray(self._archive.read(entry))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]

    def _has(self, name: str) -> bool:
        return f"{self._root}/{name}" in self._archive.NameToInfo

    def _read(self, name: str) -> bytes:
        return self._archive.read(f"{self._root}/{name}")

    def _broken(self, problem: str) -> CorruptError:
        return CorruptError(f"{self._name} is no TorchScript archive of a model: {problem}.")


def _classes(source: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Each class of a source file with the names it declares as parameters and buffers."""
    name, declared = "", set[str]()
    for line in [*source.splitlines(), "class _(Module):"]:
        if starts := _CLASS.match(line):
            if name:
                yield name, frozenset(declared)
            name, declared = starts.group(1), set()
        elif listed := _LISTED.match(line):
            declared |= {quoted.replace(r"\"", '"') for quoted in _QUOTED.findall(listed.group(1))}
