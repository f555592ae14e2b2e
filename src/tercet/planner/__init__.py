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

from tercet.planner.making import make_plan, plan, with_float32_layers
from tercet.planner.probing import capability, capability_for, kernels_here, probe, remembered_in
