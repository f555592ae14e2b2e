from pathlib import Path

import pytest

import tiny
from tercet.errors import InputError
from tercet.training.trainer import train


@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED"),
        ("ACCELERATE_USE_MEGATRON_LM", "MEGATRON_LM"),
    ],
)
def test_a_launcher_that_would_cut_the_model_up_is_refused_with_the_reason_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "true")
    Path("data.jsonl").write_text('{"query": "a cat", "pos": ["tac"]}\n{"query": "a dog", "pos": ["god"]}\n')
    recipe = {
        "model": str(tiny.write_checkpoint(tmp_path / "base", "bert", layers=1)),
        "output": {"folder": "out"},
        "data": [{"path": "data.jsonl", "group_size": 1}],
        "losses": [{"name": "info_nce", "head": "dense"}],
        "batch": {"texts": 2},
        "steps": 1,
        "precision": "float32",
    }
    with pytest.raises(InputError) as caught:
        train(recipe, device="cpu")
    assert f"accelerate was started with {kind}, which cuts the model up" in str(caught.value)
    assert (
        "wait for one another without end. Start with --multi_gpu or torchrun, and put `shard: true`"
        in str(caught.value)
    )
    assert not Path("out").exists()
    monkeypatch.setenv(variable, "false")
    train(recipe, device="cpu")
    assert Path("out").is_dir()
