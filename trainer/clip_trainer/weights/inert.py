"""Reads pickles without running them: a pickle is a small program, and this interpreter has no instruction to call.

What a pickle would import becomes a `Global`, what it would call becomes an `Instance` that remembers the arguments.
So the structure of an archive can be looked at, whoever wrote it; nothing is imported, constructed or executed. Only
the instructions that torch's serialiser emits are known; anything else is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clipctl.contract.errors import CorruptError

_MAX_OPERATIONS = 20_000_000


@dataclass(frozen=True)
class Global:
    """A name the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Instance:
    """What calling `of` with `arguments` would have made."""

    of: Global
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    """Entries set afterwards, for classes that behave like a dict."""


@dataclass(frozen=True)
class Reference:
    """A persistent id: something kept outside of the pickle, such as the bytes of a tensor."""

    value: Any


class _Mark:
    """Where on the stack a variable number of values begins."""


class _Machine:
    """The stack machine of the pickle format (see `pickletools` for the meaning of the instructions)."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._operations: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **dict.fromkeys(_LITERALS, self._stack.append),
            "NONE": lambda _: self._stack.append(None),
            "NEWTRUE": lambda _: self._stack.append(True),
            "NEWFALSE": lambda _: self._stack.append(False),
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "MARK": lambda _: self._stack.append(_Mark()),
            "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._put),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda index: self._stack.append(self._memo[index])),
            "GLOBAL": lambda name: self._stack.append(Global(*name.split(" ", 1))),
            "STACK_GLOBAL": self._stack_global,
            "BINPERSID": lambda _: self._stack.append(Reference(self._stack.pop())),
            **dict.fromkeys(("REDUCE", "NEWOBJ"), self._instance),
            "BUILD": self._build,
            "APPEND": lambda _: self._append([self._stack.pop()]),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
        }

    def run(self, data: bytes) -> Any:
        """The value the pickle describes."""
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if operation.name == "STOP":
                return self._stack.pop()
            if operation.name not in self._operations or count > _MAX_OPERATIONS:
                raise ValueError(f"instruction {operation.name} is not allowed")
            self._operations[operation.name](argument)
        raise ValueError("it ends early")

    def _pop_to_mark(self) -> list[Any]:
        for start in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[start], _Mark):
                values = self._stack[start + 1 :]
                del self._stack[start:]
                return values
        raise ValueError("a mark is missing")

    def _tuple(self, size: int) -> None:
        values = tuple(self._stack[-size:])
        del self._stack[-size:]
        self._stack.append(values)

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(Global(str(module), str(name)))

    def _instance(self, _: object) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, Global) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not a name")
        self._stack.append(Instance(called, arguments))

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        if not isinstance(self._stack[-1], Instance):
            raise ValueError("state for something that is not an object")
        self._stack[-1].state = state

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("an entry for something that is not a list")
        self._stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1].items if isinstance(self._stack[-1], Instance) else self._stack[-1]
        if not isinstance(target, dict):
            raise ValueError("an entry for something that is not a dict")
        target.update(zip(values[::2], values[1::2], strict=True))


_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
)


def read_pickle(data: bytes, name: str) -> Any:
    """What a pickle describes, as dicts, lists, tuples, numbers, strings, `Global`, `Instance` and `Reference`.

    Args:
        data: the pickle.
        name: what to call it in errors.

    Raises:
        CorruptError: it is damaged, or uses instructions that torch never writes.
    """
    try:
        return _Machine().run(data)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptError(f"{name} cannot be read: {error}.", hint="Fetch the file again.") from None
