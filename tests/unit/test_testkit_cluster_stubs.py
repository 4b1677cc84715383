"""Stub CUDA libraries and their wheels."""

import base64
import ctypes
import hashlib
import shutil
import subprocess
import zipfile

import pytest

from clip_testkit.cluster import cudastubs, elfsymbols, stubwheels
from clip_testkit.cluster.elfsymbols import Symbol
from clipctl.contract.errors import MissingError

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("readelf") is None, reason="needs gcc and readelf"
)

TABLE = """
Symbol table '.dynsym' contains 5 entries:
   Num:    Value          Size Type    Bind   Vis      Ndx Name
     0: 0000000000000000     0 NOTYPE  LOCAL  DEFAULT  UND
     1: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND cudaMalloc@libcudart.so.13 (4)
     2: 0000000000001100    42 FUNC    GLOBAL DEFAULT   14 ncclInit
     3: 0000000000004000   0x40 OBJECT  GLOBAL DEFAULT   24 table@@V2
"""


def test_symbol_table_is_parsed():
    assert elfsymbols.parse_symbols(TABLE) == [
        Symbol("cudaMalloc", "libcudart.so.13", "FUNC", 0, False),
        Symbol("ncclInit", "", "FUNC", 42, True),
        Symbol("table", "V2", "OBJECT", 64, True),
    ]


def test_needed_libraries_are_parsed():
    text = " 0x01 (NEEDED)  Shared library: [libc10.so]\n 0x0e (SONAME)  Library soname: [libx.so]\n"
    assert elfsymbols.parse_needed(text) == {"libc10.so"}


def function(name, version=""):
    return Symbol(name, version, "FUNC", 1, True)


def test_functions_fail_and_their_error_texts_do_not():
    names = ["cudaMalloc", "cudaGetErrorString", "cudaGetLastError", "ncclGetLastError", "cudnnGetVersion"]
    returns = {**cudastubs.NO_ERROR, "cudnnGetVersion": 92600}
    source = cudastubs.stub_source([function(name) for name in names], returns)
    assert "long cudaMalloc(void) { return 35; }" in source
    assert "const char *cudaGetErrorString(void) { return text; }" in source
    assert "const char *ncclGetLastError(void) { return text; }" in source
    assert "long cudaGetLastError(void) { return 0; }" in source
    assert "long cudnnGetVersion(void) { return 92600; }" in source


def test_symbol_with_several_versions_is_defined_once():
    source = cudastubs.stub_source([function("f", "V1"), function("f", "V2")], {})
    assert source.count(" f(void)") == 1


def test_data_keeps_its_size():
    assert "char state[4];" in cudastubs.stub_source([Symbol("state", "", "OBJECT", 4, True)], {})


def test_version_script_groups_symbols():
    exports = [function("b", "V1"), function("a", "V1"), function("c", "V2"), function("plain")]
    assert cudastubs.version_script(exports) == "V1 { global: a; b; };\nV2 { global: c; };\n"
    assert cudastubs.version_script([function("plain")]) == ""


@pytest.mark.parametrize(("version", "number"), [("9.26.0.51", 92600), ("8.9.7", 80907)])
def test_cudnn_version_number(version, number):
    assert cudastubs.cudnn_version(version) == number


@NEEDS_COMPILER
def test_compiled_stub_has_the_symbols_versions_and_soname_of_the_real_library(tmp_path):
    source, versions, real = tmp_path / "real.c", tmp_path / "versions", tmp_path / "libreal.so.7"
    source.write_text("int cudaRun(int a) { return a; }\nint unused(void) { return 1; }\nint table[3] = {1, 2, 3};\n")
    versions.write_text("REAL_7 { global: cudaRun; unused; table; };\n")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-Wl,--version-script={versions}", "-o", str(real), str(source)], check=True
    )
    (tmp_path / "stub").mkdir()
    stub = tmp_path / "stub" / real.name
    cudastubs.compile_stub(real, {"cudaRun", "table", "elsewhere"}, stub, {})
    defined = {(s.name, s.version, s.size) for s in elfsymbols.symbols(stub) if s.defined and s.kind == "OBJECT"}
    assert {("table", "REAL_7", 12)} <= defined
    functions = {(s.name, s.version) for s in elfsymbols.symbols(stub) if s.defined and s.kind == "FUNC"}
    assert ("cudaRun", "REAL_7") in functions
    assert "unused" not in {name for name, _ in functions}
    assert ctypes.CDLL(str(stub)).cudaRun(3) == cudastubs.NO_DRIVER
    sonames, names = cudastubs.needed_symbols([stub])
    assert real.name not in sonames
    assert "cudaRun" not in names


def test_wheel_is_complete_and_reproducible(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [stubwheels.write_wheel(tmp_path / d, "Nvidia.Thing", "1.2+stub", {"x/y.so": b"data"}) for d in "ab"]
    assert paths[0].name == "nvidia_thing-1.2+stub-py3-none-any.whl"
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.testzip() is None
        record = archive.read("nvidia_thing-1.2+stub.dist-info/RECORD").decode().splitlines()
        assert {line.split(",")[0] for line in record} == set(archive.namelist())
        expected = base64.urlsafe_b64encode(hashlib.sha256(b"data").digest()).decode().rstrip("=")
        assert record[0] == f"x/y.so,sha256={expected},4"
        assert b"Requires-Dist" not in archive.read("nvidia_thing-1.2+stub.dist-info/METADATA")


def test_closure_follows_requirements_and_extras():
    plain = stubwheels.closure("clipctl")
    trainer = stubwheels.closure("clipctl", frozenset({"trainer"}))
    assert "pydantic" in plain
    assert "pydantic-core" in plain
    assert "torch" not in plain
    assert {"torch", "numpy", *plain} <= set(trainer)
    assert "clipctl" not in trainer
    assert "pytest" not in trainer


def test_absent_distribution_is_named():
    with pytest.raises(MissingError, match="no-such-distribution"):
        stubwheels.closure("no-such-distribution")


def test_only_gpu_libraries_are_stubbed():
    versions = {"nvidia-cublas": "1", "triton": "2", "torch": "3", "numpy": "4", "cuda-bindings": "5"}
    assert stubwheels.stubbed(versions) == {"nvidia-cublas": "1", "triton": "2"}
