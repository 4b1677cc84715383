"""Every `clipctl ...` and `make ...` in the documentation exists, with the flags that are written there."""

import re
import shlex
from pathlib import Path

import pytest

from clipctl.app import load_command
from clipctl.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.yaml"), ROOT / "benchmarks/README.md"]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
ALTERNATIVES = re.compile(r"^[a-z]+(?:\|[a-z]+)+$")


def commands_in(text):
    """Command lines of shell blocks, and inline code that is one."""
    for language, block in FENCE.findall(text):
        if language in ("sh", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                yield line.removeprefix("$ ").partition("  #")[0].strip()
    for code in INLINE.findall(FENCE.sub("", text)):
        yield code.strip()


def yaml_comments(text):
    """Command lines in the comments of an example: at the start of one, or in parentheses after another."""
    for found in re.finditer(r"(?:^#\s+|\(or: )((?:clipctl|make) [^()`\n]+)", text, re.MULTILINE):
        yield found.group(1).strip()


def found_in_docs(program):
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in yaml_comments(text) if page.suffix == ".yaml" else commands_in(text):
            for part in re.split(r"\s(?:&&|\|\||;|\|)\s", line):
                if part.strip().split(" ")[0] == program:
                    yield pytest.param(part.strip(), id=f"{page.relative_to(ROOT)}: {part.strip()[:60]}")


def resolve(words):
    """The command that `words` name, and the words after it; several for `a|b|c`. Raises KeyError if there is none."""
    command, rest = load_command(words[0]) if words[0] in COMMANDS else None, words[1:]
    if command is None:
        raise KeyError(words[0])
    while getattr(command, "commands", {}) and rest and not rest[0].startswith("-"):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def expanded(words):
    """`clipctl data pack|index` stands for two commands."""
    for position, word in enumerate(words):
        if ALTERNATIVES.match(word):
            return [[*words[:position], choice, *words[position + 1 :]] for choice in word.split("|")]
    return [words]


def flags_of(command):
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def check_command(line):
    words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
    for choice in expanded(words):
        if not choice or choice[0] in ("COMMAND", "...", "-h", "--help", "--install-completion", "--show-completion"):
            continue
        command, rest = resolve(choice)
        rest = rest[: rest.index("--")] if "--" in rest else rest  # what follows is not ours
        known = flags_of(command) | {"-h", "--help"}
        given = {word.partition("=")[0] for word in rest if re.match(r"^--?[a-z]", word)}
        assert given <= known, f"{line}: no such flag: {sorted(given - known)}"


COMMAND_LINES = list(found_in_docs("clipctl"))


def test_the_documentation_names_commands_at_all():
    assert len(COMMAND_LINES) > 30


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_clipctl_command_exists_with_its_flags(line):
    check_command(line)


@pytest.mark.parametrize("line", list(found_in_docs("make")))
def test_every_make_target_exists(line):
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [word for word in line.split()[1:] if re.fullmatch(r"[a-z0-9-]+", word) and not word.startswith("-")]
    assert named
    assert set(named) <= targets


@pytest.mark.parametrize("line", ["clipctl sumbit run.yaml", "clipctl submit run.yaml --locl", "clipctl data pakc a b"])
def test_the_check_finds_what_it_is_for(line):
    with pytest.raises((AssertionError, KeyError)):
        check_command(line)


def test_alternatives_stand_for_several_commands():
    assert expanded(["data", "pack|index", "X"]) == [["data", "pack", "X"], ["data", "index", "X"]]
    check_command("clipctl data pack|index|verify")
    with pytest.raises(KeyError):
        check_command("clipctl data pack|sort")


def test_every_command_is_documented():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"clipctl {name}" not in text] == []
