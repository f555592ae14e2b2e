"""Gram matrices of what enters the linear layers of a model: means over tokens of x x'."""

from __future__ import annotations

__all__ = ["GramMatrices"]

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.header import TensorInfo
from tercet.encoders import Encoder
from tercet.errors import NonFiniteError
from tercet.layers.linear import Linear
from tercet.modules.colbert_linear import ColbertLinear
from tercet.modules.dense_layer import Dense
from tercet.training.model import Trainable

_OF_ONE_INPUT = re.compile(r"(.*)\.apart\.\d+")


class GramMatrices:
    """Sums of x x' over the rows that enter each linear layer: a batch's in float32, those in float64.

    Attributes:
        sums: key of a weight -> (in, in), float64.
        rows: key -> how many rows were added: tokens, or texts behind the pooling.
        shared: key of a weight -> key of another one with the same input, whose sum is its own.
    """

    def __init__(self, model: Trainable, key: Callable[[TensorInfo], str | None]) -> None:
        """Of the layers of a model; `key` is what a stored weight is called, None of one to leave out."""
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}
        self.shared: dict[str, str] = {}
        self._hooks: list[tuple[nn.Module, Callable[[nn.Module, Any], None]]] = []
        self._of_encoder(model, key)
        self._of_heads(model, key)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it is open, whatever enters a layer of the model is added."""
        handles = [module.register_forward_pre_hook(hook) for module, hook in self._hooks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def mean(self, key: str) -> Tensor:
        """(in, in) float64, the mean over rows.

        Raises:
            NonFiniteError: a number that is not finite entered the layer.
        """
        found = self.sums[key] / max(1, self.rows[key])
        if not bool(found.isfinite().all()):
            raise NonFiniteError(
                f"What enters {key} is not finite for some text. Look at the model with tercet audit."
            )
        return found

    def _of_encoder(self, model: Trainable, key: Callable[[TensorInfo], str | None]) -> None:
        first: dict[str, str] = {}
        for name, target in cast(Encoder, model.encoder).names().items():
            path, _, kind = target.parameter.rpartition(".")
            owner, found = model.encoder.get_submodule(path), key(model.checkpoint.tensors[name])
            if kind != "weight" or not isinstance(owner, Linear) or found is None:
                continue
            # Query, key and value have one input.
            together = _OF_ONE_INPUT.fullmatch(path)
            if together and first.setdefault(together[1], found) != found:
                self.shared[found] = first[together[1]]
            else:
                self._watch(owner, found, _whole)

    def _of_heads(self, model: Trainable, key: Callable[[TensorInfo], str | None]) -> None:
        chain, late = model.heads.chain, model.heads.multivector
        specs = {spec.kind: spec for spec in model.checkpoint.modules if spec.kind.endswith("_linear")}
        if "sparse_linear" in specs and (found := key(specs["sparse_linear"].tensors["weight"])):
            assert chain is not None  # the model gives dense vectors
            self._watch(chain, found, _whole)
        if "colbert_linear" in specs and (found := key(specs["colbert_linear"].tensors["weight"])):
            assert isinstance(late, ColbertLinear)
            self._watch(late, found, _without_first)
        dense = [spec for spec in model.checkpoint.modules if spec.kind == "dense"]
        behind = [] if chain is None else [one for one in chain.tail if isinstance(one, Dense)]
        for spec, module in zip(dense, behind, strict=True):
            found = key(spec.tensors["linear.weight"])
            residual = spec.tensors.get("residual.weight")
            if found is not None:
                self._watch(module, found, _whole)
                if residual is not None and (other := key(residual)) is not None:
                    self.shared[other] = found

    def _watch(self, module: nn.Module, key: str, rows: Callable[[Any], Tensor]) -> None:
        def hook(_: nn.Module, given: Any) -> None:
            x = rows(given).detach().float()
            if key not in self.sums:
                self.sums[key] = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
                self.rows[key] = 0
            self.sums[key] += x.T @ x
            self.rows[key] += len(x)

        self._hooks.append((module, hook))


def _whole(given: Any) -> Tensor:
    return cast(Tensor, given[0])


def _without_first(given: Any) -> Tensor:
    """What the late-interaction head takes: all tokens but each text's first."""
    hidden, batch = cast(tuple[Tensor, Batch], given)
    kept = torch.ones(len(hidden), dtype=torch.bool)
    kept[batch.cu_seqlens[:-1].long()] = False
    return hidden[kept]
