"""Exit status of every command: 0; 1 after an error, with one sentence; 130 after Ctrl-C; 141, silently, after a broken pipe."""

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

EXPLAINED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError)  # their messages give a remedy
COMMANDS = ("minisd", "weights_convert")  # packages with commands
MODULE = re.compile(r"\0-[bBdEhiIOPqRsSuvx]*m\0?([^\0]*)")  # Python's option -m, possibly after others, and its module


def stop(*_: object):
    os._exit(130)


def is_command() -> bool:
    """Whether this process runs one of these commands rather than a program that imports minisd."""
    module = MODULE.search("\0".join(sys.orig_argv)) if sys.argv[:1] == ["-m"] else None
    program = module[1] if module else Path(*sys.argv[:1]).stem
    return program.split(".")[0] in COMMANDS


# Ctrl-C must also end a command without a traceback while it still imports PyTorch. From then on, `exit_status` handles it.
if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop)


def exit_status(work: Callable[[], None], stopped: str = "stopped") -> int:
    """Do a command's work and return its exit status; `stopped` is the message after Ctrl-C."""
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
    """The message of an error, without Python's error numbers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)


def open_streams():
    """Make closed (`>&-`) or missing (pythonw) streams discard output, and terminals replace characters they cannot show."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output():
    """Discard all further output, so that the interpreter's exit does not fail on a broken pipe."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(io.UnsupportedOperation):  # the stream is not a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
