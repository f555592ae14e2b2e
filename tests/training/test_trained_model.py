import math
from pathlib import Path

import pytest
import torch
from torch import nn

import tercet
import tiny
import tiny_sparse
from tercet.batch import Batch
from tercet.errors import CheckpointError, InputError, OutputError, PrecisionError
from tercet.precision.dtype import DType
from tercet.training.body import own_weights
from tercet.training.model import Trainable, open_trainable
from tercet.training.outputs import Outputs
from tercet.training.recipe import HeadRecipe
from tercet.training.saving import narrowed, save_trained

TEXTS = [text for text in tiny.TEXTS if text]
ALL = ("dense", "sparse", "multivector")


def batch_of(model: Trainable, texts: list[str] = TEXTS) -> Batch:
    return Batch.from_ids(model.tokenizer.encode(texts, max_length=40).ids)


def square(outputs: Outputs) -> torch.Tensor:
    """A loss that every output enters."""
    return sum(((tensor - 0.1) ** 2).mean() for tensor in outputs.tensors())  # type: ignore[return-value]


def assert_alike(outputs: Outputs, folder: Path, atol: float = 1e-5) -> None:
    """What was trained gives what the saved folder gives."""
    names = tuple(name for name in ALL if getattr(outputs, name) is not None)
    expected = tercet.load(folder, precision="float32").encode(TEXTS, outputs=names, max_length=40)
    if outputs.dense is not None:
        torch.testing.assert_close(outputs.dense, expected.dense, atol=atol, rtol=0)
    if outputs.sparse is not None:
        assert expected.sparse is not None
        kept = outputs.sparse.weights > 0
        torch.testing.assert_close(outputs.sparse.weights[kept], expected.sparse.weights, atol=atol, rtol=0)
        assert torch.equal(outputs.sparse.token_ids[kept], expected.sparse.token_ids)
    if outputs.multivector is not None:
        assert expected.multivector is not None
        torch.testing.assert_close(
            outputs.multivector.vectors, expected.multivector.vectors, atol=atol, rtol=0
        )


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_stack", "tiny_m3"])
def test_a_model_that_is_not_trained_yet_gives_what_the_embedder_gives(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    model = open_trainable(folder).eval()
    with torch.no_grad():
        assert_alike(model(batch_of(model)), folder)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_every_encoder_learns_and_every_weight_of_it_has_a_gradient(
    architecture: str, tmp_path: Path
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", architecture)  # type: ignore[arg-type]
    model = open_trainable(folder, heads=HeadRecipe(sparse=True, multivector=8), dropout=0.0)
    batch = batch_of(model)
    before = square(model(batch))
    before.backward()
    without = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    }
    assert not without
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.05)
    optimizer.step()
    assert square(model(batch)) < before


def test_gradients_of_layers_computed_twice_are_those_of_layers_kept(tiny_m3: Path) -> None:
    found = []
    for twice in (False, True):
        torch.manual_seed(3)
        model = open_trainable(tiny_m3, gradient_checkpointing=twice, dropout=0.2)
        square(model(batch_of(model))).backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert len(found[0]) > 30
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_dropout_is_the_configurations_and_only_while_it_is_trained(tiny_bert: Path) -> None:
    model = open_trainable(tiny_bert)
    batch = batch_of(model)
    first, second = model(batch).dense, model(batch).dense
    assert not torch.allclose(first, second)
    model.eval()
    assert torch.equal(model(batch).dense, model(batch).dense)
    model = open_trainable(tiny_bert, dropout=0.0)
    torch.testing.assert_close(model(batch).dense, model.eval()(batch).dense)


def test_attention_with_dropout_is_attention_where_nothing_is_dropped(tiny_bert: Path) -> None:
    # So small a part that no number is dropped takes the padded way, with the same result.
    model = open_trainable(tiny_bert, dropout=1e-12)
    assert type(model.encoder.layers[0].attend).__name__ == "partial"  # type: ignore[index,union-attr]
    batch = batch_of(model)
    found = model(batch).dense
    torch.testing.assert_close(found, model.eval()(batch).dense, atol=1e-6, rtol=1e-5)


def test_a_frozen_body_keeps_no_gradient_and_its_heads_learn(tiny_bert: Path) -> None:
    model = open_trainable(
        tiny_bert,
        freeze_body=True,
        heads=HeadRecipe(sparse=True, multivector=8),
        outputs=("sparse", "multivector"),
    )
    square(model(batch_of(model))).backward()
    learnt = {name for name, one in model.named_parameters() if one.grad is not None}
    assert learnt == {
        f"heads.{head}.{part}" for head in ("usual.sparse", "multivector") for part in ("matrix", "bias")
    }
    assert len(model.head_parameters()) == 4


