"""Low-rank adapters (LoRA: Hu et al. 2021): a small matrix product beside each linear layer is what learns.

Saved added to the weights, or alone in the format of peft, which loads it onto the model that was trained.
"""

from __future__ import annotations

__all__ = ["Adapter", "add_adapters", "save_adapters"]

import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.checkpoint.writer import write_aside, write_tensors
from tercet.encoders import Encoder
from tercet.errors import InputError
from tercet.layers.activation import Activation
from tercet.layers.linear import Linear
from tercet.training.dropout import Dropping
from tercet.training.recipe import LoraRecipe


class Adapter(nn.Module):
    """A linear layer's product with an adapter's added: up(down(dropout(x))) * alpha / rank.

    Attributes:
        down: (rank, in), drawn as torch.nn.Linear's.
        up: (out, rank), 0 at first, so that an untrained adapter changes nothing.
        factor: alpha / rank.
    """

    def __init__(self, linear: Linear, recipe: LoraRecipe, generator: torch.Generator) -> None:
        super().__init__()
        bound = linear.in_features**-0.5
        drawn = torch.empty(recipe.rank, linear.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(drawn)
        self.up = nn.Parameter(torch.zeros(linear.out_features, recipe.rank))
        self.factor = recipe.alpha / recipe.rank
        self.dropout = recipe.dropout
        before = linear.product
        self.dropout_behind = before.part if isinstance(before, Dropping) else 0.0

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(tokens, in) -> (tokens, out)."""
        low = functional.linear(functional.dropout(x, self.dropout, self.training), self.down)
        out = functional.linear(x, weight, bias) + self.factor * functional.linear(low, self.up)
        if activation is not None:
            return activation(out)
        out = functional.dropout(out, self.dropout_behind, self.training)
        return out if residual is None else out + residual

    def added_to(self, weight: Tensor) -> Tensor:
        """(out, in), the weight that gives by itself what both give."""
        return weight + self.factor * (self.up.detach() @ self.down.detach())


def add_adapters(encoder: nn.Module, recipe: LoraRecipe, seed: int) -> None:
    """Has an adapter learn beside each linear layer that the recipe means; all else of the encoder is frozen.

    Raises:
        InputError: the encoder has no such layer.
    """
    encoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found = [
        (name, module)
        for name, module in encoder.named_modules()
        if name.startswith("layers.") and isinstance(module, Linear)
    ]
    wanted = [
        module
        for name, module in found
        if recipe.layers == "all" or ("feed_forward" in name) is (recipe.layers == "feed_forward")
    ]
    if not wanted:
        raise InputError(f"lora.layers is {recipe.layers!r}, and the encoder has no such linear layer.")
    for module in wanted:
        module.product = Adapter(module, recipe, generator)


def save_adapters(encoder: nn.Module, recipe: LoraRecipe, folder: Path, base: str) -> Path:
    """The folder, now holding the adapters alone as peft saves those of the encoder's model in transformers.

    Args:
        encoder: that `add_adapters` was given.
        recipe: what it was given.
        folder: new or empty.
        base: the model that the adapters belong to.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    modules = []
    for name, target in cast(Encoder, encoder).names().items():
        owner, _, kind = target.parameter.rpartition(".")
        adapter = getattr(encoder.get_submodule(owner), "product", None)
        if kind == "weight" and isinstance(adapter, Adapter):
            module = name.removesuffix(".weight")
            modules.append(module)
            tensors[f"base_model.model.{module}.lora_A.weight"] = adapter.down.detach()
            tensors[f"base_model.model.{module}.lora_B.weight"] = adapter.up.detach()
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": base,
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with write_aside(folder) as aside:
        plan = {name: ("float32", tuple(values.shape)) for name, values in tensors.items()}
        [written] = write_tensors(aside, plan, ((name, values.cpu()) for name, values in tensors.items()))
        written.rename(aside / "adapter_model.safetensors")
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (aside / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    return folder
