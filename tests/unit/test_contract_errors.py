"""Errors: each class with its exit code, in one paragraph, and the same on the other side of a process boundary."""

import pytest

from clipctl.contract import errors
from clipctl.contract.errors import PERMANENT_CODES, ClipError, ExitCode, error_from_code

CODES = {
    "SpecError": 64,
    "CorruptError": 65,
    "MissingError": 66,
    "UnavailableError": 69,
    "InternalError": 70,
    "CannotCreateError": 73,
    "TryAgainError": 75,
    "PermissionDeniedError": 77,
    "ClusterConfigError": 78,
}


def test_the_table_is_complete():
    assert {cls.__name__: int(cls.default_code) for cls in ClipError.__subclasses__()} == CODES


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_each_class_carries_its_code(name, code):
    error = getattr(errors, name)("something is wrong.", hint="Mend it.")
    assert (error.code, error.problem, error.hint) == (code, "something is wrong.", "Mend it.")
    assert str(error) == "something is wrong. Mend it."
    assert isinstance(error, ClipError)


def test_without_a_hint_the_text_is_the_problem():
    assert str(ClipError("it broke.")) == "it broke."
    assert ClipError("it broke.").code is ExitCode.INTERNAL


def test_a_code_can_be_given():
    assert ClipError("x", code=ExitCode.HUNG).code == 79
    assert errors.SpecError("x", code=ExitCode.MISSING).code == 66


@pytest.mark.parametrize("code", list(ExitCode))
def test_an_error_survives_the_way_to_another_process(code):
    error = error_from_code("problem.", "hint.", int(code))
    assert (error.code, error.problem, error.hint) == (code, "problem.", "hint.")
    if int(code) in CODES.values():
        assert CODES[type(error).__name__] == code


@pytest.mark.parametrize("code", [1, 2, 127, 255])
def test_codes_of_other_programs_are_not_ours(code):
    with pytest.raises(ValueError):
        error_from_code("x", "", code)


def test_codes_are_outside_what_shells_and_signals_use():
    assert all(code == 0 or 64 <= code <= 79 for code in ExitCode)


def test_what_can_be_tried_again_is_not_permanent():
    passing = {ExitCode.TRY_AGAIN, ExitCode.UNAVAILABLE, ExitCode.HUNG, ExitCode.INTERNAL, ExitCode.CANNOT_CREATE}
    assert passing.isdisjoint(PERMANENT_CODES)
    assert passing | PERMANENT_CODES | {ExitCode.OK} == set(ExitCode)
