"""Known layouts of a model folder -> Checkpoint."""

from __future__ import annotations

__all__ = ["Checkpoint", "ModuleSpec", "open_checkpoint"]

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tercet.checkpoint.bag_files import read_bag
from tercet.checkpoint.body import Body
from tercet.checkpoint.branches import joined
from tercet.checkpoint.contents import Checkpoint, ModuleSpec
from tercet.checkpoint.encoder_files import position_limit, read_encoder_config, sort_tensors
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.late_interaction import EXPANSION_KEYS, LateForm, late_form, read_late, take_projection
from tercet.checkpoint.late_modules import check_late_widths
from tercet.checkpoint.m3 import HEAD_FILES, read_heads
from tercet.checkpoint.masked_language import read_masked_language_head
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.pooling_choice import ASSUMED_MEAN, M3_MODULES, asked_pooling, assumed_modules
from tercet.checkpoint.routes import Routes
from tercet.checkpoint.sentence_files import (
    SentenceSettings,
    read_sentence_settings,
    refuse_other_types,
    text_limit,
)
from tercet.checkpoint.source import Source
from tercet.checkpoint.sparse_modules import SPARSE_MODULES
from tercet.checkpoint.stack import End, Stack, mean_of_rows, read_stack
from tercet.checkpoint.static_files import is_model2vec, normalizes, read_model2vec, read_static
from tercet.checkpoint.token_modules import settled_layer_pooling
from tercet.checkpoint.token_weights import read_token_weights
from tercet.checkpoint.unknown import code_of_its_own
from tercet.checkpoint.weights import Remote, Weights, find_weights
from tercet.checkpoint.widths import check_ends, check_widths
from tercet.checkpoint.word_files import read_word_embeddings, refuse_places
from tercet.errors import CheckpointError, InputError


def open_checkpoint(source: Source | str | Path, *, pooling: str | None = None) -> Checkpoint:
    """What the folder holds, from configurations and headers alone.

    Args:
        source: what `find` gave back, or a folder.
        pooling: instead of the checkpoint's own: "cls", "mean", "max", "mean_sqrt_len_tokens",
            "weightedmean", "lasttoken", several joined by "+", or "splade" and "splade-sum".

    Raises:
        CheckpointError: a file is missing or damaged, does not fit the others, or asks for what is not done.
        InputError: `pooling` is not known.
    """
    if not isinstance(source, Source):
        source = Source(Path(source), str(source), None)
    folder = source.folder
    notes: list[str] = []
    # Another type is told before its modules are found to be unknown; what it makes only when they are known.
    form = late_form(folder) if folder.is_dir() else None
    refuse_other_types(folder, sparse=True, late=form is not None)
    if form is not None and pooling is not None:
        raise InputError(
            f"pooling={pooling!r}: {source.name} is a model of late interaction, which has a vector for each "
            "token and pools nothing. Leave pooling out."
        )
    stack, layout = _stack(source, notes, form)
    sparse = pooling is not None or _makes_sparse(stack)
    refuse_other_types(folder, sparse=sparse, late=form is not None)
    check_ends(folder, stack)
    if stack.router is not None and len(groups := stack.by_encoder) > 1:
        return joined([_opened(source, group, layout, [], pooling) for group in groups], stack.router)
    return _opened(source, stack, layout, notes, pooling, form)


