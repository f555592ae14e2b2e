"""Checkpoint + precision -> encoder and heads: every tensor used or named, nothing random."""

from __future__ import annotations

__all__ = [
    "HeadOptions",
    "Heads",
    "check_encoder",
    "hidden_in_float32",
    "load_encoder",
    "named_outputs",
    "position_limit",
    "read_target",
]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.body import UNLIMITED
from tercet.checkpoint.encoder_files import position_limit as positions_of
from tercet.checkpoint.layout import Checkpoint, ModuleSpec
from tercet.checkpoint.sparse_modules import SPARSE_MODULES
from tercet.checkpoint.token_modules import LAYER_POOLING
from tercet.embeddings import MultiVectors, SparseVectors
from tercet.encoders import ENCODERS, Encoder, Target
from tercet.encoders.static import StaticEncoder
from tercet.errors import CheckpointError, InputError
from tercet.layers.mixing import LayerMix, outcome
from tercet.layers.norm import unit_rows
from tercet.modules import MODULES
from tercet.modules.chain import DenseChain, dense_chain
from tercet.modules.colbert_linear import ColbertLinear
from tercet.modules.late_chain import LateChain, late_chain
from tercet.modules.sparse_linear import SparseLinear
from tercet.modules.way import SparseHead, Way
from tercet.precision.dtype import DType

_HEAD_FILES = {"dense": "pooling", "sparse": "sparse_linear.pt", "multivector": "colbert_linear.pt"}


def check_encoder(checkpoint: Checkpoint, *, fused: bool = True) -> tuple[nn.Module, Mapping[str, Target]]:
    """The encoder without memory and the table of its tensors, after every name and shape was compared.

    Reads no weight, but for those few by which a WeightedLayerPooling adds up the layers.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is not known; all are named at once.
    """
    where = str(checkpoint.folder / "config.json")
    module = _bare_encoder(checkpoint, fused=fused)
    module.requires_grad_(False).eval()
    cast(Encoder, module).mix = _layer_mix(checkpoint)
    names = cast(Encoder, module).names()
    faults = [f"'{name}' is missing" for name in names if name not in checkpoint.tensors]
    faults += [f"'{name}' is not known" for name in checkpoint.tensors if name not in names]
    faults += [
        f"'{name}' is {info.shape}, {where} makes it {target.shape}"
        for name, target in names.items()
        if (info := checkpoint.tensors.get(name)) is not None and info.shape != target.shape
    ]
    if faults:
        shown = "; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else "")
        raise CheckpointError(
            f"{checkpoint.folder}: the weights do not fit a {checkpoint.architecture} encoder: {shown}. "
            "Fetch the model again, or put the config.json that was saved with these weights beside them."
        )
    return module, names


def position_limit(checkpoint: Checkpoint) -> int:
    """Most tokens of a text that the encoder has positions for."""
    _check_layers(checkpoint)
    if not checkpoint.config["num_hidden_layers"]:  # a table alone knows no positions
        return UNLIMITED
    return positions_of(checkpoint.architecture, checkpoint.config)


def _check_layers(checkpoint: Checkpoint) -> None:
    """Refuse a number of layers that the weights cannot have."""
    where = checkpoint.folder / "config.json"
    # Each layer has tensors of its own; a number made up in the configuration is not built first.
    if (layers := int(checkpoint.config["num_hidden_layers"])) > max(100, len(checkpoint.tensors)):
        raise CheckpointError(
            f"{where} says {layers:,} layers, the weights have {len(checkpoint.tensors):,} tensors. "
            "Put the config.json that was saved with these weights beside them."
        )


def _bare_encoder(checkpoint: Checkpoint, *, fused: bool = True) -> nn.Module:
    """The encoder without memory."""
    _check_layers(checkpoint)
    where = str(checkpoint.folder / "config.json")
    with torch.device("meta"):
        return ENCODERS[checkpoint.architecture](checkpoint.config, where, fused=fused)


def _layer_mix(checkpoint: Checkpoint) -> LayerMix | None:
    """Which hidden states a WeightedLayerPooling adds up, and how much each of them counts."""
    spec = checkpoint.module(LAYER_POOLING)
    if spec is None or not spec.config["active"]:
        return None
    info = spec.tensors["layer_weights"]
    weights = checkpoint.read(info, DType.FLOAT32).double()
    total = float(weights.sum())
    if not total or not bool(torch.isfinite(weights).all()):
        raise CheckpointError(
            f"{info.file}: 'layer_weights' {weights.tolist()} add up to {total:g}, which would divide. "
            "Fetch or save the model again."
        )
    return LayerMix(spec.config["layer_start"], tuple((weights / total).tolist()))


def load_encoder(
    checkpoint: Checkpoint,
    dtype: DType,
    *,
    prefix: str = "",
    fused: bool = True,
    float32_layers: tuple[int, ...] = (),
) -> nn.Module:
    """The encoder with its weights on the CPU in `dtype`, read one tensor at a time.

    Tensors that need no cast and are not fused stay mapped from the file.

    Args:
        checkpoint: where the weights are.
        dtype: of all parameters.
        prefix: load only the parameters below it ("layers.3."); the others stay without memory.
        fused: copy the weights of projections of one input into one product.
        float32_layers: numbers of layers whose parameters are read in float32 instead.
    """
    module, names = check_encoder(checkpoint, fused=fused)
    if isinstance(module, StaticEncoder):
        module.dtype = dtype.torch
    prefixes = [where for where, _ in cast(Encoder, module).stages()] if float32_layers else []
    _fill(module, names, checkpoint, dtype, prefix, tuple(prefixes[number] for number in float32_layers))
    return module


def _fill(
    module: nn.Module,
    names: Mapping[str, Target],
    checkpoint: Checkpoint,
    planned: DType,
    prefix: str,
    in_float32: tuple[str, ...] = (),
) -> None:
    for name, target in names.items():
        if not target.parameter.startswith(prefix):
            continue
        dtype = DType.FLOAT32 if target.parameter.startswith(in_float32) else planned
        tensor = read_target(checkpoint, name, target, dtype)
        path, _, leaf = target.parameter.rpartition(".")
        owner = module.get_submodule(path)
        if target.first_row is None:
            setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))
            continue
        whole = getattr(owner, leaf)
        if whole.is_meta:
            whole = nn.Parameter(torch.empty(whole.shape, dtype=dtype.torch), requires_grad=False)
            setattr(owner, leaf, whole)
        whole.data[target.first_row : target.first_row + len(tensor)].copy_(tensor)
        checkpoint.release(checkpoint.tensors[name])


def read_target(checkpoint: Checkpoint, name: str, target: Target, dtype: DType) -> Tensor:
    """A tensor of the encoder on the CPU: in `dtype`, or as it is stored where it is used so.

    Raises:
        CheckpointError: it names rows that are not there.
    """
    info = checkpoint.tensors[name]
    if not target.as_stored:
        return checkpoint.read(info, dtype)
    stored = checkpoint.stored(info)
    if target.below is not None and stored.numel():
        low, high = (int(bound) for bound in torch.aminmax(stored))
        if low < 0 or high >= target.below:
            raise CheckpointError(
                f"{info.file}: {info.name!r} names rows {low:,} to {high:,}, there are {target.below:,}. "
                "The file is damaged or of different saves; fetch the model again."
            )
    return stored


def hidden_in_float32(checkpoint: Checkpoint, batch: Batch) -> Tensor:
    """(tokens, hidden) of a batch on the CPU, computed in float32, one layer in memory at a time.

    For texts whose values left the range of the planned dtype: no second model is held.
    """
    module, names = check_encoder(checkpoint)
    encoder = cast(Encoder, module)
    with torch.no_grad():
        for name, target in names.items():
            if target.parameter.startswith("layers."):
                continue
            owner = module.get_submodule(target.parameter.rpartition(".")[0])
            info = checkpoint.tensors[name]
            if len(info.shape) == 2 and target.parameter == "word.weight":
                # Of the word embeddings only the rows of these texts are cast; the rest stays in the file.
                ids, batch = _renumber(batch)
                stored = checkpoint.read(info, DType.parse(info.dtype))
                owner.weight = nn.Parameter(stored[ids].float(), requires_grad=False)
                checkpoint.release(info)
            else:
                leaf = target.parameter.rpartition(".")[2]
                tensor = read_target(checkpoint, name, target, DType.FLOAT32)
                setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))

        def states() -> Iterator[Tensor]:
            hidden = encoder.embed(batch)
            yield hidden
            for prefix, layer in encoder.stages():
                _fill(module, names, checkpoint, DType.FLOAT32, prefix)
                hidden = layer(hidden, batch)
                layer.to("meta")
                for name, target in names.items():
                    if target.parameter.startswith(prefix):
                        checkpoint.release(checkpoint.tensors[name])
                yield hidden

        return outcome(states(), encoder.mix)


def _read(checkpoint: Checkpoint, spec: ModuleSpec, dtype: DType, name: str) -> Tensor:
    info = spec.tensors[name]
    return checkpoint.stored(info) if name in spec.as_stored else checkpoint.read(info, dtype)


def _renumber(batch: Batch) -> tuple[Tensor, Batch]:
    """The distinct token ids of a batch, and the batch with their numbers in place of them."""
    ids, numbers = torch.unique(batch.token_ids, return_inverse=True)
    return ids, replace(batch, token_ids=numbers)


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
    """

    outputs: tuple[str, ...]
    dimensions: int | None = None
    normalize: bool | None = None
    route: str | None = None
    max_active_dims: int | None = None
    dropped: tuple[int, ...] = ()
    kept: tuple[int, ...] | None = None


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
