"""MTEB's encoder over `tercet.load`: its tasks measure a model at the precision in which it will run."""

from __future__ import annotations

__all__ = ["MTEBEncoder"]

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tercet.adapters.loaded_model import LoadOptions, check_output, loaded
from tercet.checkpoint.paths import inside, read_json_object
from tercet.embedder import Embedder
from tercet.errors import InputError
from tercet.extras import require
from tercet.precision.dtype import DType
from tercet.signatures import refuse_unknown_keywords

require("mteb.models.abs_encoder", extra="mteb", purpose="tercet.adapters.MTEBEncoder")

from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from torch.utils.data import DataLoader

_TOP = "config_sentence_transformers.json"
_SIMILARITIES = {"cosine": ScoringFunction.COSINE, "dot": ScoringFunction.DOT_PRODUCT}


class MTEBEncoder(AbsEncoder):
    """Dense vectors of texts, for `mteb.evaluate`; usable as the `loader` of a ModelMeta, too.

    MTEB calls each text of a task a query, a document or neither; the text takes the model's route for that.

    Attributes:
        model: the embedder; its `plan` says in what number format it runs, where, and why.
        model_prompts: MTEB's names -> text before each text.
        mteb_model_meta: what MTEB files results under: the name, and the precision where it is not float32.
    """

    @refuse_unknown_keywords
    def __init__(
        self,
        model_name: str | Path | Embedder,
        revision: str | None = None,
        *,
        device: str | None = None,
        precision: str = "auto",
        local_files_only: bool = False,
        max_length: int | None = None,
        plan: str | None = None,
        prompts: Mapping[str, str] | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
    ) -> None:
        """Loads the model.

        Args:
            model_name: a folder, a hub id such as "BAAI/bge-m3", "minilm"; or what `tercet.load` gave.
            revision, device, precision, local_files_only, max_length, plan: as in `tercet.load`.
            prompts: put before each text, by a name that MTEB looks for: a task ("NFCorpus"), a type of task
                ("Retrieval"), "query" or "document", or "NFCorpus-query" and "Retrieval-document"; the most
                special one counts. They are added to the checkpoint's. MTEB warns of a task that it does not
                have.
            dimensions, normalize: as in `Embedder.encode`.

        Raises:
            CheckpointError: the model is not there, is damaged, or makes no dense vectors.
            InputError: an option cannot be.
        """
        options = LoadOptions(precision, device, revision, local_files_only, max_length, plan)
        self.model = loaded(model_name, options)
        check_output(self.model, "dense")
        self.dimensions, self.normalize = dimensions, normalize
        self.model_prompts = {**self.model.checkpoint.prompts, **_checked(prompts)}
        self.model.encode([], outputs="dense", dimensions=dimensions, normalize=normalize)
        self.mteb_model_meta = _described(self.model, revision, dimensions)

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: str | None = None,
    ) -> NDArray[Any]:
        """The vectors of a task's texts, (texts, dim) float32.

        Args:
            inputs: batches of MTEB's, each with "text".
            task_metadata, prompt_type: decide the prompt, in MTEB's order.
            hf_split, hf_subset: of the data; they decide nothing.
            batch_size, show_progress_bar: without effect: a forward is laid out by tokens, and shows nothing.
            precision: of the vectors as MTEB would store them; "float32" alone.

        Raises:
            InputError: inputs without text, or another precision.
        """
        if precision not in (None, "float32"):
            raise InputError(
                f"precision={precision!r} would quantise vectors after they were made, which MTEBEncoder "
                "does not do. The model's own precision is chosen when it is loaded: MTEBEncoder(..., "
                "precision='int8')."
            )
        name = self.get_prompt_name(task_metadata, prompt_type)
        prompt = None if name is None else self.model_prompts[name]
        encode: Any = self.model.encode
        if prompt_type is not None:
            query = prompt_type == PromptType.query
            encode = self.model.encode_query if query else self.model.encode_document
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise InputError(
                    f"The task {task_metadata.name} has inputs of {', '.join(batch) or 'nothing'} and no "
                    "text, which is all that this model reads. Leave the task out."
                )
            texts += batch["text"]
        found = encode(
            texts, outputs="dense", prompt=prompt, dimensions=self.dimensions, normalize=self.normalize
        )
        vectors: NDArray[Any] = found.numpy().dense
        return vectors


def _checked(prompts: Mapping[str, str] | None) -> dict[str, str]:
    """The prompts; MTEB warns of a name that is neither a type of task nor one of its own tasks."""
    if prompts is None:
        return {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in prompts.values()):
        raise InputError(f"prompts is {prompts!r}. Pass a dict of MTEB's names -> text.")
    AbsEncoder.validate_task_to_prompt_name(dict(prompts), raise_for_invalid_keys=False)
    return dict(prompts)


def _described(model: Embedder, revision: str | None, dimensions: int | None) -> ModelMeta:
    """What MTEB files results under."""
    checkpoint, plan = model.checkpoint, model.plan
    name = checkpoint.name
    if Path(name).is_dir() or "/" not in name:
        # MTEB wants an organisation before a name; a folder's path would say whose machine it was.
        name = f"local/{Path(name).name}"
    path = inside(checkpoint.folder, _TOP, said_by=_TOP)
    saved = read_json_object(path).get("similarity_fn_name") if path.is_file() else None
    kept: dict[str, Any] = {}
    if plan.scheme.dtype is not DType.FLOAT32 or plan.scheme.variant is not None:
        kept["precision"] = plan.scheme.label
    if dimensions is not None:
        kept["dimensions"] = dimensions
    return ModelMeta.create_empty(
        overwrites={
            "loader": MTEBEncoder,
            "name": name,
            "revision": checkpoint.revision or revision,
            "max_tokens": model.max_length,
            "embed_dim": dimensions or model.dimension,
            "similarity_fn_name": _SIMILARITIES.get(str(saved), ScoringFunction.COSINE),
            "framework": ["PyTorch"],
            "experiment_kwargs": kept or None,
        }
    )
