"""One file a verb: each enters its function under the name that people type.

    @command.register("doctor")
    def doctor(device: Annotated[str, typer.Option(help="...")] = "auto") -> None:
        import torch  # what is slow to import is imported here, so that `tercet --help` stays quick

The docstring is the help: one line of what it does, more where it is needed, and at the end "Example:" with
command lines under it, which a test runs.
"""

__all__ = ["command"]

from collections.abc import Callable

from tercet.registry import Registry

command: Registry[Callable[..., None]] = Registry("command", __name__)
