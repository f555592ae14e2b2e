import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tercet
import tiny
from tercet.errors import InputError
from tercet.precision.dtype import DType
from tercet.training.gradcache import backward_in_parts
from tercet.training.model import Trainable, open_trainable
from tercet.training.outputs import Outputs
from tercet.training.prompting import prompted_batch
from tercet.training.saving import save_trained
from tercet.training.targets import LossValue

TEXTS = [text for text in tiny.TEXTS if text]
PROMPT = "read the film: "


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("plain") / "plain", "bert")


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose pooling leaves the prompt of queries out."""
    return tiny.write_checkpoint(
        tmp_path_factory.mktemp("instructed") / "instructed",
        "bert",
        layout="sentence-transformers",
        modules=(("pooling", {"modes": ("mean",), "include_prompt": False}), "normalize"),
        prompts={"query": PROMPT},
    )


def trained_dense(model: Trainable, prompt: str) -> torch.Tensor:
    batch = prompted_batch(model.tokenizer, TEXTS, [prompt] * len(TEXTS), 40)
    with torch.no_grad():
        dense = model.eval()(batch).dense
    assert dense is not None
    return dense


@pytest.mark.parametrize("pooling", ["cls", "mean", "lasttoken", "max", "weightedmean", "cls+mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_saved_folder_ends_as_the_recipe_says(
    plain: Path, tmp_path: Path, pooling: str, normalize: bool
) -> None:
    model = open_trainable(plain, pooling=pooling, normalize=normalize, include_prompt=False)
    saved = save_trained(model, tmp_path / "saved", DType.FLOAT32, card="")
    kinds = [entry["type"].rsplit(".", 1)[-1] for entry in json.loads((saved / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    said = json.loads((saved / "1_Pooling/config.json").read_text())
    assert [key for key, value in said.items() if key.startswith("pooling_mode") and value]
    assert said["include_prompt"] is False
    embedder = tercet.load(saved, precision="float32")
    for prompt in ("", PROMPT):
        expected = embedder.encode(TEXTS, prompt=prompt, max_length=40).dense
        assert expected is not None
        torch.testing.assert_close(trained_dense(model, prompt), expected, atol=1e-6, rtol=1e-5)
        assert torch.allclose(expected.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5) is normalize


def test_a_stack_of_its_own_ends_otherwise_where_it_is_asked(instructed: Path, tmp_path: Path) -> None:
    expected = tercet.load(instructed, precision="float32", pooling="cls").encode(
        TEXTS, prompt=PROMPT, max_length=40, normalize=False
    )
    model = open_trainable(instructed, pooling="cls", normalize=False, include_prompt=True)
    saved = save_trained(model, tmp_path / "saved", DType.FLOAT32, card="")
    found = tercet.load(saved, precision="float32").encode(TEXTS, prompt=PROMPT, max_length=40)
    assert expected.dense is not None
    torch.testing.assert_close(found.dense, expected.dense)
    torch.testing.assert_close(trained_dense(model, PROMPT), expected.dense, atol=1e-6, rtol=1e-5)


def test_prompts_are_left_out_in_training_as_they_are_at_inference(instructed: Path) -> None:
    model = open_trainable(instructed)
    embedder = tercet.load(instructed, precision="float32")
    for prompt in ("", PROMPT):
        expected = embedder.encode(TEXTS, prompt=prompt, max_length=40).dense
        torch.testing.assert_close(trained_dense(model, prompt), expected, atol=1e-6, rtol=1e-5)
    taken_in = open_trainable(instructed, include_prompt=True)
    assert not torch.allclose(trained_dense(taken_in, PROMPT), trained_dense(model, PROMPT), atol=1e-3)


def test_every_text_may_have_a_prompt_of_its_own_and_parts_keep_it(instructed: Path) -> None:
    model = open_trainable(instructed, dropout=0.0)
    prompts = [("", PROMPT, "the sun. ")[row % 3] for row in range(len(TEXTS))]
    batch = prompted_batch(model.tokenizer, TEXTS, prompts, 40)
    embedder = tercet.load(instructed, precision="float32")
    whole = model(batch).dense
    alone = [
        embedder.encode([text], prompt=prompt, max_length=40).dense
        for text, prompt in zip(TEXTS, prompts, strict=True)
    ]
    torch.testing.assert_close(whole.detach(), torch.cat(alone), atol=1e-6, rtol=1e-5)  # type: ignore[arg-type]

    def loss(outputs: Any) -> LossValue:
        return LossValue(((outputs[0].dense - 0.1) ** 2).mean(), {})

    loss([Outputs(dense=whole)]).value.backward()
    expected = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    backward_in_parts(model, [batch], loss, token_budget=12)
    assert len(expected) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pooling": "mean+max"}, "Leave `pooling` out"),
        ({"normalize": False}, "Leave `normalize` out"),
        ({"pooling": "mean+max", "include_prompt": False}, "Leave `pooling` and `include_prompt` out"),
        ({"pooling": "men"}, "Did you mean 'mean'"),
    ],
)
def test_an_ending_that_no_folder_can_say_is_refused_before_the_run(
    tiny_stack: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        open_trainable(tiny_stack, **options)
    assert said in str(caught.value)