@pytest.mark.parametrize(
    ("architecture", "tables"),
    [
        ("bert", {"word", "position", "token_type"}),
        ("xlm-roberta", {"word", "position", "token_type"}),
        ("distilbert", {"word", "position"}),
        ("electra", {"word", "position", "token_type"}),
        ("mpnet", {"word", "position"}),
    ],
)
def test_frozen_embeddings_are_the_tables_and_all_else_learns(
    architecture: str, tables: set[str], tmp_path: Path
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", architecture)  # type: ignore[arg-type]
    model = open_trainable(folder, freeze_embeddings=True, gradient_checkpointing=True)
    square(model(batch_of(model))).backward()
    named = dict(model.named_parameters())
    without = {name for name, one in named.items() if one.grad is None}
    assert without == {f"encoder.{table}.weight" for table in tables}
    assert not any(named[name].requires_grad for name in without)


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_stack", "tiny_m3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_trained_is_what_a_saved_folder_gives(
    kind: str, dtype: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    heads = HeadRecipe() if kind == "tiny_m3" else HeadRecipe(sparse=True, multivector=8)
    model = open_trainable(folder, heads=heads, dropout=0.0)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
    for _ in range(3):
        square(model(batch_of(model))).backward()
        optimizer.step()
        optimizer.zero_grad()
    saved = save_trained(model, tmp_path / "saved", DType.parse(dtype), card="# trained\n")
    model.eval()
    if dtype == "bfloat16":
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
    with torch.no_grad():
        assert_alike(model(batch_of(model)), saved)
    again = tercet.load(saved, precision="float32")
    assert again.outputs == ALL
    assert (saved / "README.md").read_text() == "# trained\n"
    before, after = (tercet.load(one, precision="float32").encode(TEXTS).dense for one in (folder, saved))
    assert before is not None
    assert after is not None
    assert not torch.allclose(before, after, atol=1e-3)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_pooling_that_was_asked_for_is_what_the_folder_says(tiny_bert: Path, tmp_path: Path) -> None:
    model = open_trainable(tiny_bert, pooling="cls").eval()
    saved = save_trained(model, tmp_path / "saved", DType.FLOAT32, card="")
    assert_alike(model(batch_of(model)), saved)
    expected = tercet.load(tiny_bert, pooling="cls", precision="float32").encode(TEXTS, max_length=40).dense
    found = tercet.load(saved, precision="float32").encode(TEXTS, max_length=40).dense
    torch.testing.assert_close(found, expected)


def test_a_half_checkpoint_is_widened_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny.write_checkpoint(tmp_path / "half", "bert", dtype="float16")
    model = open_trainable(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert "stored in float16. It is trained in float32" in caplog.text


def test_weights_that_were_widened_are_not_copied_once_more(tmp_path: Path) -> None:
    half = open_trainable(tiny.write_checkpoint(tmp_path / "half", "bert", dtype="float16")).encoder
    before = {name: one.data_ptr() for name, one in half.named_parameters()}
    own_weights(half)
    assert {name: one.data_ptr() for name, one in half.named_parameters()} == before
    mapped = nn.Linear(2, 2)
    whole = torch.arange(8.0)
    mapped.weight.data = torch.frombuffer(bytearray(16), dtype=torch.float32).view(2, 2)
    mapped.bias.data = whole[2:4]
    own_weights(mapped)
    assert mapped.weight.untyped_storage().resizable()
    mapped.bias.data.zero_()
    assert whole.tolist() == list(range(8))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 70_000.0])
def test_a_number_that_is_not_finite_where_it_is_saved_is_an_error(bad: float) -> None:
    values = torch.tensor([[-65_504.0, 0.0], [1.0, 65_504.0]])
    assert torch.equal(narrowed(values, DType.FLOAT16, "weight", "file"), values.half())
    assert narrowed(values[:0], DType.FLOAT16, "weight", "file").shape == (0, 2)
    values[1, 0] = bad
    with pytest.raises(PrecisionError, match=r"file: 'weight' holds .*not finite in float16"):
        narrowed(values, DType.FLOAT16, "weight", "file")


def test_training_never_reaches_the_files_that_it_began_with(tiny_bert: Path) -> None:
    before = {path: path.read_bytes() for path in tiny_bert.rglob("*") if path.is_file()}
    model = open_trainable(tiny_bert)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    assert {path: path.read_bytes() for path in before} == before
    assert open_trainable(tiny_bert).encoder.get_parameter("norm.bias").detach().max() < 7


def test_what_cannot_be_trained_or_saved_says_why(
    tiny_bert: Path, tiny_stack: Path, tiny_m3: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"sparse outputs, and .* has no such head"):
        open_trainable(tiny_bert, outputs=("sparse",))
    with pytest.raises(InputError, match=r"heads\.multivector is 8, and .* has a head of 32 already"):
        open_trainable(tiny_m3, heads=HeadRecipe(multivector=8))
    splade = tiny_sparse.write_splade(tmp_path / "splade")
    with pytest.raises(CheckpointError, match=r"cannot be trained: it has no dense vectors"):
        open_trainable(splade)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="not an empty folder"):
        save_trained(open_trainable(tiny_bert), tmp_path / "full", DType.FLOAT32, card="")
    model = open_trainable(tiny_bert)
    model.encoder.get_parameter("norm.bias").data.fill_(1e6)
    with pytest.raises(
        PrecisionError, match=r"'embeddings.LayerNorm.bias' holds 1e\+06, which is not finite in float16"
    ):
        save_trained(model, tmp_path / "b", DType.FLOAT16, card="")
    assert not (tmp_path / "b").exists()
