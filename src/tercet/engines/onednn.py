"""int8 by oneDNN, through operations of torch's own quantisation: for processors without our kernels.

Weights have a scale for each output. Activations are unsigned, with a scale and a zero point for each token;
the operation knows one of each for the whole batch, so it multiplies bare codes and the tokens' own follow.
"""

from __future__ import annotations

__all__ = ["STATED_DRIFT", "QuantisedLinear", "quantise_rows"]

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from tercet.checkpoint.layout import Checkpoint
from tercet.engines import ENGINES, Engine
from tercet.engines.heap import give_back_free_memory
from tercet.engines.mixed import float32_prefixes, linear_layers
from tercet.engines.packed import LinearWeight, PackedEncoder, SingleLinear, lacks_decoders, load_packed
from tercet.engines.probing import CRANFIELD, probe_linear
from tercet.engines.torch_packed import rounded
from tercet.layers.activation import Activation
from tercet.layers.linear import FeedForward, Product
from tercet.model import check_encoder
from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.plan import Plan
from tercet.precision.scheme import Drift, Scheme

STATED_DRIFT = Drift(1.1e-3, 6.6e-3, CRANFIELD)

_LEVELS, _LARGEST = 255, 127  # codes of an activation are 0..255, of a weight -127..127
# Rows that a feed-forward net takes at once: what lies between its layers stays in cache, and in few bytes.
_ROWS = 256
# Below this step a row is nothing but zeros to float32 arithmetic, and its inverse would be infinite.
_SMALLEST_STEP = 1e-36


class QuantisedLinear:
    """A linear layer in int8: the sums are exact integers, and float32 once they are scaled."""

    def __init__(self, weight: Tensor) -> None:
        """Quantise and pack a weight (out, in) float32, each output by its own largest number."""
        scale = weight.abs().amax(dim=1).div_(_LARGEST).clamp_(min=_SMALLEST_STEP)
        codes = torch.round(weight / scale[:, None]).to(torch.int8)
        self._out_features = len(weight)
        self._scale = scale
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)
        # What one step of a token's zero point adds to each output.
        self._sums = codes.sum(dim=1, dtype=torch.int32) * scale
        self._weight = torch.ops.onednn.qlinear_prepack(codes, None)

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(tokens, in) float32 -> (tokens, out) float32."""
        tokens = len(x)
        if not tokens:
            return x.new_empty(0, self._out_features)
        codes, scale, zero = quantise_rows(x)
        # Codes as they are, no bias, float32 out: what only scales outputs is all that is left to oneDNN.
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, self._weight, self._scale, self._zero_points, None, 1.0, 0, torch.float32,
            "none", [], "",
        )[:tokens]  # fmt: skip
        out.mul_(scale[:, None])
        # - zero point * scale * sum of the weights + bias, in one pass
        rows = torch.stack([scale * zero, torch.ones_like(scale)], dim=1)
        out.addmm_(rows, torch.stack([-self._sums, bias]))
        if activation is not None:
            out = activation(out)
        return out if residual is None else out.add_(residual)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unsigned codes of each row, and its scale and zero point: x ~ scale * (codes - zero point).

    0 has a code of its own. A row with a number that is not finite gets a scale that is not finite either.

    Returns:
        (rows, in) uint8, the rows rounded up for oneDNN, which compiles for each number of them; what stands
        in those behind the last is anything. Scale and zero point: (tokens,) float32.
    """
    # Two passes: torch's one that finds both is many times slower.
    low, high = x.amin(dim=1).clamp_(max=0), x.amax(dim=1).clamp_(min=0)
    scale = (high - low).div_(_LEVELS).clamp_(min=_SMALLEST_STEP)
    zero = torch.round(-low / scale)
    values = (x * scale.reciprocal()[:, None]).add_(zero[:, None]).round_().clamp_(0, _LEVELS)
    codes = torch.empty(rounded(len(x)), x.shape[1], dtype=torch.uint8)
    codes[: len(x)] = values
    return codes, scale, zero


def _feed_forward(
    net: FeedForward, x: Tensor, up_bias: Tensor, down_bias: Tensor, residual: Tensor
) -> Tensor:
    """The net by blocks of rows."""
    out = torch.empty_like(x)
    for rows in (slice(start, start + _ROWS) for start in range(0, len(x), _ROWS)):
        inner = net.up(x[rows], activation=net.activation)
        out[rows] = net.down(inner, residual=residual[rows])
    return out


def _products(weights: list[LinearWeight], in_float32: tuple[str, ...] = ()) -> list[Product]:
    """Each layer packed, one at a time; float32 below the prefixes that the plan keeps so."""
    made: list[Product] = []
    for weight in weights:
        kept = weight.path.startswith(in_float32)
        made.append(SingleLinear(weight.read()) if kept else QuantisedLinear(weight.read()))
        give_back_free_memory()
    return made


class _Kind:
    name = "onednn"

    def schemes(self, device: str) -> Sequence[Scheme]:
        """int8, on a CPU."""
        between = DType.FLOAT32
        return [Scheme(DType.INT8, between, None, self.name, None, between)] if device == "cpu" else []

    def probe(self, device: str, schemes: Sequence[Scheme]) -> Mapping[Scheme, Measured]:
        """Products timed against float32's."""
        failure = _failure()
        if failure is not None:
            return {scheme: Measured(None, None, None, failure, STATED_DRIFT) for scheme in schemes}
        return probe_linear(
            {scheme: QuantisedLinear for scheme in schemes}, drifts=dict.fromkeys(schemes, STATED_DRIFT)
        )

    def lacks(self, architecture: str) -> str | None:
        """Decoders."""
        return lacks_decoders(architecture)

    def open(self, checkpoint: Checkpoint, plan: Plan) -> Engine:
        """The body with its linear layers quantised."""
        prefixes = float32_prefixes(check_encoder(checkpoint)[0], plan.float32_layers)
        encoder = load_packed(checkpoint, partial(_products, in_float32=prefixes))
        for net in [part for part in encoder.modules() if isinstance(part, FeedForward)]:
            net.product = partial(_feed_forward, net)
        kept = linear_layers(encoder, prefixes)
        return PackedEncoder(encoder, plan.token_budget, float32_layers=kept)


def _failure() -> str | None:
    """Why the operations do not run in this torch; None where they do, and compute what they should."""
    weight = torch.eye(32, dtype=torch.float32)
    x = torch.arange(64, dtype=torch.float32).view(2, 32)
    try:
        found = QuantisedLinear(weight)(x, weight, torch.zeros(32, dtype=torch.float32))
    except (AttributeError, RuntimeError, TypeError) as error:  # another release, another build, no oneDNN
        return f"onednn.qlinear: {str(error).strip().splitlines()[0]}"
    if not bool((found - x).abs().max() < 1):
        return "onednn.qlinear: gives wrong values"
    return None


ENGINES.register("onednn")(_Kind())
