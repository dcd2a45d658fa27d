"""What can go wrong for a user, and the exit code that says so. Refuses to print or to exit.

    GpunetError            1   never raised itself
    ├── UsageError         2   an option, a setting, a formula
    ├── CheckFailed        6   a check did not hold
    ├── DataError         65   a file was read and does not make sense
    ├── InputMissing      66   a file that was named is not there
    ├── Unavailable       69   a device or an optional package is not there
    ├── OutOfMemory       71
    ├── OutputExists      73   would overwrite
    ├── WriteError        74   the disk refused
    ├── RunBusy           75   another process writes to the run
    ├── ModelInvalid      76   a model or checkpoint is not ours, or is damaged
    ├── NotPermitted      77
    ├── Diverged          80   a non-finite loss, gradient or weight
    └── Interrupted      130   or 143 or 129, by signal

Programmer faults stay plain exceptions (TypeError, ValueError, …). What is no fault, but should be
known, is a GpunetWarning to users of the library; the command line prints it.
"""

import warnings
from collections.abc import Iterable


class GpunetWarning(UserWarning):
    """What should be known of data, or of a model."""


def warn(texts: Iterable[str], depth: int = 1) -> None:
    """Issue warnings to whoever called what is so many calls above this one."""
    for text in texts:
        warnings.warn(text, GpunetWarning, stacklevel=depth + 2)


def first_line(reason: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]


def kind_and_line(reason: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(reason).__name__}: {first_line(reason)}"


class GpunetError(Exception):
    """A fault that the user can mend.

    The message says what was given and what was wanted; `hint` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}; {hint}")
        self.message = message
        self.hint = hint


class UsageError(GpunetError):
    exit_code = 2


class CheckFailed(GpunetError):
    exit_code = 6


class DataError(GpunetError):
    exit_code = 65


class InputMissing(GpunetError):
    exit_code = 66


class Unavailable(GpunetError):
    exit_code = 69


class OutOfMemory(GpunetError):
    exit_code = 71


class OutputExists(GpunetError):
    exit_code = 73


class WriteError(GpunetError):
    exit_code = 74


class RunBusy(GpunetError):
    exit_code = 75


class ModelInvalid(GpunetError):
    exit_code = 76


class NotPermitted(GpunetError):
    exit_code = 77


class Diverged(GpunetError):
    """Training met a value that is not finite; `fault` tells where, if that is known."""

    exit_code = 80

    def __init__(self, message: str, hint: str | None = None, fault: object = None) -> None:
        super().__init__(message, hint)
        self.fault = fault


def of_code(code: int) -> type[GpunetError]:
    """The error with that exit code; CheckFailed where none has."""
    known = {each.exit_code: each for each in GpunetError.__subclasses__()}
    return known.get(code, CheckFailed)


class Interrupted(GpunetError):
    """A signal ended the work early; what was finished is saved."""

    exit_code = 130

    def __init__(self, message: str, hint: str | None = None, signal_number: int = 2) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number
