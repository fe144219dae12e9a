"""Errors that help: they name what was given and the nearest thing that exists."""

import difflib
import dis
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

LIKE = 0.5  # likeness from which a name is suggested


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, by letters, by words, or as an abbreviation; None if none is."""
    likest = max(known, key=lambda other: likeness(name, other), default=None)
    return likest if likest is not None and likeness(name, likest) >= LIKE else None


def likeness(name: str, other: str) -> float:
    """Returns how alike two names are: as strings, 0 to 1, and more for the same words or initials after the last dot."""
    letters = difflib.SequenceMatcher(None, name, other).ratio()
    one, two = (text.rpartition(".")[2].split("_") for text in (name, other))
    if one == two or [_initials(one)] == two or [_initials(two)] == one:
        return 1 + letters
    return letters + len({*one} & {*two}) / len({*one} | {*two})


def _initials(words: list[str]) -> str:
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a `name` that is none of `known`, with the nearest of them."""
    names = sorted(known)
    near = nearest(name, names)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(names[:20])}"
    return ValueError(f"unknown {kind} {name!r}; {hint}")


def told(error: Exception) -> str:
    """An error's own words; before those of one that a loader's process raised, torch puts the traceback."""
    if isinstance(error, OSError) and _is_denied(error):
        return f"{error.filename}: {error.strerror}; change its rights, or name another place"
    traceback = re.match(
        r"Caught (\w+) in .*?\.\nOriginal Traceback .*^[\w.]*\1: (.*)", str(error), re.DOTALL | re.MULTILINE
    )
    return traceback[2].strip() if traceback else str(error)


PACKAGES = Path(__file__).parent, Path(__file__).parents[1] / "xai"
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)  # by rights or the state of a disk
ON_PURPOSE = (ValueError, OSError, ImportError, TypeError, NotImplementedError, FloatingPointError)


@contextmanager
def messages(saved: Path | None = None) -> Iterator[None]:
    """Ends the program with one line, exit code 1, on an error that our own code raises to be read.

    Any other error keeps its traceback: it is a bug, here or elsewhere. Ctrl-C and a scheduler's SIGTERM end the program with
    one line too, exit code 130 or 143, after temporary files are cleared away. Inside another one, the inner one tells.

    Args:
        saved: folder of what has been written so far, which is named after the traceback.
    """
    interrupt = _Interrupt(saved)
    try:
        with interrupt.handling():
            yield
    except (Exception, KeyboardInterrupt, Terminated, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in (130, 143):
            raise  # it has been told
        if interrupt.number is not None:  # whatever libraries made of its exception
            interrupt.tell()
            sys.exit(128 + interrupt.number)
        if isinstance(error, Exception) and is_told(error):
            sys.exit(f"error: {told(error)}")
        if isinstance(error, Exception) and saved is not None and saved.is_dir():
            error.add_note(f"What was written before this error lies in {saved}")
        raise


def run_module(name: str) -> NoReturn:
    """Runs a command that is a module, and leaves: what `python -m` goes on to read is that module again."""
    with messages():
        import_module(name).main()
    sys.exit()


class Terminated(BaseException):
    """What SIGTERM raises, as Ctrl-C raises KeyboardInterrupt."""


class _Interrupt:
    """What Ctrl-C and SIGTERM do: they raise KeyboardInterrupt and Terminated.

    In the middle of an import the program ends at once: libraries go on half imported after an exception.
    """

    def __init__(self, saved: Path | None) -> None:
        self.saved = saved
        self.number: signal.Signals | None = None  # that came

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        self.number = signal.Signals(number)
        if _imports(frame):
            self.tell()
            os._exit(128 + number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Sets itself where nobody else handles a signal; inside another block of ours in the other's place."""
        before = {}
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        free = (signal.default_int_handler, signal.SIG_DFL)
        before = {number: old for number, old in before.items() if old in free or isinstance(old, _Interrupt)}
        for number in before:
            signal.signal(number, self)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def tell(self) -> None:
        """Says in one line which signal came."""
        assert self.number is not None
        kept = f"; what was written lies in {self.saved}" if self.saved is not None and self.saved.is_dir() else ""
        print(f"\n{self.number.name}: stopped{kept}; start it again to go on", file=sys.stderr, flush=True)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def is_told(error: Exception) -> bool:
    """Tells whether an error is to be read: of a class of ours, raised by a line of ours, or of a file that one opens.

    That of a file which nobody here may open or write is, whichever library tries to.
    """
    if type(error).__module__.partition(".")[0] in ("clipmapper", "xai") or _is_denied(error):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, ON_PURPOSE):
        return False
    code = trace.tb_frame.f_code
    ours = any(Path(code.co_filename).is_relative_to(package) for package in PACKAGES)
    raised = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return ours and (raised or isinstance(error, OSError))


def _is_denied(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in DENIED and isinstance(error.filename, str | Path)
