"""Many short texts in little memory."""

from __future__ import annotations

from array import array


class PackedTexts:
    """Texts one behind the other in one buffer: 8 bytes each beside their own, where a list of `str` takes 60."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()

    def append(self, text: str) -> None:
        """Add a text; half a surrogate pair becomes a question mark."""
        self._bytes += text.encode("utf-8", "replace")
        self._ends.append(len(self._bytes))
