"""Files on both ends of a conversion: a script that holds the command, and the run.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipctl.contract.errors import CannotCreateError, MissingError, SpecError


def read_script(words: Sequence[str]) -> Sequence[str]:
    """The words themselves; or, if there is a single one and it names a file, that file's text.

    Raises:
        SpecError: the file is not text.
        MissingError: it cannot be read.
    """
    path = Path(words[0]) if len(words) == 1 else None
    if path is None or len(words[0]) > 255 or not path.is_file():
        return words
    try:
        return [path.read_text(encoding="utf-8")]
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not a text file.") from None
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}.") from None


def write_run_file(path: str, text: str) -> None:
    """Write the run.yaml; an existing file is not overwritten.

    Raises:
        CannotCreateError: the file exists or cannot be written.
    """
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CannotCreateError(f"{path} exists already.", hint="Give another name with --output.") from None
    except OSError as error:
        raise CannotCreateError(f"cannot write {path}: {error.strerror}.") from None
