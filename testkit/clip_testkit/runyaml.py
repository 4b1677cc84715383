"""The smallest valid run.yaml, and specs derived from it."""

from __future__ import annotations

from clipctl.contract.spec import RunSpec
from clipctl.specfile import parse_spec

MINIMAL = """\
name: demo
model:
  name: ViT-B-32
data:
  train: s3://bucket/train
train:
  global_batch: 64
  steps: 10
checkpoint:
  path: s3://bucket/runs
"""


def spec_with(*overrides: str) -> RunSpec:
    """The minimal spec with `field.name=value` overrides, as `--set` takes them."""
    return parse_spec(MINIMAL.encode(), "run.yaml", overrides)


def quoted(text: str) -> str:
    """`text` as a YAML scalar in double quotes, everything but printable ASCII escaped."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    code = ord(character)
    if 32 <= code < 127:
        return character
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
