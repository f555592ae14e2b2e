"""Every kind of folder merged half and half: its vectors are those of a model that was averaged by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import static_models
import tercet
import tiny
import tiny_modules
import tiny_reranker
import tiny_sparse
from tercet.errors import CheckpointError
from tercet.workflows.merge import Merged, merge


def varied(folder: Path) -> Path:
    """The folder with each weight moved a little, so that two kinds of the same seed are two models."""
    for number, path in enumerate(sorted(folder.rglob("*.safetensors"))):
        generator = torch.Generator().manual_seed(number + 7)
        moved = {
            name: one
            + 0.3
            * one.double().std(unbiased=False).to(one.dtype)
            * torch.randn(one.shape, generator=generator)
            if one.is_floating_point()
            else one
            for name, one in load_file(path).items()
        }
        save_file(moved, path, metadata={"format": "pt"})
    return folder


def averaged(folder: Path, one: Path, other: Path) -> Path:
    """A copy of the first with every file of weights averaged in float64."""
    shutil.copytree(one, folder)
    for path in [*folder.rglob("*.safetensors"), *folder.rglob("*.pt")]:
        read = torch.load if path.suffix == ".pt" else load_file
        mine, theirs = read(path), read(other / path.relative_to(folder))
        mean = {
            name: ((mine[name].double() + theirs[name].double()) / 2).to(mine[name].dtype)
            if mine[name].is_floating_point()
            else mine[name]
            for name in mine
        }
        torch.save(mean, path) if path.suffix == ".pt" else save_file(mean, path, metadata={"format": "pt"})
    return folder


def half_and_half(tmp_path: Path, one: Path, other: Path) -> Merged:
    text = "merge_method: linear\nparameters: {weight: 0.5}\nmodels:\n"
    (tmp_path / "merge.yml").write_text(text + f"  - model: {one}\n  - model: {other}\n")
    return merge(tmp_path / "merge.yml", tmp_path / "out")


def stack_of_dense_and_norm(folder: Path) -> Path:
    modules = (
        ("pooling", {"modes": ("mean", "cls")}),
        ("dense", {"out_features": 16}),
        "layer_norm",
        "normalize",
    )
    return tiny.write_checkpoint(folder, layout="sentence-transformers", modules=modules)


KINDS: dict[str, Callable[[Path], Path]] = {
    "static": static_models.write_static,
    "static, dense": lambda folder: static_models.write_static(folder, modules=("dense",)),
    "dense and layer norm": stack_of_dense_and_norm,
    "splade": tiny_sparse.write_splade,
    "splade of distilbert": lambda folder: tiny_sparse.write_splade(folder, "distilbert"),
    "splade, untied": lambda folder: tiny_sparse.write_splade(folder, untied=True),
    "splade of transformers": lambda folder: tiny_sparse.write_splade(folder, plain=True),
    "routes of splade": tiny_sparse.write_routes,
    "sparse auto-encoder": tiny_sparse.write_csr,
    "routes with weights": lambda folder: tiny_modules.write_stack(
        folder,
        [
            tiny_modules.pooling("mean"),
            tiny_modules.router(
                {"query": [tiny_modules.dense("query", 8)], "document": [tiny_modules.dense("document", 8)]}
            ),
        ],
    ),
}


def embedded(folder: Path) -> list[torch.Tensor]:
    """All that it makes of queries and documents."""
    model = tercet.load(folder, precision="float32", device="cpu")
    made = [
        encode(tiny.TEXTS, outputs=model.outputs) for encode in (model.encode_query, model.encode_document)
    ]
    tensors: list[torch.Tensor] = []
    for one in made:
        tensors += [] if one.dense is None else [one.dense]
        tensors += [] if one.sparse is None else [one.sparse.token_ids, one.sparse.weights]
    return tensors


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_embeds_as_one_that_was_averaged_by_hand(kind, tmp_path):
    one = KINDS[kind](tmp_path / "one")
    other = varied(KINDS[kind](tmp_path / "other"))
    done = half_and_half(tmp_path, one, other)
    assert done.tried.startswith("Loaded: 10 texts give finite")
    expected = embedded(averaged(tmp_path / "by hand", one, other))
    found = embedded(done.folder)
    assert len(found) == len(expected) > 0
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not all(map(torch.equal, found, embedded(one)))


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_a_reranker_scores_as_one_that_was_averaged_by_hand(architecture, tmp_path):
    one = tiny_reranker.write_reranker(tmp_path / "one", architecture)
    other = tiny_reranker.write_reranker(tmp_path / "other", architecture, seed=1)
    done = half_and_half(tmp_path, one, other)
    pairs = [("river", text) for text in tiny.TEXTS]
    found, expected = (
        tercet.load_reranker(folder, precision="float32", device="cpu").score(pairs)
        for folder in (done.folder, averaged(tmp_path / "by hand", one, other))
    )
    assert torch.equal(found, expected)


def test_a_router_in_front_of_the_encoder_is_refused_with_the_mend(tmp_path):
    folders = []
    for name in ("one", "other"):
        routes = {"query": [tiny_modules.dense("q", 8)], "document": [tiny_modules.dense("d", 8)]}
        parts = [tiny_modules.pooling("mean"), tiny_modules.router(routes)]
        folders.append(tiny_modules.put_routes_first(tiny_modules.write_stack(tmp_path / name, parts)))
    with pytest.raises(CheckpointError, match=r"begins with a router.*Merge the folders of its routes"):
        half_and_half(tmp_path, *folders)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("modernbert", "layers.{}.mlp.Wi.weight"),
        ("qwen3", "layers.{}.self_attn.q_proj.weight"),
        ("llama", "model.layers.{}.self_attn.q_proj.weight"),
    ],
)
def test_what_only_transformers_runs_is_merged_and_says_so(kind, layer, tmp_path):
    folders = []
    for number, name in enumerate(("one", "other")):
        folder = tmp_path / name
        folder.mkdir()
        config = {"model_type": kind, "num_hidden_layers": 2, "torch_dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config))
        save_file(
            {layer.format(n): torch.full((4, 4), float(number + n)) for n in range(2)},
            folder / "model.safetensors",
        )
        folders.append(folder)
    text = "merge_method: linear\nparameters: {weight: [1, 3]}\nmodels:\n"
    (tmp_path / "merge.yml").write_text(text + "".join(f"  - model: {folder}\n" for folder in folders))
    done = merge(tmp_path / "merge.yml", tmp_path / "out", try_out=False)
    found = load_file(done.folder / "model.safetensors")
    assert [float(found[layer.format(n)].unique()) for n in range(2)] == [0.5, 1.5]
