"""Dynamic symbols of shared libraries, read with binutils' readelf."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clip_testkit.cluster.shell import run


@dataclass(frozen=True)
class Symbol:
    """One row of a dynamic symbol table.

    Attributes:
        name: without its version.
        version: symbol version, empty if the symbol has none.
        kind: readelf's type, e.g. FUNC or OBJECT.
        size: bytes; matters for OBJECT.
        defined: false if the library expects it from another one.
    """

    name: str
    version: str
    kind: str
    size: int
    defined: bool


def parse_symbols(table: str) -> list[Symbol]:
    """Rows of `readelf --dyn-syms --wide`: `Num: Value Size Type Bind Vis Ndx Name[@[@]Version] [(N)]`."""
    found = []
    for line in table.splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0].rstrip(":").isdigit():
            name, _, version = fields[7].partition("@")
            found.append(Symbol(name, version.lstrip("@"), fields[3], int(fields[2], 0), fields[6] != "UND"))
    return found


def parse_needed(dynamic: str) -> set[str]:
    """Names of needed libraries in `readelf --dynamic --wide`."""
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))


def symbols(library: Path) -> list[Symbol]:
    """Dynamic symbols of a library."""
    return parse_symbols(run(["readelf", "--dyn-syms", "--wide", library]))


def needed(library: Path) -> set[str]:
    """Names of the libraries that a library asks the loader for."""
    return parse_needed(run(["readelf", "--dynamic", "--wide", library]))
