"""Checkpoint -> heads: everything behind the encoder, and what a call asks of it."""

from __future__ import annotations

__all__ = ["HeadOptions", "Heads", "named_outputs"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint, ModuleSpec
from tercet.checkpoint.sparse_modules import SPARSE_MODULES
from tercet.checkpoint.token_modules import LAYER_POOLING
from tercet.embeddings import MultiVectors, SparseVectors
from tercet.errors import CheckpointError, InputError
from tercet.layers.norm import unit_rows
from tercet.modules import MODULES
from tercet.modules.chain import DenseChain, dense_chain
from tercet.modules.colbert_linear import ColbertLinear
from tercet.modules.late_chain import LateChain, late_chain
from tercet.modules.sparse_linear import SparseLinear
from tercet.modules.way import SparseHead, Way
from tercet.precision.dtype import DType

_HEAD_FILES = {"dense": "pooling", "sparse": "sparse_linear.pt", "multivector": "colbert_linear.pt"}


def named_outputs(outputs: object) -> tuple[str, ...]:
    """The names of outputs that a user gave: one, or several in any iterable."""
    if isinstance(outputs, str):
        return (outputs,)
    names = tuple(outputs) if isinstance(outputs, Iterable) else ()
    if not isinstance(outputs, Iterable) or not all(isinstance(name, str) for name in names):
        raise InputError(f"outputs is {outputs!r}. Pass one or several of 'dense', 'sparse', 'multivector'.")
    return names


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What one call asks of the heads.

    Attributes:
        outputs: of "dense", "sparse", "multivector".
        dimensions: first so many columns of dense and multi-vector embeddings, renormalised; None for all.
        normalize: unit length or not; None for what the checkpoint says (multi-vector rows: unit length).
        route: which of the checkpoint's routes a dense vector takes; None where there are none.
        max_active_dims: so many of the largest weights of a sparse vector; None for what the checkpoint says.
        dropped, kept: of late interaction, ids of tokens without a vector, and of the only ones with one
            (None for all).
        pools: of late interaction, whether the checkpoint's pooling of token vectors is for these texts.
    """

    outputs: tuple[str, ...]
    dimensions: int | None = None
    normalize: bool | None = None
    route: str | None = None
    max_active_dims: int | None = None
    dropped: tuple[int, ...] = ()
    kept: tuple[int, ...] | None = None
    pools: bool = False


class Heads(nn.Module):
    """Everything behind the encoder, in one dtype, float32 unless the body is wider."""

    def __init__(
        self,
        usual: Way,
        *,
        vocabulary: int,
        special_ids: frozenset[int],
        dtype: torch.dtype,
        truncate_dim: int | None,
        max_active_dims: int | None,
        multivector: ColbertLinear | LateChain | None,
        routes: Mapping[str, Way],
    ) -> None:
        super().__init__()
        self.usual = usual
        # By number: names of modules may not be any text.
        self.route_names = tuple(routes)
        self.routes = nn.ModuleList(routes.values())
        self.width = usual.width
        self.vocabulary = vocabulary
        self.dtype = dtype
        # The checkpoint's own wish for its dense vectors, where a call has none.
        self.truncate_dim = truncate_dim
        self.max_active_dims = max_active_dims
        self.multivector = multivector
        self.register_buffer("special_ids", torch.tensor(sorted(special_ids), dtype=torch.int64))

    @classmethod
    def open(cls, checkpoint: Checkpoint, dtype: DType, special_ids: frozenset[int]) -> Heads:
        """The heads of a checkpoint, with their weights in `dtype` on the CPU.

        Raises:
            CheckpointError: a module does not fit the vectors that reach it, or there is no pooling.
        """
        body = int(checkpoint.config["hidden_size"])
        multivector: ColbertLinear | LateChain | None = None
        made: dict[tuple[str, str, int], nn.Module] = {}

        def build(spec: ModuleSpec, width: int) -> nn.Module:
            # Modules that routes share are there once.
            key = spec.kind, spec.where, width
            if key not in made:
                made[key] = MODULES[spec.kind](spec, width, partial(_read, checkpoint, spec, dtype))
            return made[key]

        def way(specs: Iterable[ModuleSpec]) -> Way:
            specs = [spec for spec in specs if spec.kind != LAYER_POOLING]  # which the encoder does itself
            ends = [spec for spec in specs if spec.kind in ("sparse_linear", *SPARSE_MODULES)]
            dense = [spec for spec in specs if spec not in ends and spec.kind != "colbert_linear"]
            alone = bool(ends) and not dense
            chain = None if alone else dense_chain(dense, body, build, str(checkpoint.folder))
            takes = chain.width if chain and ends and ends[0].kind == "sparse_auto_encoder" else body
            return Way(chain, cast(SparseHead, build(ends[0], takes)) if ends else None)

        if checkpoint.late is not None:
            multivector = late_chain(checkpoint.modules, body, build, dtype.torch)
        elif (colbert := checkpoint.module("colbert_linear")) is not None:
            multivector = cast(ColbertLinear, build(colbert, body))
        heads = cls(
            Way(None, None) if checkpoint.late is not None else way(checkpoint.modules),
            routes={
                name: way(specs)
                for name, specs in ({} if checkpoint.routes is None else checkpoint.routes.modules).items()
            },
            vocabulary=int(checkpoint.config["vocab_size"]),
            special_ids=special_ids,
            dtype=dtype.torch,
            truncate_dim=checkpoint.truncate_dim,
            max_active_dims=checkpoint.max_active_dims,
            multivector=multivector,
        )
        heads.requires_grad_(False).eval()
        return heads

    @property
    def outputs(self) -> tuple[str, ...]:
        """What these heads can make."""
        return (*self.usual.outputs, *(["multivector"] if self.multivector is not None else []))

    @property
    def chain(self) -> DenseChain | None:
        """What the dense vectors of the usual way go through; None of a model without them."""
        return self.usual.chain

    @property
    def sparse(self) -> SparseHead | None:
        """What makes the sparse vectors of the usual way; None of a model without them."""
        return self.usual.sparse

    def _way(self, options: HeadOptions) -> Way:
        """The modules that the texts of a call go through."""
        if options.route is None:
            return self.usual
        return cast(Way, self.routes[self.route_names.index(options.route)])

    def check(self, options: HeadOptions, where: str) -> None:
        """An error where the options ask for something that these heads cannot make."""
        if not options.outputs:
            raise InputError("outputs is empty. Ask for at least one of 'dense', 'sparse', 'multivector'.")
        way = self._way(options)
        made = (*way.outputs, *(["multivector"] if self.multivector is not None else []))
        for output in options.outputs:
            if output not in ("dense", "sparse", "multivector"):
                raise InputError(f"There is no output {output!r}. Known: dense, sparse, multivector.")
            if output not in made:
                raise CheckpointError(
                    f"{where}: no {output} output, since there is no {_HEAD_FILES[output]} in the "
                    f"checkpoint. It makes: {', '.join(made)}. Fetch the file, or ask for those."
                )
        widths = {"dense": way.width} if "dense" in options.outputs else {}
        if "multivector" in options.outputs and self.multivector is not None:
            widths["multivector"] = self.multivector.out_width
        if options.dimensions is not None:
            if isinstance(options.dimensions, bool) or not isinstance(options.dimensions, int):
                raise InputError(f"dimensions is {options.dimensions!r}, it must be a positive integer.")
            for output, width in widths.items():
                if not 1 <= options.dimensions <= width:
                    raise InputError(
                        f"dimensions={options.dimensions}: the {output} vectors of {where} have {width}. "
                        f"Pass 1 to {width}."
                    )

    def forward(
        self, hidden: Tensor, batch: Batch, options: HeadOptions, prompt_tokens: int = 0
    ) -> tuple[Tensor | None, SparseVectors | None, MultiVectors | None]:
        """The outputs asked for, of packed token vectors; texts begin with `prompt_tokens` of a prompt."""
        way = self._way(options)
        dense = sparse = multivector = None
        if "dense" in options.outputs and way.chain is not None:
            dense = self._dense(way.chain, hidden, batch, options, prompt_tokens)
        if "sparse" in options.outputs:
            sparse = self._sparse(way, hidden, batch, options, prompt_tokens)
        if "multivector" in options.outputs and self.multivector is not None:
            multivector = self._multivector(hidden, batch, options)
        return dense, sparse, multivector

    def _multivector(self, hidden: Tensor, batch: Batch, options: HeadOptions) -> MultiVectors:
        found: MultiVectors
        if isinstance(self.multivector, LateChain):
            found = self.multivector(
                hidden,
                batch,
                dimensions=options.dimensions,
                normalize=options.normalize,
                dropped=options.dropped,
                kept=options.kept,
                pools=options.pools,
            )
        else:
            assert self.multivector is not None
            normalize = options.normalize is not False
            found = self.multivector(hidden, batch, dimensions=options.dimensions, normalize=normalize)
        return found

    def _sparse(
        self, way: Way, hidden: Tensor, batch: Batch, options: HeadOptions, prompt_tokens: int
    ) -> SparseVectors | None:
        most = self.max_active_dims if options.max_active_dims is None else options.max_active_dims
        if not isinstance(way.sparse, SparseLinear):
            return way.encoded(hidden, batch, self.dtype, prompt_tokens, most)
        found: SparseVectors = way.sparse(hidden, batch, self.special_ids, self.vocabulary)
        return found if most is None else found.top(most)

    def _dense(
        self, chain: DenseChain, hidden: Tensor, batch: Batch, options: HeadOptions, prompt_tokens: int
    ) -> Tensor:
        vectors: Tensor = chain(hidden, batch, self.dtype, prompt_tokens)
        dimensions = self.truncate_dim if options.dimensions is None else options.dimensions
        shortened = dimensions is not None and dimensions < vectors.shape[1]
        if shortened:
            vectors = vectors[:, :dimensions]
        normalize = options.normalize
        if normalize is None:
            normalize = chain.normalizes or shortened
        return unit_rows(vectors) if normalize else vectors


def _read(checkpoint: Checkpoint, spec: ModuleSpec, dtype: DType, name: str) -> Tensor:
    info = spec.tensors[name]
    return checkpoint.stored(info) if name in spec.as_stored else checkpoint.read(info, dtype)
