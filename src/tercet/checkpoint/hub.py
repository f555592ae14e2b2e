"""Models from the Hugging Face hub: only the files that are needed, only headers where they are enough."""

from __future__ import annotations

__all__ = ["fetch"]

import fnmatch
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, HfFileSystem, constants, snapshot_download
from huggingface_hub import errors as hub_errors

from tercet.checkpoint.header import SAFETENSORS_DTYPES, TensorInfo
from tercet.checkpoint.torch_file import read_remote_header
from tercet.errors import CheckpointError, SourceError

logger = logging.getLogger(__name__)

Remote = dict[str, Mapping[str, TensorInfo]]

_ASK_ABOVE = 1 << 30
# Below this, fetching the file costs no more than asking for its header.
_SMALL = 4 << 20
# What describes a model; copies for other frameworks lie in folders that none of these match.
_SETTINGS = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "router_config.json",
    "cnn_config.json",
    "lstm_config.json",
    "wordembedding_config.json",
    "whitespacetokenizer_config.json",
    "phrasetokenizer_config.json",
    "idf.json",
    "artifact.metadata",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.index.json",
)
_HEADS = ("sparse_linear.pt", "colbert_linear.pt")
# Of these only the first that a folder has, as they are preferred on disk.
_WEIGHTS = (
    "model.safetensors",
    "model-[0-9]*-of-[0-9]*.safetensors",
    "pytorch_model.bin",
    "pytorch_model-[0-9]*-of-[0-9]*.bin",
)
_NEEDED = (
    "config.json",
    "artifact.metadata",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sparse_linear.pt",
    "colbert_linear.pt",
    "[0-9]*_*/config.json",
    "router_config.json",
    "*_[0-9]*_*/config.json",
)
# Folders of modules: "1_Pooling", "0_Transformer"; of a router's, which may lie in its own: "query_0_Dense".
_MODULE_FOLDERS = ("[0-9]*_*", "*_[0-9]*_*")
# What huggingface_hub raises where the network fails: of requests, httpx or httpx2, by its version.
_HTTP_ERROR: type[Exception] = next(
    kind for kind in hub_errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"
)


def fetch(
    repo: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: Path | None = None,
    headers_only: bool = False,
    confirm: Callable[[int], bool] | None = None,
) -> tuple[Path, str | None, Remote]:
    """The folder in the hub's cache, its commit, and the headers of files that were left on the hub.

    Raises:
        SourceError: the model is not there, not open to this token, or cannot be reached now.
    """
    if local_files_only or constants.HF_HUB_OFFLINE:
        return _cached(repo, revision, cache_folder, "the network is not to be used")
    try:
        api = HfApi(token=token)
        info = api.model_info(repo, revision=revision, files_metadata=True)
        assert info.sha is not None
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        settings, weights = _choose(sizes)
        remote: Remote = {}
        if headers_only:
            remote = _headers(api, repo, info.sha, token, [n for n in weights if sizes[n] > _SMALL], sizes)
            weights = [name for name in weights if name not in remote]
        _ask(repo, sum(sizes[name] for name in weights), confirm)
        folder = snapshot_download(
            repo,
            revision=info.sha,
            token=token,
            cache_dir=cache_folder,
            allow_patterns=[_literal(name) for name in [*settings, *weights]],
        )
    except (OSError, _HTTP_ERROR, hub_errors.HFValidationError, hub_errors.SafetensorsParsingError) as error:
        if _is_unreachable(error):
            logger.info("%s: the hub cannot be reached (%s); looking in its cache", repo, error)
            return _cached(repo, revision, cache_folder, f"the hub cannot be reached ({_first_line(error)})")
        raise SourceError(_explain(repo, revision, error)) from error
    root = Path(folder)
    placed: Remote = {
        name: {key: replace(tensor, file=root / name) for key, tensor in header.items()}
        for name, header in remote.items()
    }
    return root, info.sha, placed


