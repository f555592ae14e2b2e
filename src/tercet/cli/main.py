"""The command `tercet`: finds the verbs, and turns errors and signals into messages and exit codes."""

from __future__ import annotations

__all__ = ["main"]

import errno
import functools
import inspect
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Annotated

import typer
from typer.main import get_command

from tercet.cli.commands import command
from tercet.errors import TercetError

_HELP = (
    "Dense, sparse and multi-vector embeddings in one pass, at the right precision for the machine at hand."
)
_FAILED, _INTERRUPTED = 2, 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one run: 0, 2 for any error that has a message, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        argv: what stands after `tercet`; None takes it from the command line.
    """
    with _terminable():
        try:
            arguments = sys.argv[1:] if argv is None else list(argv)
            get_command(_app())(args=arguments, prog_name="tercet")
            code: object = 0
        except SystemExit as exit:
            code = exit.code
        except KeyboardInterrupt:
            code = _INTERRUPTED
        except OSError as error:
            code = _output_failed(error)
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            code = _output_failed(error)
    return code if isinstance(code, int) else 0 if code is None else 1


def _app() -> typer.Typer:
    """The verbs of the folder `commands`, as one application."""
    app = typer.Typer(help=_HELP, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_options)
    for name in command.names():
        text, _, example = (inspect.getdoc(command[name]) or "").partition("\nExample:\n")
        # Paragraphs of their own, so that the lines of an example stay lines.
        lines = ["Example:", *(f"$ {line.strip()}" for line in example.splitlines())] if example else []
        app.command(name, help=text.strip(), epilog="\n\n".join(lines))(_guarded(name, command[name]))
    return app


def _guarded(name: str, verb: Callable[..., None]) -> Callable[..., None]:
    """The same verb; what goes wrong on purpose becomes a message and an exit code."""

    @functools.wraps(verb)
    def guarded(*arguments: object, **options: object) -> None:
        try:
            verb(*arguments, **options)
        except TercetError as error:
            print(f"tercet {name}: {error}", file=sys.stderr)
            raise typer.Exit(_FAILED) from None
        except KeyboardInterrupt:
            print(f"tercet {name}: stopped.", file=sys.stderr)
            raise typer.Exit(_INTERRUPTED) from None

    return guarded


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda on: _print_version(on), is_eager=True, help="Print the version."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, with numbers.")] = False,
) -> None:
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(message)s", handlers=[_StandardError()])
    logging.getLogger("tercet").setLevel(logging.INFO if verbose else logging.WARNING)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"tercet {version('tercet')}")
        except PackageNotFoundError:
            print("tercet, from a folder that is not installed")
        raise typer.Exit


class _StandardError(logging.Handler):
    """Prints where standard error is at that time: while a progress bar is shown, above it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextmanager
def _terminable() -> Iterator[None]:
    """While it is open, SIGTERM and SIGHUP unwind the stack as Ctrl-C does: nothing half-written is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    # What is ignored stays so: a run under nohup outlives its terminal.
    signals = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is signal.SIG_DFL]
    for one in signals:
        signal.signal(one, terminate)
    try:
        yield
    finally:
        for one in signals:
            signal.signal(one, signal.SIG_DFL)


def _output_failed(error: OSError) -> int:
    """The exit code after the standard output took no more; what is still buffered goes nowhere.

    A reader that went away is told nothing, a full disk is.
    """
    if not isinstance(error, BrokenPipeError):
        if (
            error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
            or error.filename is not None
        ):
            raise error
        print(f"tercet: the standard output cannot be written ({error.strerror}).", file=sys.stderr)
    with suppress(OSError, ValueError):  # not a real file: nothing will flush it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if isinstance(error, BrokenPipeError) else _FAILED
