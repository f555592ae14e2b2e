"""Footprint + capability + wish -> plan: pure, with a reason for each choice."""

from __future__ import annotations

__all__ = ["Footprint", "Plan"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tercet.precision.dtype import Precision
from tercet.precision.scheme import Scheme

FileFormat = Literal["safetensors", "torch", "torch-legacy"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """The numbers of a checkpoint that a plan needs; read from headers, without one weight.

    Attributes:
        name: what the user called the model.
        architecture: "bert", "roberta" or "xlm-roberta".
        file_format: how the body's weights are stored; "torch-legacy" must be read whole.
        stored: stored dtype name -> numbers of the whole checkpoint in that dtype.
        body_numbers: floating-point numbers of the encoder.
        head_numbers: floating-point numbers of heads and other modules.
        largest_tensor: numbers of the largest single tensor.
        hidden, layers, attention_heads, intermediate, vocabulary: the encoder's sizes.
        max_tokens: longest text in tokens that the model takes, special tokens included.
        outputs: what the checkpoint can make, of "dense", "sparse", "multivector".
        dense_dim, multivector_dim: widths of the vectors; multivector_dim None without that head.
        fused_numbers: numbers of the encoder that are copied on load even when nothing is cast (fused q/k/v).
    """

    name: str
    architecture: str
    file_format: FileFormat
    stored: Mapping[str, int]
    body_numbers: int
    head_numbers: int
    largest_tensor: int
    hidden: int
    layers: int
    attention_heads: int
    intermediate: int
    vocabulary: int
    max_tokens: int
    outputs: tuple[str, ...]
    dense_dim: int
    multivector_dim: int | None
    fused_numbers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and in what format a model runs, and why; prints as a page a person can argue with.

    Attributes:
        device: torch's name of the device.
        scheme: how the body runs.
        precision: which format runs where.
        token_budget: most tokens in one forward (a longer text goes alone).
        peak_bytes: predicted peak memory of loading and running, on the device (on the CPU: of the process).
        free_bytes: what was free when the plan was made.
        reasons: a sentence for every choice.
    """

    device: str
    scheme: Scheme
    precision: Precision
    token_budget: int
    peak_bytes: int
    free_bytes: int
    reasons: tuple[str, ...]
