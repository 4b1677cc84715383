"""The whole conversion, and the run.yaml as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from clipctl.contract.spec import RunSpec
from clipctl.convert.commandline import read_command
from clipctl.convert.conversion import Conversion
from clipctl.convert.data import translate_data
from clipctl.convert.model import translate_loss, translate_model
from clipctl.convert.running import translate_running
from clipctl.convert.training import translate_training


def convert(words: Sequence[str]) -> Conversion:
    """Translate an OpenCLIP training command.

    Args:
        words: the command as the shell hands it over, or one string with a command or a script.

    Raises:
        SpecError: it is not such a command.
    """
    command = read_command(words)
    conversion = Conversion()
    for translate in (translate_running, translate_model, translate_data, translate_training, translate_loss):
        translate(command, conversion)
    conversion.spec = _in_order(conversion.spec)
    return conversion


def to_yaml(conversion: Conversion) -> str:
    """The run.yaml, with the notes as comments on top."""
    lines = [f"# {note}" for note in conversion.notes]
    lines += [f"# NOT CONVERTED: {text}" for text in conversion.refused]
    text: str = yaml.dump(conversion.spec, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return "\n".join([*lines, *([""] if lines else []), text])


def _in_order(values: dict[str, Any]) -> dict[str, Any]:
    """Sections in the order of the reference."""
    known = [name for name in RunSpec.model_fields if name in values]
    return {name: values[name] for name in known}


class _Dumper(yaml.SafeDumper):
    """Short lists in one line; numbers that YAML readers agree on."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:float", repr(value))


def _list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(float, _float)
_Dumper.add_representer(list, _list)
