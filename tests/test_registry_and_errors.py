import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest

import tercet
from tercet import errors
from tercet.errors import MissingExtraError, UnknownNameError, kind_of, nearest
from tercet.extras import require
from tercet.registry import Registry
from tercet.signatures import refuse_unknown_keywords


def test_an_unknown_name_is_answered_with_the_nearest():
    registry = Registry("pooling mode", "tercet.layers")
    registry.register("mean", "average")(1)
    assert registry["mean"] == registry["average"] == 1
    with pytest.raises(UnknownNameError, match=r"no pooling mode named 'maen'. Did you mean 'mean'"):
        registry["maen"]


def test_two_entries_of_one_name_are_a_bug():
    registry = Registry("thing", "tercet.layers")
    registry.register("a")(1)
    with pytest.raises(ValueError, match="two things are named 'a'"):
        registry.register("a")(2)


def test_a_type_stands_behind_its_article():
    given = (3, "a", [], object(), OrderedDict(), np.zeros(1), None)
    assert [kind_of(one).partition(" ")[0] for one in given] == ["an", "a", "a", "an", "an", "an", "a"]
    assert kind_of(3) == "an int"


def test_nearest_says_so_when_nothing_is_known():
    assert nearest("x", []) == "Known: none."


def test_a_missing_extra_gives_the_install_command():
    with pytest.raises(MissingExtraError, match=r"pip install 'tercet\[scipy\]'"):
        require("no_such_library.part", extra="scipy", purpose="this test")


def test_an_unknown_keyword_is_refused_with_the_nearest_name_and_is_a_type_error():
    @refuse_unknown_keywords
    def load(path: str, *, precision: str = "auto") -> str:
        return path + precision

    assert load("a", precision="b") == "ab"
    with pytest.raises(TypeError, match=r"has no keyword 'precison'. Did you mean 'precision'"):
        load("a", precison="b")


def test_every_error_is_drawn_in_the_tree_and_exported():
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TercetError)
    }
    assert classes == set(errors.__all__) - {"kind_of", "nearest"}
    assert all(name in (errors.__doc__ or "") for name in classes)


def test_every_public_name_is_there():
    for name in tercet.__all__:
        assert getattr(tercet, name) is not None
    assert set(tercet.__all__) == set(dir(tercet))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        tercet.lode  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_numpy():
    code = (
        "import sys, tercet; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'tokenizers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_every_module_changes_no_global_state():
    code = """
import logging, os, pkgutil, importlib, signal, sys, warnings, torch
def state():
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), dict(os.environ),
            logging.getLogger().handlers[:], logging.getLogger().level, list(warnings.filters),
            signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.excepthook,
            torch.backends.mkldnn.enabled, torch.get_float32_matmul_precision())
import numpy, pyarrow, typer, rich, safetensors, tokenizers, huggingface_hub, accelerate, yaml
before = state()
import tercet
for info in pkgutil.walk_packages(tercet.__path__, "tercet."):
    if info.name.endswith(("__main__", "libtercet_kernels")):  # no module, a library that Python opens
        continue
    try:
        importlib.import_module(info.name)
    except tercet.errors.MissingExtraError:  # an adapter, whose framework is not here
        assert info.name.startswith("tercet.adapters."), info.name
assert state() == before, (before, state())
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