def _opened(
    source: Source,
    stack: Stack,
    layout: str,
    notes: list[str],
    pooling: str | None,
    form: LateForm | None = None,
) -> Checkpoint:
    """The checkpoint of a stack whose routes, if it has any, share their encoder."""
    folder = source.folder
    body = _body(source, stack, layout)
    hidden = body.config["hidden_size"]
    late = None
    if form is not None:
        if form == "colbert":
            rest, projection = take_projection(folder, body.tensors, hidden)
            body, stack = replace(body, tensors=rest), replace(stack, modules=(projection,))
        late, of_tokens = read_late(folder, form, stack.encoder_path, stack.modules)
        stack = replace(stack, modules=of_tokens)
    heads, head_notes = read_heads(folder, hidden, source.remote) if late is None else ((), ())
    if layout in ("bge-m3", "huggingface"):
        stack = Stack("", M3_MODULES if heads else assumed_modules(body, notes))
    if pooling is not None:
        stack, notes = asked_pooling(stack, body, pooling, source.name, notes)
    if late is None:
        check_widths(folder, stack, hidden)
    else:
        check_late_widths(folder, stack.modules, hidden)

    if stack.first == "WordEmbeddings":
        refuse_places(folder, stack.modules)
    weights, tensors, ignored = body.weights, body.tensors, body.ignored
    _refuse_rerankers(folder, layout, tensors)
    settings = SentenceSettings()
    if layout not in ("huggingface", "colbert"):
        # A pooling that was asked for outranks what the folder says of the encoder's task.
        settings = read_sentence_settings(
            folder,
            stack.encoder_path,
            task=None if pooling else _task(stack),
            usual="fill-mask" if stack.first == "MLMTransformer" else "feature-extraction",
            elsewhere=() if late is None else EXPANSION_KEYS,
        )
    elif pooling is None and any(
        str(name).endswith("ForMaskedLM") for name in body.config.get("architectures") or ()
    ):
        notes.append(_LANGUAGE_MODEL)
    all_states = settings.hidden_states or body.config.get("output_hidden_states") is True
    settled = partial(
        settled_layer_pooling, folder, layers=body.config["num_hidden_layers"], hidden_states=all_states
    )
    modules, pooling_notes = settled(stack.modules)
    language_head = partial(
        read_masked_language_head, folder, body.architecture, body.config, tensors, ignored
    )
    modules, ignored = language_head(modules)
    modules = (*modules, *heads)
    routes = None
    if stack.router is not None:
        chains = {name: language_head(settled(route.modules)[0])[0] for name, route in stack.routes.items()}
        routes = Routes(chains, stack.router.default, stack.router.mappings)
    max_length, length_note = text_limit(settings, body.tokenizer_config, body.positions)
    if late is not None:
        if late.longest > body.positions:
            raise CheckpointError(
                f"{folder}: texts of {late.longest:,} tokens are asked for, and the encoder has positions "
                f"for {body.positions:,}. Put the settings that were saved with the model beside it."
            )
        # PyLate leaves the last length of all that it used in sentence_bert_config.json.
        max_length = max(max_length, late.longest)
    notes += [
        *stack.notes,
        *pooling_notes,
        *head_notes,
        *settings.notes,
        *([length_note] if length_note else []),
    ]
    if (code := code_of_its_own(body.config)) is not None:
        notes.append(
            f"config.json names code of its own for the model ({code}), which is not run: a plain "
            f"{body.architecture} is computed. Compare its vectors once with sentence-transformers'."
        )
    notes += _weight_notes(weights, ignored, modules, tensors)
    return Checkpoint(
        folder=folder,
        name=source.name,
        layout="bge-m3" if heads else layout,
        architecture=body.architecture,
        config=body.config,
        tensors=tensors,
        modules=modules,
        tokenizer_file=body.tokenizer_file,
        tokenizer_config=body.tokenizer_config,
        special_tokens=body.special_tokens,
        max_length=max_length,
        lowercase=settings.lowercase,
        prompts=settings.prompts,
        default_prompt_name=settings.default_prompt_name,
        truncate_dim=settings.truncate_dim,
        max_active_dims=settings.max_active_dims,
        notes=tuple(notes),
        revision=source.revision,
        encoder_path=stack.encoder_path,
        file_format=weights.file_format,
        files=weights.files,
        ignored=ignored,
        routes=routes,
        late=late,
    )


_LANGUAGE_MODEL = (
    "It ends in a masked-language head, which dense vectors do not use. Pass pooling='splade' if it was "
    "trained for sparse vectors (SPLADE)."
)


def _makes_sparse(stack: Stack) -> bool:
    return any(spec.kind in SPARSE_MODULES for spec in stack.modules)


def _task(stack: Stack) -> str:
    """What the modules behind the encoder take of it."""
    return (
        "fill-mask" if any(spec.kind == "splade_pooling" for spec in stack.modules) else "feature-extraction"
    )


