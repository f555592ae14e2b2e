"""Asks the engines to probe and time themselves, remembers what they found, and makes plans of it."""

from __future__ import annotations

__all__ = [
    "capability",
    "capability_for",
    "kernels_here",
    "make_plan",
    "plan",
    "probe",
    "remembered_in",
    "with_float32_layers",
]

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from time import time
from typing import Any

import torch

from tercet.cache import cache_folder as user_cache
from tercet.cache import read_json, write_json
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.checkpoint.reranker_files import is_reranker, open_reranker
from tercet.checkpoint.source import Source, find
from tercet.engines import ENGINES
from tercet.engines.forks import stand_alone
from tercet.engines.mixed import float32_prefixes
from tercet.errors import CheckpointError, InputError, PrecisionError, UnknownNameError, nearest
from tercet.heads import named_outputs
from tercet.kernels.native import absence, library
from tercet.model import check_encoder
from tercet.precision.choice import Choice
from tercet.precision.dtype import DType, Precision, Wish
from tercet.precision.footprint import Footprint
from tercet.precision.hardware import (
    Capability,
    Measured,
    device_features,
    device_name,
    find_device,
    schemes_from_json,
    schemes_to_json,
)
from tercet.precision.memory import device_memory, process_memory
from tercet.precision.plan import Plan
from tercet.precision.planning import plan as plan_footprint
from tercet.precision.scheme import Drift, Scheme
from tercet.verdicts import Remembered, recall

logger = logging.getLogger(__name__)

# Raise it whenever what is measured, how, or a stated drift changes: what was remembered before is forgotten.
_PROBE_VERSION = 7
_HEADS = {"dense": "pooling", "sparse": "sparse_linear.pt", "multivector": "colbert_linear.pt"}
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
        lack = _lack(checkpoint, scheme)
        if lack is not None and found.runs:
            found = Measured(None, None, None, lack, None, found.quiet)
        elif checkpoint.architecture in DECODERS and not scheme.is_plain:
            found = replace(found, drift=None)
        schemes[scheme] = found
    return replace(here, schemes=schemes)


def _lack(checkpoint: Checkpoint, scheme: Scheme) -> str | None:
    """Why the engine of a scheme cannot run a model, of any of its encoders; None where it can."""
    engine = ENGINES[scheme.engine]
    found = (engine.lacks(one.architecture) for one in checkpoint.members)
    return next((lack for lack in found if lack is not None), None)


def make_plan(
    checkpoint: Checkpoint,
    *,
    precision: object = "auto",
    device: object = None,
    outputs: str | Sequence[str] | None = None,
    token_budget: int | None = None,
    output_dtype: object = None,
    max_length: int | None = None,
    tolerance: float | None = None,
) -> Plan:
    """Where and in what format a checkpoint runs here, and why. Reads no weight.

    "auto" follows the verdict that an audit saved for these weights on this machine; where one may fit, the
    weights are hashed once.

    Args:
        checkpoint: what is on disk.
        precision: "auto", "checkpoint", a dtype or variant in any spelling, a Wish, a Precision; or a Plan,
            which is checked and given back.
        device: in any spelling; None for the best that is there.
        outputs: what will be made, of "dense", "sparse", "multivector"; None for all that can be.
        token_budget: most tokens in one forward; None has it chosen.
        output_dtype: of the vectors; None for float32.
        max_length: longest text in tokens; None for the checkpoint's own limit.
        tolerance: largest mean 1 - cosine to float32 that is acceptable; None for what is not visible, or
            whatever a precision asked for by name has.

    Raises:
        PrecisionError: what was asked for does not run here, or the memory does not suffice.
    """
    if isinstance(precision, Plan):
        return _replayed(precision, checkpoint)
    outputs = None if outputs is None else named_outputs(outputs)
    wish = precision if isinstance(precision, Precision) else Wish.parse(precision)
    output = None if output_dtype is None else DType.parse(output_dtype)
    # Before a probe, which leaves behind what the prediction counts anyway: the maths library at work.
    process_bytes = process_memory()
    footprint = checkpoint.footprint()
    _check_outputs(footprint, outputs)
    here = capability_for(checkpoint, capability(device))
    choice: Choice | None = None
    kept: tuple[int, ...] = ()
    audited = recall(checkpoint, here.device, kernels_here()) if _is_auto(wish) else None
    if audited is not None and set(outputs or footprint.outputs) <= set(audited.outputs):
        here = replace(here, schemes=_as_audited(here.schemes, audited.drifts))
        found = here.schemes.get(audited.scheme)
        if tolerance is None and found is not None and found.runs:
            choice, kept = Choice(audited.scheme, (_audited_reason(audited),)), audited.float32_layers
    made = plan_footprint(
        footprint,
        here,
        wish,
        token_budget=token_budget,
        output_dtype=output,
        outputs=outputs,
        max_length=max_length,
        process_bytes=process_bytes,
        tolerance=tolerance,
        choice=choice,
    )
    return with_float32_layers(made, checkpoint, kept)


