"""How every command ends: 0; 1 after an error, in one sentence; 130 after Ctrl-C; 141, quietly, when nobody reads its output."""

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

EXPLAINED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError)  # their messages say what to do
COMMANDS = ("minisd", "weights_convert")  # packages with commands
MODULE = re.compile(r"\0-[bBdEhiIOPqRsSuvx]*m\0?([^\0]*)")  # Python's option -m, alone or behind others, and its module


def stop(*_: object):
    os._exit(130)


def is_command() -> bool:
    """Whether this process runs one of these commands, and not a program that imports minisd."""
    module = MODULE.search("\0".join(sys.orig_argv)) if sys.argv[:1] == ["-m"] else None
    program = module[1] if module else Path(*sys.argv[:1]).stem
    return program.split(".")[0] in COMMANDS


# Ctrl-C while a command still imports PyTorch ends it without a traceback, too; `exit_status` takes over from here.
if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop)


def exit_status(work: Callable[[], None], stopped: str = "stopped") -> int:
    """Do a command's work and return its exit status; `stopped` is what to say after Ctrl-C."""
    open_streams()
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            work()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return 141
    except EXPLAINED as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def sentence(error: BaseException) -> str:
    """What went wrong, without the numbers that Python puts around it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)


def open_streams():
    """A stream that is closed (`>&-`) or missing (pythonw) takes what is written and drops it. A terminal shows what it can."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output():
    """Nothing more can be written into a pipe without a reader, not even at the interpreter's end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(io.UnsupportedOperation):  # of a stream that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
