"""Optional imports, and how to install what is missing."""

__all__ = ["require"]

import importlib
from types import ModuleType

from tercet.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """The imported module, or an error with the install command.

    Args:
        module: what to import, e.g. "scipy.sparse".
        extra: the extra of this package that brings it.
        purpose: what it is needed for, as the start of a sentence: "converting a SentencePiece model".
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the library {module.split('.')[0]!r}, which is not installed ({error}). "
            f"Install it with: pip install 'tercet[{extra}]'"
        ) from error
