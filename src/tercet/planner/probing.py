"""What a device can do: asked of the engines once, and remembered until something changes."""

from __future__ import annotations

__all__ = ["capability", "capability_for", "kernels_here", "lack_of_engine", "probe", "remembered_in"]

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import torch

from tercet.cache import cache_folder as user_cache
from tercet.cache import read_json, write_json
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.layout import Checkpoint
from tercet.engines import ENGINES
from tercet.engines.forks import stand_alone
from tercet.errors import PrecisionError
from tercet.kernels.native import absence, library
from tercet.precision.hardware import (
    Capability,
    Measured,
    device_features,
    device_name,
    find_device,
    schemes_from_json,
    schemes_to_json,
)
from tercet.precision.memory import device_memory
from tercet.precision.scheme import Scheme

logger = logging.getLogger(__name__)

# Raise it whenever what is measured, how, or a stated drift changes: what was remembered before is forgotten.
_PROBE_VERSION = 7
# A disturbed table decides nothing, yet on a server that is always busy every start would measure in vain: it
# stands for an hour. What a quiet machine measured stands until the key changes.
_DISTURBED_SECONDS = 3600.0
# One probe at a time: two would disturb each other.
_probing = threading.Lock()


def capability(device: object = None, *, refresh: bool = False) -> Capability:
    """What a device can do: as remembered from an earlier probe, or probed now; its free memory as it is now.

    What other processes disturbed is remembered for an hour, and marked as not quiet.

    Args:
        device: "cpu", "cuda:0", "mps", in any spelling; None for the best that is there.
        refresh: probe again, whatever is remembered.

    Raises:
        PrecisionError: no such device here.
    """
    stand_alone()
    name = find_device(device)
    with _probing:
        schemes = None if refresh else _remembered(name)
        if schemes is None:
            schemes = _probe(name)
    memory = device_memory(name)
    return Capability(
        device=name,
        name=device_name(name),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        threads=torch.get_num_threads(),
        features=device_features(name),
        schemes=schemes,
        quiet=_quiet(schemes),
        memory_limit=memory.limit,
    )


def probe(device: object = None, *, refresh: bool = False) -> Capability:
    """The same as `capability`, under the name that users type: `tercet.probe()`."""
    return capability(device, refresh=refresh)


def capability_for(checkpoint: Checkpoint, here: Capability) -> Capability:
    """What a device can do for one model: engines without its architecture run nothing, and say so.

    Drift was stated of encoders: of a decoder none is known before an audit.
    """
    schemes = {}
    for scheme, found in here.schemes.items():
        lack = lack_of_engine(checkpoint, scheme)
        if lack is not None and found.runs:
            found = Measured(None, None, None, lack, None, found.quiet)
        elif checkpoint.architecture in DECODERS and not scheme.is_plain:
            found = replace(found, drift=None)
        schemes[scheme] = found
    return replace(here, schemes=schemes)


def lack_of_engine(checkpoint: Checkpoint, scheme: Scheme) -> str | None:
    """Why the engine of a scheme cannot run a model, of any of its encoders; None where it can."""
    engine = ENGINES[scheme.engine]
    found = (engine.lacks(one.architecture) for one in checkpoint.members)
    return next((lack for lack in found if lack is not None), None)


def kernels_here() -> str:
    """The best instruction level of the native kernels that runs here, or why there are none."""
    found = library()
    return f"none: {absence()}" if found is None else found.level


def remembered_in(device: str) -> Path:
    """The file in which what was measured of a device is remembered, whether it is there yet or not."""
    return user_cache() / _file(_key(device))


def _probe(device: str) -> Mapping[Scheme, Measured]:
    """What every engine measures of its schemes; remembered with the time."""
    schemes: dict[Scheme, Measured] = {}
    for name in ENGINES.names():
        engine = ENGINES[name]
        schemes.update(engine.probe(device, engine.schemes(device)))
    key = _key(device)
    if not _quiet(schemes):
        logger.info("other processes disturbed the probe of %s; it stands for an hour", device)
    write_json(_file(key), {"key": key, "time": time(), "schemes": schemes_to_json(schemes)})
    return schemes


def _remembered(device: str) -> Mapping[Scheme, Measured] | None:
    """What was measured under the same key; None where nothing was, or what was disturbed is too old."""
    key = _key(device)
    name = _file(key)
    saved = read_json(name)
    if not isinstance(saved, dict) or saved.get("key") != key:
        return None
    try:
        schemes = schemes_from_json(saved["schemes"])
        # A time to come was told by another clock: such a table would stand for who knows how long.
        fresh = 0 <= time() - saved["time"] < _DISTURBED_SECONDS
    except (KeyError, TypeError, AttributeError, PrecisionError) as error:
        logger.info("%s cannot be used and is forgotten: %r", name, error)
        return None
    return schemes if fresh or _quiet(schemes) else None


def _quiet(schemes: Mapping[Scheme, Measured]) -> bool:
    """Whether nothing disturbed any measurement of a table."""
    return all(found.quiet for found in schemes.values())


def _key(device: str) -> dict[str, Any]:
    """Everything that what is measured depends on."""
    return {
        "probe_version": _PROBE_VERSION,
        "device": device,
        "name": device_name(device),
        "features": list(device_features(device)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernels": kernels_here(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "schemes": [scheme.to_json() for name in ENGINES.names() for scheme in ENGINES[name].schemes(device)],
    }


def _file(key: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return f"probe-{digest}.json"
