"""A plan that was made earlier, or edited by hand, held to this machine and this checkpoint."""

from __future__ import annotations

__all__ = ["replayed"]

from tercet.checkpoint.layout import Checkpoint
from tercet.engines import ENGINES
from tercet.errors import PrecisionError, UnknownNameError, nearest
from tercet.planner.probing import lack_of_engine
from tercet.precision.dtype import DType
from tercet.precision.hardware import find_device
from tercet.precision.plan import Plan


def replayed(plan: Plan, checkpoint: Checkpoint) -> Plan:
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
    if (lack := lack_of_engine(checkpoint, plan.scheme)) is not None:
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