def _choose(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The files that describe the model, and its weights: in each folder those of the preferred format."""
    settings: list[str] = []
    heads: list[str] = []
    weights: dict[PurePosixPath, dict[str, list[str]]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        within = path.parts[:-1]
        if len(within) > 2 or not all(
            any(fnmatch.fnmatch(folder, pattern) for pattern in _MODULE_FOLDERS) for folder in within
        ):
            continue
        kind = next((pattern for pattern in _WEIGHTS if fnmatch.fnmatch(path.name, pattern)), None)
        if kind is not None:
            weights.setdefault(path.parent, {}).setdefault(kind, []).append(name)
        elif name in _HEADS:
            heads.append(name)
        elif any(fnmatch.fnmatch(path.name, pattern) for pattern in _SETTINGS):
            settings.append(name)
    for kinds in weights.values():
        heads += kinds[min(kinds, key=_WEIGHTS.index)]
    return settings, heads


def _headers(
    api: HfApi, repo: str, commit: str, token: str | None, names: Iterable[str], sizes: Mapping[str, int]
) -> Remote:
    """The headers of the files whose format gives them without the rest."""
    found: Remote = {}
    for name in names:
        if name.endswith(".safetensors"):
            header = api.parse_safetensors_file_metadata(repo, name, revision=commit)
            found[name] = {key: _remote_tensor(name, key, entry) for key, entry in header.tensors.items()}
        else:
            files = HfFileSystem(token=token)
            with files.open(f"{repo}@{commit}/{name}", "rb", block_size=1 << 20) as file:
                tensors = read_remote_header(file, sizes[name], Path(name))
            if tensors is not None:
                found[name] = tensors
    return found


def _remote_tensor(file: str, name: str, entry: object) -> TensorInfo:
    dtype, shape = str(getattr(entry, "dtype", "")), getattr(entry, "shape", ())
    if dtype not in SAFETENSORS_DTYPES:
        raise CheckpointError(f"{file} on the hub: tensor {name!r} has the unknown dtype {dtype!r}.")
    return TensorInfo(name, SAFETENSORS_DTYPES[dtype][0], tuple(shape), Path(file), 0)


def _ask(repo: str, num_bytes: int, confirm: Callable[[int], bool] | None) -> None:
    if confirm is not None and num_bytes > _ASK_ABOVE and not confirm(num_bytes):
        raise SourceError(
            f"{repo} was not fetched: {num_bytes / 2**30:.1f} GiB were declined. Answer yes, or give "
            "a local folder."
        )


def _cached(repo: str, revision: str | None, cache_folder: Path | None, why: str) -> tuple[Path, str, Remote]:
    """What the hub's cache holds of the model."""
    try:
        # Where the cache knows the hub's list of files, none of these may be missing: without its modules or
        # heads it would be another model. Which weights are needed is seen when they are read.
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                cache_dir=cache_folder,
                local_files_only=True,
                allow_patterns=list(_NEEDED),
            )
        )
    except (OSError, hub_errors.HFValidationError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise SourceError(
            f"{repo!r}{at} is neither a folder here nor in the hub's cache "
            f"({cache_folder or constants.HF_HUB_CACHE}), "
            f"and {why}. Check the path, or fetch the model once with a network: hf download {repo}"
        ) from error
    return folder, folder.name, {}


def _is_unreachable(error: Exception) -> bool:
    """Whether the network or the hub itself failed, rather than answered."""
    if isinstance(error, hub_errors.HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, (_HTTP_ERROR, ConnectionError, TimeoutError, hub_errors.LocalEntryNotFoundError))


def _explain(repo: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, hub_errors.GatedRepoError):
        return (
            f"{repo} on the hub is open only to those who accepted its terms. Accept them at "
            f"{constants.ENDPOINT}/{repo}, then log in with 'hf auth login' or pass token=."
        )
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return (
            f"There is no folder {repo!r} here and no such model on the hub, or it is private. "
            "Check the name; for a private model log in with 'hf auth login' or pass token=."
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return f"{repo} on the hub has no revision {revision!r}; see {constants.ENDPOINT}/{repo}/commits."
    if isinstance(error, hub_errors.HFValidationError):
        return f"{repo!r} is neither a folder here nor an id on the hub: {_first_line(error)}"
    return f"{repo} could not be fetched: {_first_line(error)}. Try again, or give a local folder."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _literal(name: str) -> str:
    """The name as a pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
