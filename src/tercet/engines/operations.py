"""Whether an encoder's operations run in a number format on a device: tried, not looked up."""

from __future__ import annotations

__all__ = ["failure_of", "synchronise_device"]

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tercet.precision.dtype import DType


def failure_of(device: torch.device, dtype: DType) -> str | None:
    """The first of an encoder's operations that does not run, with torch's message; None if all run."""
    kind = dtype.torch
    generator = torch.Generator().manual_seed(0)
    step = "conversion"
    try:
        x = torch.randn(6, 32, generator=generator, dtype=torch.float32).to(device, kind)
        weight = torch.randn(96, 32, generator=generator, dtype=torch.float32).to(device, kind)
        ids = torch.tensor([0, 5, 3], device=device)
        heads = x.view(1, 6, 2, 16).transpose(1, 2)
        operations: list[tuple[str, Callable[[], Tensor]]] = [
            ("embedding", lambda: functional.embedding(ids, weight)),
            ("add", lambda: x + weight[0]),
            ("layer_norm", lambda: functional.layer_norm(x, (32,), x[0], x[1], 1e-12)),
            ("linear", lambda: functional.linear(x, weight, weight[:, 0])),
            ("gelu", lambda: functional.gelu(x)),
            ("gelu (tanh)", lambda: functional.gelu(x, approximate="tanh")),
            ("relu", lambda: functional.relu(x)),
            ("silu", lambda: functional.silu(x)),
            ("tanh", lambda: torch.tanh(x)),
            ("softmax", lambda: torch.softmax(x, dim=-1)),
            (
                "scaled_dot_product_attention",
                lambda: functional.scaled_dot_product_attention(heads, heads, heads),
            ),
            ("index_select", lambda: x.index_select(0, ids)),
            ("cat", lambda: torch.cat([x, x])),
            ("isfinite", lambda: torch.isfinite(x).to(torch.float32)),
            ("conversion to float32", lambda: x.to(torch.float32)),
        ]
        for step, operation in operations:
            result = operation()
            synchronise_device(device)
            if not bool(torch.isfinite(result.to("cpu", torch.float32)).all()):
                return f"{step}: gives values that are not finite"
    except (RuntimeError, TypeError) as error:  # not implemented, or a dtype that the device does not have
        return f"{step}: {str(error).strip().splitlines()[0]}"
    return None


def synchronise_device(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
