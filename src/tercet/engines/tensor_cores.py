"""What NVIDIA's tensor cores do beyond torch's plain dtypes: TF32 and float8, as schemes of torch_packed."""

from __future__ import annotations

__all__ = ["FLOAT8", "STATED_DRIFT", "TF32", "probe_tensor_cores", "schemes_of_tensor_cores"]

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from tercet.engines.probing import probe_linear
from tercet.engines.tf32 import tf32_products
from tercet.layers.activation import Activation
from tercet.layers.float8 import Float8Product
from tercet.layers.linear import Product, torch_product
from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.scheme import Drift, Scheme

_ENGINE = "torch_packed"
# Sums in float32, as exact as the hardware has them, in both.
TF32 = Scheme(DType.FLOAT32, DType.FLOAT32, None, _ENGINE, "tf32")
FLOAT8 = Scheme(DType.FLOAT8, DType.FLOAT32, None, _ENGINE, None, DType.BFLOAT16)

# benchmarks/float8_emulated.py measures float8's; a text of one word, with little to average, was 1e-2 away.
# TF32 states none before it is measured, so `auto` leaves it alone.
STATED_DRIFT: Mapping[Scheme, Drift] = {
    FLOAT8: Drift(
        2.8e-3, 4.5e-3, "all-MiniLM-L6-v2, 400 of Cranfield's texts, emulated on a CPU with float32 products"
    ),
}

# The compute capability that has the instructions.
_NEEDED = {TF32: (8, 0), FLOAT8: (8, 9)}


def schemes_of_tensor_cores(device: str) -> list[Scheme]:
    """The schemes worth probing on a device: both on CUDA, whatever it can do; none elsewhere."""
    return [TF32, FLOAT8] if device.startswith("cuda") else []


def probe_tensor_cores(device: str, schemes: Iterable[Scheme]) -> dict[Scheme, Measured]:
    """What a CUDA device does with each scheme, against float32 in the same run."""
    failures = {scheme: _failure(device, scheme) for scheme in schemes}
    found = {
        scheme: Measured(None, None, None, failure, STATED_DRIFT.get(scheme))
        for scheme, failure in failures.items()
        if failure is not None
    }
    running = {scheme: _PACKS[scheme] for scheme, failure in failures.items() if failure is None}
    return found | (probe_linear(running, drifts=STATED_DRIFT, device=device) if running else {})


def _failure(device: str, scheme: Scheme) -> str | None:
    """Why a scheme does not run on a device; None if it does, and computes what it should."""
    capability, needed = torch.cuda.get_device_capability(device), _NEEDED[scheme]
    if capability < needed:
        return (
            f"{scheme.label} products need compute capability {needed[0]}.{needed[1]}, and this GPU has "
            f"{capability[0]}.{capability[1]}"
        )
    weight = torch.eye(32, dtype=torch.float32, device=device)
    x = torch.arange(64, dtype=torch.float32, device=device).view(2, 32)
    given = x.to(scheme.compute.torch)
    try:
        with torch.inference_mode():
            found = _PACKS[scheme](weight)(given, weight, given.new_zeros(32)).float().cpu()
    except (RuntimeError, AttributeError) as error:  # another release of torch or of CUDA
        return f"a {scheme.label} product: {str(error).strip().splitlines()[0]}"
    # The matrix is the identity: what is off is a number's own rounding, at most 1/16 of it in float8.
    if not bool(((found - x.cpu()).abs() <= 0.07 * x.cpu()).all()):
        return f"a {scheme.label} product: gives wrong values"
    return None


def _tf32_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    with tf32_products():
        return torch_product(x, weight, bias, activation, residual)


_PACKS: Mapping[Scheme, Callable[[Tensor], Product]] = {
    TF32: lambda weight: _tf32_product,
    FLOAT8: lambda weight: Float8Product(weight.to(torch.bfloat16)),
}
