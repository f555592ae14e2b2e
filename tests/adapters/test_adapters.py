"""What needs no framework; tests/frameworks runs the adapters inside theirs."""

import gc
import importlib
import subprocess
import sys
import weakref

import pytest

import tercet
from tercet import adapters
from tercet.adapters.loaded_model import LoadOptions, check_output, loaded, vectors
from tercet.errors import CheckpointError, InputError, MissingExtraError

TEXTS = ["the cat", "Paris is the city of the river"]
FRAMEWORKS = {
    "HaystackDocumentEmbedder": ("haystack", "haystack"),
    "HaystackSparseDocumentEmbedder": ("haystack", "haystack"),
    "HaystackSparseTextEmbedder": ("haystack", "haystack"),
    "HaystackTextEmbedder": ("haystack", "haystack"),
    "LangChainEmbeddings": ("langchain_core", "langchain"),
    "LlamaIndexEmbedding": ("llama_index", "llama-index"),
    "MTEBEncoder": ("mteb", "mteb"),
}


def test_every_name_is_there_and_another_is_not():
    assert sorted(FRAMEWORKS) == adapters.__all__ == dir(adapters)
    with pytest.raises(AttributeError, match="has no attribute 'LangChain'"):
        _ = adapters.LangChain


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_without_its_framework_a_name_says_how_to_install_it(name, monkeypatch):
    library, extra = FRAMEWORKS[name]
    # As if it were not installed, wherever this runs.
    for module in [one for one in sys.modules if one.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, adapters._HOMES[name], raising=False)
    with pytest.raises(MissingExtraError) as caught:
        getattr(adapters, name)
    assert f"needs the library {library!r}" in str(caught.value)
    assert str(caught.value).endswith(f"pip install 'tercet[{extra}]'")
    with pytest.raises(ImportError, match=r"pip install 'tercet\["):
        importlib.import_module(adapters._HOMES[name])


def test_importing_the_package_imports_neither_torch_nor_a_framework():
    code = "import sys, tercet.adapters; print(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", *(library for library, _ in FRAMEWORKS.values())} & set(done.stdout.split())


def test_what_is_asked_for_twice_is_loaded_once_and_let_go_with_its_last_holder(tiny_bert):
    options = LoadOptions(precision="float32")
    first = loaded(str(tiny_bert), options)
    assert loaded(tiny_bert, LoadOptions(precision="float32")) is first
    other = loaded(str(tiny_bert), LoadOptions(precision="float32", max_length=8))
    assert (other is first, other.max_length) == (False, 8)
    assert loaded(first, LoadOptions()) is first
    seen = weakref.ref(first)
    del first
    gc.collect()
    assert seen() is None


def test_options_of_loading_are_refused_beside_a_loaded_model(tiny_bert):
    model = tercet.load(tiny_bert, precision="float32")
    with pytest.raises(InputError, match="max_length decides how a model is loaded"):
        loaded(model, LoadOptions(max_length=9))
    with pytest.raises(InputError, match="The model is of type int"):
        loaded(3, LoadOptions())


def test_a_model_without_such_vectors_is_told_by_what_it_makes(tiny_bert):
    model = tercet.load(tiny_bert, precision="float32")
    check_output(model, "dense")
    with pytest.raises(CheckpointError, match="makes no sparse vectors but dense"):
        check_output(model, "sparse")


def test_vectors_are_lists_of_floats_by_the_prompt_of_their_role(tiny_bert):
    model = tercet.load(tiny_bert, precision="float32", prompts={"query": "which ", "document": "the "})
    for role, prompt in (("query", "which "), ("document", "the ")):
        found = vectors(model, TEXTS, role)
        assert found == model.encode(TEXTS, prompt=prompt).dense.tolist()
        assert type(found[0][0]) is float
        plain = vectors(model, TEXTS, role, prompt="", dimensions=8, normalize=True)
        assert plain == model.encode(TEXTS, dimensions=8, normalize=True).dense.tolist()
    assert vectors(model, [], "query") == []
