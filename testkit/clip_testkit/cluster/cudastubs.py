"""Stub CUDA libraries: PyPI's torch loads and trains on the CPU without 4 GB of libraries for a GPU it has not.

PyPI's Linux wheel of torch is built for CUDA, and its libraries name cuBLAS, cuDNN, NCCL and so on as needed, so the
loader refuses `import torch` without them even where no GPU is. A stub has the same soname, symbols and symbol versions
as the real library, limited to what torch refers to; each function returns an error, so that
`torch.cuda.is_available()` is false, as it is with the real libraries where no driver is installed.
For tests only: the image that ships holds the real libraries.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_testkit.cluster.elfsymbols import Symbol, needed, symbols
from clip_testkit.cluster.shell import run

NO_DRIVER = 35
"""cudaErrorInsufficientDriver: what the real runtime answers without a driver."""
TEXT_FUNCTION = re.compile(r"Get\w*(String|Name)$|^ncclGetLastError$")
NO_ERROR = {"cudaGetLastError": 0, "cudaPeekAtLastError": 0}
"""Asked after every kernel launch: nothing failed, since nothing was launched."""


def cudnn_version(distribution_version: str) -> int:
    """What `cudnnGetVersion` returns for a version of the wheel: 9.26.0.51 gives 92600 (cudnn_version.h)."""
    major, minor, patch = (int(part) for part in distribution_version.split(".")[:3])
    return major * 10000 + minor * 100 + patch


def stub_source(exports: Sequence[Symbol], returns: Mapping[str, int]) -> str:
    """C source that defines the symbols, each once; `returns` holds the functions that must succeed."""
    lines = ['static const char *const text = "stub library: no CUDA";']
    for symbol in sorted({s.name: s for s in exports}.values(), key=lambda s: s.name):
        if symbol.kind == "OBJECT":
            lines.append(f"char {symbol.name}[{max(symbol.size, 1)}];")
        elif TEXT_FUNCTION.search(symbol.name):
            lines.append(f"const char *{symbol.name}(void) {{ return text; }}")
        else:
            lines.append(f"long {symbol.name}(void) {{ return {returns.get(symbol.name, NO_DRIVER)}; }}")
    return "\n".join(lines) + "\n"


def version_script(exports: Sequence[Symbol]) -> str:
    """Linker script that gives each symbol its version; empty if the library has no versions."""
    versions: dict[str, list[str]] = {}
    for symbol in exports:
        if symbol.version:
            versions.setdefault(symbol.version, []).append(symbol.name)
    blocks = [f"{version} {{ global: {'; '.join(sorted(names))}; }};" for version, names in sorted(versions.items())]
    return "".join(f"{block}\n" for block in blocks)


def needed_symbols(torch_libraries: Sequence[Path]) -> tuple[set[str], set[str]]:
    """Sonames that torch's libraries need, and names of the symbols that they expect from elsewhere."""
    sonames: set[str] = set()
    names: set[str] = set()
    for library in torch_libraries:
        sonames |= needed(library)
        names |= {symbol.name for symbol in symbols(library) if not symbol.defined}
    return sonames, names


def compile_stub(real: Path, expected: set[str], out: Path, returns: Mapping[str, int]) -> None:
    """Compile a stub of a library.

    Args:
        real: the library to imitate.
        expected: symbol names that something refers to; the others are left out.
        out: path of the stub.
        returns: results of functions that must not fail, by name.

    Raises:
        UnavailableError: gcc failed.
    """
    exports = [symbol for symbol in symbols(real) if symbol.defined and symbol.name in expected]
    script = version_script(exports)
    with tempfile.TemporaryDirectory(prefix="clipctl-stub-") as work:
        source, versions = Path(work, "stub.c"), Path(work, "versions")
        source.write_text(stub_source(exports, returns))
        versions.write_text(script)
        flags = [f"-Wl,--version-script={versions}"] if script else []
        flags += ["-shared", "-fPIC", "-Os", "-w", "-s", "-fno-builtin", f"-Wl,-soname,{real.name}"]
        run(["gcc", *flags, "-o", out, source])
