"""Files and texts that run code where a reader is careless: each would create one file, the canary.

`REAL` are those that a careless reader of the standard library or of PyYAML really runs; a test runs them, because
otherwise the others would prove nothing.
"""

from __future__ import annotations

import builtins
import gzip
import io
import json
import marshal
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class _Calls:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads(canary: Path) -> dict[str, bytes]:
    """Bytes by name; none of them may ever create `canary`."""
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    system = _Calls(os.system, shell)
    found = {f"pickle protocol {number}": pickle.dumps(system, protocol=number) for number in range(6)}
    found |= {
        "pickle eval": pickle.dumps(_Calls(builtins.eval, code)),
        "pickle exec": pickle.dumps(_Calls(builtins.exec, code)),
        "pickle subprocess": pickle.dumps(_Calls(subprocess.check_call, ["touch", str(canary)])),
        "pickle open": pickle.dumps(_Calls(builtins.open, str(canary), "w")),
        "pickle gzip": gzip.compress(pickle.dumps(system)),
        "torch file": _zip({"archive/data.pkl": pickle.dumps(system), "archive/version": b"3\n"}),
        "torch file legacy": b"".join(pickle.dumps(value, 2) for value in _legacy(system)),
        "torchscript": _zip({"m/code/__torch__.py": code.encode(), "m/data.pkl": pickle.dumps(system)}),
        "numpy object array": b"\x93NUMPY\x01\x00" + _numpy_header() + pickle.dumps(system),
        "marshal": marshal.dumps(compile(code, "x", "exec")),
        "python": f"import os\nos.system({shell!r})\n".encode(),
        "shell script": f"#!/bin/sh\n{shell}\n".encode(),
        "shell words": f"$({shell}); `{shell}` | {shell}".encode(),
        "pipe": f"pipe:{shell}".encode(),
        "template": f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}} {{% {code} %}}".encode(),
        "tar with paths": _tar(canary),
        "safetensors metadata": _safetensors({"__metadata__": {"format": "pt", "__reduce__": code}}),
        "safetensors paths": _safetensors({f"../../..{canary}": _empty()}),
        "safetensors dtype": _safetensors({"w": {**_empty(), "dtype": f"__import__('os').system({shell!r})"}}),
    }
    return found | {name: text.encode() for name, text in texts(canary).items()}


def texts(canary: Path) -> dict[str, str]:
    """Those that are YAML or JSON."""
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "yaml apply": f"!!python/object/apply:os.system ['{shell}']\n",
        "yaml apply in a field": f"name: !!python/object/apply:os.system ['{shell}']\n",
        "yaml new": f"!!python/object/new:os.system ['{shell}']\n",
        "yaml name": "name: !!python/name:os.system\n",
        "yaml module": "name: !!python/module:antigravity\n",
        "json class": json.dumps({"__class__": "os.system", "args": [shell], "version": 1}),
        "json py/reduce": json.dumps({"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [shell]}]}),
        "json type": json.dumps({"$type": "System.Diagnostics.Process", "__reduce__": code, "version": 2}),
    }


REAL: dict[str, Callable[[bytes], Any]] = {
    "pickle protocol 0": pickle.loads,
    "pickle protocol 4": pickle.loads,
    "pickle eval": pickle.loads,
    "pickle exec": pickle.loads,
    "pickle open": lambda data: pickle.loads(data).close(),
    "pickle gzip": lambda data: pickle.loads(gzip.decompress(data)),
    "torch file": lambda data: pickle.loads(zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl")),
    "marshal": lambda data: exec(marshal.loads(data)),
    "python": lambda data: exec(data),
    "shell script": lambda data: subprocess.run(["/bin/sh"], input=data, check=True),
}
"""Careless readers."""


def _legacy(content: object) -> list[object]:
    """Magic number, protocol version and system information, as torch wrote them before it wrote archives."""
    return [0x1950A86A20F9469CFC6C, 1001, {}, content]


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def _tar(canary: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in (str(canary), f"../../../../../../../..{canary}"):
            archive.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(canary.parent)
        archive.addfile(link)
    return out.getvalue()


def _safetensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _empty() -> dict[str, Any]:
    return {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _numpy_header() -> bytes:
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return struct.pack("<H", len(text)) + text