def with_float32_layers(plan: Plan, checkpoint: Checkpoint, layers: Sequence[int]) -> Plan:
    """The same plan with some encoder layers in float32, and what they add to its memory.

    Raises:
        PrecisionError: there is no such layer.
    """
    if not layers:
        return plan
    kept = tuple(sorted(set(layers)))
    module, names = check_encoder(checkpoint)
    prefixes = float32_prefixes(module, kept)
    numbers = sum(prod(target.shape) for target in names.values() if target.parameter.startswith(prefixes))
    more = numbers * max(0, DType.FLOAT32.bytes - plan.precision.weights.bytes)
    named = f"encoder layers {', '.join(map(str, kept))}" if len(kept) > 1 else f"encoder layer {kept[0]}"
    return replace(
        plan,
        float32_layers=kept,
        memory=(*plan.memory, (f"{named} in float32 instead", more)),
        peak_bytes=plan.peak_bytes + more,
        reasons=(*plan.reasons, f"{named.capitalize()} stays in float32, whatever the others are."),
    )


def _is_auto(wish: Wish | Precision) -> bool:
    return isinstance(wish, Wish) and wish.kind == "auto"


def _as_audited(
    schemes: Mapping[Scheme, Measured], drifts: Mapping[Scheme, Drift]
) -> Mapping[Scheme, Measured]:
    """The table with the drift that an audit of this model measured, in place of what engines state."""
    return {
        scheme: replace(found, drift=drifts.get(scheme, found.drift)) for scheme, found in schemes.items()
    }


def _audited_reason(audited: Remembered) -> str:
    return f"auto follows the audit of this model on this machine ({audited.when}): {audited.reason}"


def plan(
    path_or_id: str | Path,
    *,
    precision: object = "auto",
    device: object = None,
    outputs: str | Sequence[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    token_budget: int | None = None,
    output_dtype: object = None,
    tolerance: float | None = None,
    confirm: Callable[[int], bool] | None = None,
) -> Plan:
    """The plan that `tercet.load` would follow with the same options; fetches and reads headers, no weight.

    The model is a folder, a hub id such as "BAAI/bge-m3", or "minilm" for the packaged all-MiniLM-L6-v2;
    every option is one of `tercet.load`. Of a reranker it is the plan that `tercet.load_reranker` would
    follow, where `outputs`, `pooling` and `output_dtype` mean nothing.

    Raises:
        InputError: an option that a reranker does not have.
        CheckpointError, SourceError: the model is not there, or its headers are damaged.
        PrecisionError: the precision or device cannot be honoured, or the memory does not suffice.
    """
    source = find(
        path_or_id,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_folder=cache_folder,
        headers_only=True,
        confirm=confirm,
    )
    if reranks := is_reranker(source):
        _refuse_vectors(source, outputs=outputs, pooling=pooling, output_dtype=output_dtype)
    return make_plan(
        open_reranker(source) if reranks else open_checkpoint(source, pooling=pooling),
        precision=precision,
        device=device,
        outputs=outputs,
        token_budget=token_budget,
        output_dtype=output_dtype,
        max_length=max_length,
        tolerance=tolerance,
    )


def _refuse_vectors(source: Source, **options: object) -> None:
    """An error for an option that decides about vectors, of which a reranker makes none."""
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"{name} belongs to models that make vectors, and {source.name} is a reranker: it gives "
                "scores of pairs, in float32. Leave it out."
            )


def kernels_here() -> str:
    """The best instruction level of the native kernels that runs here, or why there are none."""
    found = library()
    return f"none: {absence()}" if found is None else found.level


def remembered_in(device: str) -> Path:
    """The file in which what was measured of a device is remembered, whether it is there yet or not."""
    return user_cache() / _file(_key(device))


def _check_outputs(footprint: Footprint, outputs: Sequence[str] | None) -> None:
    """An error where an output was asked for that the checkpoint cannot make."""
    for output in outputs or ():
        if output not in _HEADS:
            raise InputError(f"There is no output {output!r}. {nearest(output, _HEADS)}")
        if output not in footprint.outputs:
            raise CheckpointError(
                f"{footprint.name}: no {output} output, since there is no {_HEADS[output]} in the "
                f"checkpoint. It makes: {', '.join(footprint.outputs)}. Fetch the file, or ask for those."
            )


def _replayed(plan: Plan, checkpoint: Checkpoint) -> Plan:
    """A plan that someone made earlier, after its engine was found to be here and its formats to agree."""
    where = f"the plan of {plan.model or 'a model'}"
    if plan.scheme.engine not in ENGINES:
        raise UnknownNameError(
            f"{where} runs on the engine {plan.scheme.engine!r}, which is not here. "
            f"{nearest(plan.scheme.engine, ENGINES.names())} Make the plan anew."
        )
    if plan.scheme not in ENGINES[plan.scheme.engine].schemes(plan.device):
        raise PrecisionError(
            f"{where} runs {plan.scheme} on {plan.device}, which that engine does not do here. "
            "Make the plan anew."
        )
    if (lack := _lack(checkpoint, plan.scheme)) is not None:
        raise PrecisionError(f"{where} runs {plan.scheme}, and {lack}. Make the plan anew.")
    # A file edited by hand may contradict itself; its vectors would not be what their provenance says.
    heads = DType.FLOAT64 if plan.scheme.dtype is DType.FLOAT64 else DType.FLOAT32
    for name, dtype in (("weights", plan.scheme.dtype), ("compute", plan.scheme.compute), ("heads", heads)):
        found = getattr(plan.precision, name)
        if found is not dtype:
            raise PrecisionError(
                f"{where} has {name} in {found}; with a body in {plan.scheme.label} they are in {dtype}. "
                "Make the plan anew."
            )
    if not plan.precision.output.is_float or plan.precision.output.bytes < 2:
        raise PrecisionError(
            f"{where} has output in {plan.precision.output}; vectors come out in float32, float16, bfloat16 "
            "or float64. Make the plan anew."
        )
    find_device(plan.device)
    return plan


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
