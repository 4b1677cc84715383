"""Reading safetensors files in tests of code that must not import numpy."""

from __future__ import annotations

import json
import struct

from clipctl.safetensorsfile import Tensor


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """All tensors of a well-formed file."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }
