"""What a model folder holds, as found on disk: no weight read, no module built."""

from __future__ import annotations

__all__ = ["SPARSE_MODULES", "Checkpoint", "ModuleSpec"]

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tercet.checkpoint.body import UNLIMITED
from tercet.checkpoint.decoder_files import DECODERS, DecoderSizes
from tercet.checkpoint.encoder_files import BIASED
from tercet.checkpoint.hashing import hash_weights
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.tensors import TensorReader
from tercet.precision.dtype import DType
from tercet.precision.footprint import FileFormat, Footprint

if TYPE_CHECKING:
    from tercet.checkpoint.late_interaction import LateInteraction
    from tercet.checkpoint.routes import Routes

# Kinds of modules that end a stack with sparse vectors, and no others.
SPARSE_MODULES = ("splade_pooling", "sparse_auto_encoder", "token_weights")


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """One part after the encoder, as the checkpoint describes it.

    Attributes:
        kind: the module registry's name: "pooling", "dense", "cnn", "sparse_linear".
        where: folder or file it came from, relative to the checkpoint ("1_Pooling", "sparse_linear.pt").
        config: its settings under the new key names: old ones are translated, unknown ones refused.
        tensors: its weights by the names that the module's file has.
        as_stored: which of them keep their stored dtype, and are cast part by part when they are used.
    """

    kind: str
    where: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    as_stored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder as it really is; no weight read. May be shared by threads, pickled and forked.

    Attributes:
        folder: the root folder.
        name: what the user called it (hub id or path).
        layout: "huggingface", "sentence-transformers", "bge-m3", "colbert", "model2vec" or "reranker".
        architecture: config.json's model_type: "bert", "roberta", "distilbert"; "static" of a table alone,
            "token-presence" where there is no encoder.
        config: config.json of the encoder; where it has other names for BERT's keys, under BERT's, too. Of a
            table alone its sizes, under BERT's keys where there are such.
        tensors: the encoder's tensors by the encoder's own names: known prefixes ("bert.", "roberta.",
            "0.auto_model.") removed.
        modules: what stands between the encoder and the dense vector, in order; M3 heads are at the end. Of a
            checkpoint with routes those of the default one, or of the first where there is no default.
        routes: which modules a text goes through by what it is embedded for; None where all go the same way.
        branches: route -> the checkpoint of its encoder, where routes begin with encoders of their own; {}
            where all share one. All else but `routes` then is that of the largest encoder.
        late: of a model of late interaction, what is done to queries and documents; its modules then are
            about the vectors of tokens.
        tokenizer_file: tokenizer.json, or None where the folder has none.
        tokenizer_config: tokenizer_config.json, {} where there is none.
        max_length: longest text in tokens, special tokens included, by every place that limits it (never
            above the position table); `body.UNLIMITED` where nothing limits it.
        special_tokens: whether the tokenizer puts special tokens around a text.
        lowercase: True where sentence_bert_config.json asks for do_lower_case.
        prompts, default_prompt_name: as config_sentence_transformers.json has them.
        truncate_dim, max_active_dims: as config_sentence_transformers.json has them.
        notes: sentences about what was found that a user should know (tensors that are not used, an assumed
            pooling, mixed dtypes, a format that must be read whole).
        revision: hub commit, or None of a folder.
        encoder_path: folder of the encoder and its tokenizer, relative to `folder`: "" or "0_Transformer".
        file_format: how the encoder's weights are stored.
        files: the files of the encoder's weights.
        ignored: tensors of those files that no embedding uses (pooler, language-model head, buffers).
    """

    folder: Path
    name: str
    layout: str
    architecture: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    modules: tuple[ModuleSpec, ...]
    tokenizer_file: Path | None
    tokenizer_config: Mapping[str, Any]
    max_length: int
    special_tokens: bool = True
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    max_active_dims: int | None = None
    notes: tuple[str, ...] = ()
    revision: str | None = None
    encoder_path: str = ""
    file_format: FileFormat = "safetensors"
    files: tuple[Path, ...] = ()
    ignored: Mapping[str, TensorInfo] = field(default_factory=dict)
    routes: Routes | None = None
    branches: Mapping[str, Checkpoint] = field(default_factory=dict)
    late: LateInteraction | None = None
    _reader: TensorReader = field(default_factory=TensorReader, repr=False, compare=False)

    def module(self, kind: str) -> ModuleSpec | None:
        """The first module of a kind, or None."""
        return next((module for module in self.modules if module.kind == kind), None)

    def chain(self, route: str | None) -> tuple[ModuleSpec, ...]:
        """The modules of one route, or of all texts where there are no routes."""
        return self.modules if self.routes is None or route is None else self.routes.modules[route]

    def branch(self, route: str | None) -> Checkpoint:
        """The checkpoint of the encoder that a route begins with: this one where there is but one encoder."""
        return self if route is None else self.branches.get(route, self)

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """A checkpoint for each encoder, the largest first: this one where there is no other."""
        if not self.branches:
            return (self,)
        found = {one.encoder_path: one for one in self.branches.values()}
        return (found.pop(self.encoder_path), *found.values())

    @property
    def of_routes(self) -> str:
        """How notes and plans call it among others: "Route 'query'"."""
        names = [] if self.routes is None else list(self.routes.modules)
        return f"{'Route' if len(names) == 1 else 'Routes'} {', '.join(map(repr, names))}"

    @property
    def parts(self) -> tuple[ModuleSpec, ...]:
        """The modules of all routes, each once."""
        chains = [] if self.routes is None else self.routes.modules.values()
        found = {module.where: module for chain in chains for module in chain}
        return (
            *self.modules,
            *(m for where, m in found.items() if all(where != n.where for n in self.modules)),
        )

    def footprint(self) -> Footprint:
        """The numbers that a plan needs."""
        if self.branches:
            largest, *others = self.members
            return replace(
                largest.footprint(),
                name=self.name,
                others={one.of_routes: one.footprint() for one in others},
            )
        hidden, layers = int(self.config["hidden_size"]), int(self.config["num_hidden_layers"])
        decoder = DecoderSizes.of(self.config) if self.architecture in DECODERS else None
        # A table without layers is used as it is stored, whatever the precision.
        body = [info for info in self.tensors.values() if info.is_float and layers]
        table = [] if layers else list(self.tensors.values())
        modules = [
            info
            for module in self.parts
            for name, info in module.tensors.items()
            if name not in module.as_stored
        ]
        words = self._word_matrix()
        tied = words is not None and any(info is words for info in body)
        stored: Counter[str] = Counter()
        for info in [*self.tensors.values(), *modules, *([] if words is None or tied else [words])]:
            stored[info.dtype] += info.numbers
        return Footprint(
            name=self.name,
            architecture=self.architecture,
            file_format=self.file_format,
            stored=dict(stored),
            body_numbers=sum(info.numbers for info in body),
            head_numbers=sum(info.numbers for info in modules),
            largest_tensor=max((info.numbers for info in [*body, *modules]), default=0),
            hidden=hidden,
            layers=layers,
            attention_heads=int(self.config["num_attention_heads"]),
            intermediate=int(self.config["intermediate_size"]),
            vocabulary=int(self.config["vocab_size"]),
            max_tokens=self.max_length if self.max_length < UNLIMITED else 0,
            outputs=self.outputs,
            dense_dim=self.dense_dim,
            multivector_dim=self.multivector_dim,
            fused_numbers=0 if decoder else layers * 3 * hidden * (hidden + 1),
            layer_numbers=decoder.numbers if decoder else 0,
            layer_width=decoder.widest if decoder else 0,
            token_numbers=max((_token_numbers(module) for module in self.parts), default=0),
            mixes_layers=any(module.config.get("active", False) for module in self.parts),
            biased=self.architecture in BIASED,
            table_bytes=sum(info.num_bytes for info in table),
            word_matrix_bytes=0 if words is None else words.num_bytes,
            word_matrix_tied=tied,
            features=max((_features(module) for module in self.parts), default=0),
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it can make, of "dense", "sparse", "multivector"."""
        kinds = {module.kind for module in self.modules}
        if not kinds.isdisjoint(SPARSE_MODULES):
            return ("sparse",)
        if self.late is not None:
            return ("multivector",)
        heads = {"sparse": "sparse_linear", "multivector": "colbert_linear"}
        return ("dense", *(output for output, kind in heads.items() if kind in kinds))

    def _word_matrix(self) -> TensorInfo | None:
        """The matrix of a masked-language head, or None."""
        found = self.module("splade_pooling")
        return None if found is None else found.tensors["decoder.weight"]

    @property
    def dense_dim(self) -> int:
        """Width of the dense vector."""
        width = int(self.config["hidden_size"])
        for module in self.modules:
            if module.kind == "pooling":
                width *= len(module.config["modes"])
            else:
                width = int(module.config.get("out_features", module.config.get("out_width", width)))
        return width

    @property
    def multivector_dim(self) -> int | None:
        """Width of the vectors of tokens; None where there are none."""
        if self.late is not None:
            return self.dense_dim  # of the same modules, about tokens
        head = self.module("colbert_linear")
        return None if head is None else head.tensors["weight"].shape[0]

    def read(self, info: TensorInfo, dtype: DType) -> Tensor:
        """One tensor on the CPU in `dtype`: mapped from the file if nothing is cast, else cast while reading.

        Raises:
            CheckpointError: the file is gone or changed, or integers were asked for as floats.
            PrecisionError: a finite number becomes infinite in `dtype`.
        """
        return self._reader.read(info, dtype)

    def stored(self, info: TensorInfo) -> Tensor:
        """One tensor exactly as it is stored, integers included: mapped from the file."""
        return self._reader.stored(info)

    def release(self, info: TensorInfo) -> None:
        """Give back the memory pages of a mapped tensor that was copied elsewhere."""
        self._reader.release(info)

    def close(self) -> None:
        """Forget the open files, and with them what a file in the old format holds in memory.

        Tensors that were given out stay valid, and reading again opens the files again.
        """
        self._reader.close()

    def weight_files(self) -> tuple[Path, ...]:
        """Every file with weights: the encoders' and the modules'."""
        found: list[Path] = []
        for one in self.members:
            found += one.files
            found += (info.file for module in one.parts for info in module.tensors.values())
        # A head may be in the file of its encoder.
        return tuple(dict.fromkeys(found))

    def weights_hash(self) -> str:
        """One sha256 of all weight files and their places in the folder: computed once, then remembered."""
        return hash_weights(self.folder, self.weight_files())


def _features(module: ModuleSpec) -> int:
    """Numbers that a module has of each text at a time: features of a SparseAutoEncoder, words of a BoW."""
    wide = {"sparse_auto_encoder": "hidden_dim", "bag_of_words": "out_width"}.get(module.kind)
    return 0 if wide is None else int(module.config[wide])


def _token_numbers(module: ModuleSpec) -> int:
    """Most numbers of one token that a module over token vectors holds: what it takes, works on and gives."""
    config = module.config
    if module.kind == "cnn":
        # rows of one place of a kernel, and the kernels' results apart and side by side
        return 2 * int(config["width"]) + 2 * int(config["out_width"])
    if module.kind == "lstm":
        # rows in the order of time, four gates in each direction, and the result in both orders
        return 2 * int(config["width"]) + (4 + 2) * int(config["out_width"])
    return 0
