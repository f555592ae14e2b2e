from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import InputError, UnknownNameError
from tercet.training.recipe import DataRecipe, OutputRecipe, TrainRecipe, read_recipe
from tercet.training.settings import read_settings

WHOLE = """
model: minilm
output: {folder: out/model, dtype: float16}
data:
  - path: pairs.jsonl
    group_size: 4
    query_prompt: "query: "
  - {path: sts.csv, kind: symmetric_sts, group_size: 1, weight: 0.5}
losses:
  - {name: infonce, head: dense, options: {temperature: 0.02}}
  - {name: infonce, head: sparse, weight: 0.3}
heads: {sparse: true, multivector: 96}
batch: {tokens: 4096, accumulate: 2}
optimizer: {learning_rate: 2e-5, warmup: 0.05}
steps: 100
validation: {collection: cranfield, every: 10, patience: 3}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new)


def test_a_recipe_is_read_whole_with_defaults_for_the_rest(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, WHOLE))
    assert recipe.output.dtype == "float16"
    assert [one.path for one in recipe.data] == ["pairs.jsonl", "sts.csv"]
    assert (recipe.data[0].group_size, recipe.data[1].weight) == (4, 0.5)
    assert recipe.losses[0].options == {"temperature": 0.02}
    assert recipe.losses[1].weight == 0.3
    assert recipe.heads.multivector == 96
    assert recipe.batch.tokens == 4096
    assert recipe.batch.texts is None
    assert (recipe.precision, recipe.seed, recipe.freeze_body) == ("auto", 0, False)


def test_an_exponent_without_a_point_is_a_number_although_yaml_takes_it_for_a_string(tmp_path: Path) -> None:
    assert yaml.safe_load("2e-5") == "2e-5"
    assert read_recipe(write(tmp_path, WHOLE)).optimizer.learning_rate == 2e-5


def test_a_recipe_survives_its_way_through_plain_values(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, WHOLE))
    again = write(tmp_path, yaml.safe_dump(recipe.to_dict()))
    assert read_recipe(again) == recipe
    assert read_recipe(recipe) is recipe


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model: minilm", "modle: minilm", "no key 'modle'. Did you mean 'model'?"),
        ("group_size: 4", "grup_size: 4", "data[0]: there is no key 'grup_size'. Did you mean 'group_size'?"),
        ("accumulate: 2", "acumulate: 2", "batch: there is no key 'acumulate'. Did you mean 'accumulate'?"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_name(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = write(tmp_path, changed(old, new))
    with pytest.raises(UnknownNameError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("model: minilm\n", "", "the key 'model' is missing"),
        ("group_size: 4", "group_size: 0", "data[0].group_size is 0; it must be 1 or more"),
        ("group_size: 4", "group_size: true", "data[0].group_size is True; it must be a whole number"),
        ("group_size: 4", "group_size: 4.5", "data[0].group_size is 4.5; it must be a whole number"),
        ("weight: 0.5", "weight: 0", "data[1].weight is 0; it must be more than 0"),
        ("weight: 0.5", "weight: .nan", "data[1].weight is nan; it must be a finite number"),
        ("kind: symmetric_sts", "kind: sts", "data[1].kind is 'sts'; it must be one of normal"),
        ("group_size: 1,", "group_size: 1, in_batch_negatives: false,", "nothing to be told from"),
        ("group_size: 1,", "group_size: 1, batch_texts: 1,", "loss is always 0"),
        ("dtype: float16", "dtype: int8", "output.dtype is 'int8'; it must be one of float32"),
        (
            "learning_rate: 2e-5",
            "learning_rate: fast",
            "optimizer.learning_rate is 'fast'; it must be a number",
        ),
        ("steps: 100", "steps: 100\nepochs: 1", "give exactly one"),
        ("steps: 100", "seed: 1", "give exactly one"),
        ("{tokens: 4096, accumulate: 2}", "{accumulate: 2}", "batch: give texts, tokens, or both"),
        ("steps: 100", "steps: 100\nsteps: 200", "a second key 'steps'"),
        ("{tokens: 4096, accumulate: 2}", "[8]", "batch: [8], where keys and values are expected"),
        ("losses:", "losses: [", "not YAML"),
        ("model: minilm", "model: minilm\nrevision: 12", "revision is 12; it must be a string or null"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_file_and_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = write(tmp_path, changed(old, new))
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


def test_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="keys and values are expected"):
        read_recipe(write(tmp_path, "- a\n- b\n"))
    with pytest.raises(InputError, match="keys and values are expected"):
        read_recipe(write(tmp_path, ""))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_recipe(write(tmp_path, "a" * (1 << 20) + "b"))
    with pytest.raises(InputError, match="not YAML"):
        read_recipe(write(tmp_path, "model: !!python/object/apply:os.getcwd []"))
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9")
    with pytest.raises(InputError, match="byte 10 is not UTF-8"):
        read_recipe(tmp_path / "latin.yaml")


def test_aliases_of_aliases_end_in_a_message_and_not_in_a_full_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    with pytest.raises(UnknownNameError, match="'a0'"):
        read_recipe(write(tmp_path, "\n".join(lines)))


def test_a_recipe_made_in_python_is_held_to_the_same_limits() -> None:
    with pytest.raises(InputError, match="data is empty"):
        TrainRecipe(model="minilm", output=OutputRecipe(folder="x"), data=(), losses=(), steps=1)
    with pytest.raises(InputError, match=r"group_size is 0; it must be 1 or more"):
        DataRecipe(path="a.jsonl", group_size=0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model", "output", "data", "losses", "steps", "path"]), inner, max_size=5
            )
        ),
        max_leaves=12,
    )
)
def test_any_plain_values_make_a_recipe_or_an_error_that_says_where(values: object) -> None:
    message = "recipe: "
    try:
        read_settings(TrainRecipe, values, "recipe")
    except InputError as error:
        message = str(error)
    assert message.startswith("recipe: ")
