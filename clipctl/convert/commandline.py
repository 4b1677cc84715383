"""Take an OpenCLIP command line apart: the launcher and how many ranks it starts, the program, its flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipctl.contract.errors import SpecError
from clipctl.convert.flags import default_of, parse_flags

PROGRAMS = ("open_clip_train.main", "training.main", "open_clip_train/main.py", "training/main.py")
_EXAMPLE = "clipctl convert -- torchrun --nproc_per_node 4 -m open_clip_train.main --model RN50"
_SBATCH = re.compile(r"^#SBATCH\s+(--\S+(?:\s+[^-\s]\S*)?)", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_SLURM_TASKS = ("--ntasks", "-n")
_SLURM_NODES = ("--nodes", "-N")
_SLURM_PER_NODE = ("--ntasks-per-node", "--gpus-per-node")


@dataclass(frozen=True)
class OpenClipCommand:
    """What a training command says.

    Attributes:
        given: options on the command line.
        nodes: machines it runs on.
        ranks_per_node: processes of each.
        launcher: `python`, `torchrun` or `srun`.
        nodes_known: whether the number of machines stood in the command.
    """

    given: Mapping[str, Any]
    nodes: int
    ranks_per_node: int
    launcher: str
    nodes_known: bool

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node

    def __getitem__(self, name: str) -> Any:
        """An option's value: as given, or OpenCLIP's default."""
        return self.given.get(name, default_of(name))


def read_command(words: Sequence[str]) -> OpenClipCommand:
    """Parse a command as the shell would hand it over, or one string: a command, or a whole (SLURM) script.

    Raises:
        SpecError: it does not start OpenCLIP's training, or has unknown flags.
    """
    if len(words) == 1:
        words = _words_of_script(words[0])
    words = [word for word in words if word.strip()]
    position = next((index for index, word in enumerate(words) if word.endswith(PROGRAMS)), None)
    if position is None:
        raise SpecError("the command does not start OpenCLIP's training.", hint=f"Give it whole, as: {_EXAMPLE}")
    before, after = list(words[:position]), list(words[position + 1 :])
    if after[:1] == ["--"]:
        after = after[1:]  # `torchrun -m module -- --logs x` keeps torchrun from reading --logs itself
    while before and _ASSIGNMENT.fullmatch(before[0]):
        before.pop(0)
    launcher = before[0].rpartition("/")[2] if before else "python"
    nodes, per_node = _ranks(launcher, before)
    return OpenClipCommand(parse_flags(after), nodes or 1, per_node or 1, launcher, nodes is not None)


def _words_of_script(text: str) -> list[str]:
    """The words of the line that starts the training; `#SBATCH` options are put where srun would have them."""
    joined = re.sub(r"\\\s*\n", " ", text)
    line = next((line for line in joined.splitlines() if any(program in line for program in PROGRAMS)), "")
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise SpecError(f"the command cannot be read: {error}.", hint="Check its quotes.") from None
    options = [word for found in _SBATCH.findall(joined) for word in found.split()]
    return [words[0], *options, *words[1:]] if words else []


def _ranks(launcher: str, before: list[str]) -> tuple[int | None, int | None]:
    """Nodes and ranks a node, where the launcher's options say so."""
    if launcher == "srun":
        tasks, nodes = _number(before, _SLURM_TASKS), _number(before, _SLURM_NODES)
        per_node = _number(before, _SLURM_PER_NODE) or (tasks // nodes if tasks and nodes else None)
        return nodes or (tasks // per_node if tasks and per_node else None), per_node
    nodes = _number(before, ("--nnodes",))
    return nodes, _number(before, ("--nproc_per_node", "--nproc-per-node"))


def _number(words: Sequence[str], names: Sequence[str]) -> int | None:
    """The value of the first of some options; of a range `1:4` the greatest."""
    for index, word in enumerate(words):
        name, separator, value = word.partition("=")
        if name in names:
            text = value if separator else (words[index + 1] if index + 1 < len(words) else "")
            last = text.rpartition(":")[2]
            return int(last) if last.isdigit() else None
    return None
