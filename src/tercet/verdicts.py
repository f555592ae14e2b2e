"""Verdicts of audits: the scheme that one recommended for these weights here, for `auto` to follow."""

from __future__ import annotations

__all__ = ["Remembered", "recall", "remember"]

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tercet.cache import cache_folder, read_json, write_json
from tercet.checkpoint.layout import Checkpoint
from tercet.errors import PrecisionError
from tercet.precision.hardware import device_name
from tercet.precision.scheme import Drift, Scheme

logger = logging.getLogger(__name__)

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an audit said.

    Attributes:
        scheme: the one that it recommended.
        float32_layers: encoder layers that are computed in float32.
        outputs: heads that were audited.
        reason: its own sentence.
        when: of the audit, and on what: "1,400 documents, 2026-03-01".
        drifts: of dense vectors, of each scheme that was audited.
    """

    scheme: Scheme
    float32_layers: tuple[int, ...]
    outputs: tuple[str, ...]
    reason: str
    when: str
    drifts: Mapping[Scheme, Drift]


def remember(checkpoint: Checkpoint, device: str, kernels: str, said: Remembered) -> bool:
    """Keeps a verdict under the weights' hash, the device, its kernels and torch's version.

    Returns:
        Whether it was written.
    """
    key = _key(checkpoint, device, kernels)
    value = {
        "key": key,
        "files": _files(checkpoint),
        "scheme": said.scheme.to_json(),
        "float32_layers": list(said.float32_layers),
        "outputs": list(said.outputs),
        "reason": said.reason,
        "when": said.when,
        "drifts": [{"scheme": scheme.to_json(), **drift.to_json()} for scheme, drift in said.drifts.items()],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return write_json(f"{digest}.json", value, folder=_folder())


def recall(checkpoint: Checkpoint, device: str, kernels: str) -> Remembered | None:
    """The verdict for these weights here, None where there is none.

    The weights are hashed only where a verdict is of files of the same names and sizes.
    """
    found = [value for value in _verdicts() if value.get("files") == _files(checkpoint)]
    if not found:
        return None
    key = json.loads(json.dumps(_key(checkpoint, device, kernels)))
    for value in found:
        if value.get("key") != key:
            continue
        try:
            return Remembered(
                scheme=Scheme.from_json(value["scheme"]),
                float32_layers=tuple(int(number) for number in value["float32_layers"]),
                outputs=tuple(value["outputs"]),
                reason=str(value["reason"]),
                when=str(value["when"]),
                drifts={
                    Scheme.from_json(row["scheme"]): Drift(row["mean"], row["worst"], row["source"])
                    for row in value["drifts"]
                },
            )
        except (KeyError, TypeError, ValueError, PrecisionError) as error:
            logger.info("a remembered verdict cannot be used and is forgotten: %r", error)
    return None


def _verdicts() -> Iterator[dict[str, Any]]:
    folder = _folder()
    if folder.is_dir():
        for path in sorted(folder.glob("*.json")):
            value = read_json(path.name, folder=folder)
            if isinstance(value, dict):
                yield value


def _files(checkpoint: Checkpoint) -> list[list[Any]]:
    """Name and size of each file of weights; empty where one is not on this machine."""
    try:
        return sorted(
            [path.relative_to(checkpoint.folder).as_posix(), path.stat().st_size]
            for path in checkpoint.weight_files()
        )
    except OSError:
        return []


def _key(checkpoint: Checkpoint, device: str, kernels: str) -> dict[str, Any]:
    """Everything that a verdict is worth something under."""
    return {
        "verdict_version": _VERSION,
        "weights_sha256": checkpoint.weights_hash(),
        "modules": json.loads(
            json.dumps([{"kind": spec.kind, **spec.config} for spec in checkpoint.parts], default=str)
        ),
        "device": device,
        "name": device_name(device),
        "kernels": kernels,
        "torch": torch.__version__,
    }


def _folder() -> Path:
    return cache_folder() / "verdicts"