def _stack(source: Source, notes: list[str], form: LateForm | None) -> tuple[Stack, str]:
    """The modules that the folder describes, and the layout without regard to heads."""
    folder = source.folder
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder. Give the folder of a model, or its id on the hub.")
    if inside(folder, "modules.json", said_by="modules.json").is_file():
        end: End = "vectors" if form is None else "token vectors"
        return read_stack(folder, source.remote, end=end), "sentence-transformers"
    if form == "colbert":
        return Stack("", ()), "colbert"
    if is_model2vec(folder):
        unit = (ModuleSpec("normalize", "config.json"),) if normalizes(folder) else ()
        return Stack("", (mean_of_rows(""), *unit), first="StaticEmbedding"), "model2vec"
    if any(
        name in source.remote or inside(folder, name, said_by=name).is_file() for name in HEAD_FILES.values()
    ):
        notes.append("There is no modules.json: cls pooling and normalisation are taken, as BGE-M3 has them.")
        return Stack("", ()), "bge-m3"
    notes.append(ASSUMED_MEAN)
    return Stack("", ()), "huggingface"


def _body(source: Source, stack: Stack, layout: str) -> Body:
    """What comes first."""
    if layout == "model2vec":
        return read_model2vec(source.folder, source.remote)
    if stack.first == "WordEmbeddings":
        return read_word_embeddings(source.folder, stack.encoder_path, source.remote)
    read = _BODIES.get(stack.first, _encoder)
    return read(source.folder, stack.encoder_path, source.remote)


def _encoder(folder: Path, relative: str, remote: Remote | None) -> Body:
    """A Transformer."""
    architecture, config = read_encoder_config(folder, relative)
    weights = find_weights(folder, relative, remote)
    tensors, ignored = sort_tensors(weights.tensors)
    tokenizer_config, tokenizer_file = _tokenizer(folder, relative)
    return Body(
        architecture=architecture,
        config=config,
        positions=position_limit(architecture, config),
        weights=weights,
        tensors=tensors,
        ignored=ignored,
        tokenizer_file=tokenizer_file,
        tokenizer_config=tokenizer_config,
    )


_BODIES: Mapping[str, Callable[[Path, str, Remote | None], Body]] = {
    "StaticEmbedding": read_static,
    "SparseStaticEmbedding": read_token_weights,
    "BoW": read_bag,
}


def _tokenizer(folder: Path, encoder_path: str) -> tuple[dict[str, object], Path | None]:
    start = f"{encoder_path}/" if encoder_path else ""
    settings = inside(folder, f"{start}tokenizer_config.json", said_by="modules.json")
    file = inside(folder, f"{start}tokenizer.json", said_by="modules.json")
    return read_json_object(settings) if settings.is_file() else {}, file if file.is_file() else None


def _refuse_rerankers(folder: Path, layout: str, tensors: Iterable[str]) -> None:
    found = sorted(name for name in tensors if name.startswith(("classifier.", "qa_outputs.")))
    if found and layout == "huggingface":
        raise CheckpointError(
            f"{folder} ends in a classifier ({', '.join(found[:4])}): it is a reranker or a classifier, and "
            "makes no vectors. Open a reranker with tercet.load_reranker, or `tercet rerank` on the command "
            "line."
        )


def _weight_notes(
    weights: Weights,
    ignored: dict[str, TensorInfo],
    modules: Sequence[ModuleSpec],
    tensors: dict[str, TensorInfo],
) -> list[str]:
    notes = []
    if weights.file_format == "torch-legacy":
        size = sum(path.stat().st_size for path in weights.files)
        notes.append(
            f"{weights.files[0].name} has torch's format from before 1.6, which cannot be mapped: it is read "
            f"whole, {size:,} bytes more at the peak. Save it anew with torch.save, or as .safetensors, to "
            "avoid that."
        )
    if ignored:
        notes.append(f"Not used for embeddings: {', '.join(sorted(ignored))}.")
    counts: Counter[str] = Counter()
    for info in [*tensors.values(), *(info for module in modules for info in module.tensors.values())]:
        counts[info.dtype] += 1
    if len(counts) > 1:
        mixed = ", ".join(f"{count} tensors in {dtype}" for dtype, count in counts.most_common())
        notes.append(f"The stored dtypes are mixed: {mixed}.")
    return notes
