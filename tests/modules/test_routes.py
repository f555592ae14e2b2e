"""Router and Asym: which modules a text goes through, and what is refused."""

import json

import numpy as np
import pytest

import tercet
import tiny_sparse
from recorder import modules
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.errors import CheckpointError, InputError
from tiny_modules import dense, dropout, lstm, pooling, router, write_stack

NAMES = [case.name for case in modules.ROUTED]
ROUTES = {"query": (dense("query", 16),), "document": (dense("document", 16),)}


def load(folder, **options):
    return tercet.load(folder, **{"precision": "float32", "device": "cpu", **options})


def written(folder, routes=ROUTES, **parameters):
    return write_stack(folder, (pooling(), router(routes, **parameters)))


def edit(path, **changes):
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


@pytest.mark.parametrize("name", NAMES)
def test_a_text_takes_its_route_alone_and_in_a_batch_in_a_stream_and_from_a_copy(name, tmp_path):
    folder = modules.write(tmp_path / "model", name)
    model = load(folder)
    copy = load(save_checkpoint(open_checkpoint(folder), tmp_path / "copy"))
    for task in modules.TASKS:
        together = model.encode(modules.TEXTS, task=task).numpy().dense
        alone = [model.encode(text, task=task).numpy().dense for text in modules.TEXTS]
        streamed = [part.numpy().dense for part in model.stream(modules.TEXTS, task=task)]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(together, np.concatenate(streamed))
        np.testing.assert_array_equal(together, copy.encode(modules.TEXTS, task=task).numpy().dense)


def test_scores_compare_queries_by_their_route_with_documents_by_theirs(tmp_path):
    model = load(written(tmp_path / "model"))
    queries, documents = modules.TEXTS[1:3], modules.TEXTS[3:6]
    left, right = model.encode_query(queries).dense, model.encode_document(documents).dense
    found = model.score(queries, documents).dense
    np.testing.assert_allclose(found, left @ right.T, rtol=1e-5, atol=1e-6)


def test_modules_that_routes_share_are_held_and_counted_once(tmp_path):
    shared = dense("shared", 16)
    folder = written(tmp_path / "model", {"query": (shared,), "document": (shared, dense("own", 8))})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.footprint().head_numbers == (32 + 1) * 16 + (16 + 1) * 8
    model = load(folder)
    parameters = {part.data_ptr() for part in model._heads.parameters()}
    assert len(parameters) == 4
    assert checkpoint.dense_dim == model.dimension == 16
    assert model.encode_document("a").dense.shape == (1, 8)
    with pytest.raises(InputError, match=r"dimensions=9: the dense vectors of .* have 8"):
        model.encode_document("a", dimensions=9)
    assert model.encode_query("a", dimensions=9).dense.shape == (1, 9)


def test_the_provenance_names_the_route_and_its_modules(tmp_path):
    model = load(write_stack(tmp_path / "model", (pooling(), router({"query": (dense("q", 4),), "doc": ()}))))
    query, document = model.provenance(task="query"), model.provenance(task="doc")
    assert (query["route"], document["route"]) == ("query", "doc")
    assert [module["kind"] for module in query["modules"]] == ["pooling", "dense"]
    assert [module["kind"] for module in document["modules"]] == ["pooling"]


def test_weights_of_all_routes_count_in_the_hash(tmp_path):
    one = open_checkpoint(written(tmp_path / "one", {"query": (dense("a"),), "document": (dense("b"),)}))
    other = open_checkpoint(written(tmp_path / "other", {"query": (dense("a"),), "document": (dense("c"),)}))
    assert one.weights_hash() != other.weights_hash()


def test_dropout_in_a_route_is_left_out(tmp_path):
    found = open_checkpoint(written(tmp_path / "model", {"query": (dropout(), dense("q")), "document": ()}))
    assert [spec.kind for spec in found.modules] == ["pooling", "dense"]
    assert any("query_0_Dropout (Dropout) does nothing" in note for note in found.notes)


def test_another_pooling_is_that_of_every_route(tmp_path):
    routes = {"query": (pooling("cls"),), "document": (pooling("max"),)}
    model = load(write_stack(tmp_path / "model", (lstm(8), router(routes))), pooling="mean")
    texts = modules.TEXTS
    found = [model.encode(texts, task=task).numpy().dense for task in ("query", "document")]
    np.testing.assert_array_equal(*found)


def test_without_a_default_a_task_must_be_given(tmp_path):
    model = load(written(tmp_path / "model", allow_empty_key=False))
    with pytest.raises(InputError, match=r"no default.*encode_query.*task=: 'query', 'document'"):
        model.encode("a")
    assert model.encode_query("a").dense.shape == (1, 16)


def test_a_task_without_a_route_is_an_error_that_names_the_nearest(tmp_path):
    model = load(written(tmp_path / "model", {"query": (dense("q"),), "doc": (dense("d"),)}))
    with pytest.raises(InputError, match=r"no route for the task 'document'.*doc, query"):
        model.encode_document("a")
    assert model.encode("a", task="doc").dense.shape == (1, 32)


def test_a_task_for_a_model_without_routes_is_an_error(tmp_path):
    model = load(write_stack(tmp_path / "model", (pooling(),)))
    with pytest.raises(InputError, match=r"task='query': .* has no routes.*Leave it out"):
        model.encode("a", task="query")
    with pytest.raises(InputError, match="task is of type int"):
        model.encode("a", task=3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strucure": {}}, "'strucure' is not known"),
        ({"types": None}, "'types' and 'structure' must be objects"),
        ({"structure": {"query": ["nowhere"]}}, r"the route 'query' is \['nowhere'\], expected names"),
        ({"structure": {}}, "'types' and 'structure' must be objects"),
        ({"parameters": {"default_route": "documents"}}, "no route 'documents'.*'document'"),
        ({"parameters": {"default_route": []}}, r"no route \[\]"),
        ({"parameters": {"fallback": 1}}, "'fallback' is not known"),
        ({"parameters": {"route_mappings": {"query": "query"}}}, "route_mappings has 'query'"),
        ({"parameters": {"route_mappings": {"('query', None)": "q"}}}, "no route 'q'"),
        ({"parameters": []}, r"'parameters' is \[\]"),
    ],
)
def test_settings_of_a_router_that_cannot_be_are_refused(changes, says, tmp_path):
    folder = written(tmp_path / "model")
    edit(folder / "2_Router" / "router_config.json", **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_checkpoint(folder)
    assert "router_config.json" in str(caught.value)


def test_a_route_without_a_module_is_refused(tmp_path):
    folder = modules.write(tmp_path / "model", "router first, one encoder")
    path = folder / "router_config.json"
    config = json.loads(path.read_text())
    config["structure"]["document"] = []
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"modules.json: the route 'document' has no module.*again"):
        open_checkpoint(folder)


def test_code_of_a_checkpoint_in_a_route_and_places_outside_are_refused(tmp_path):
    folder = written(tmp_path / "model")
    path = folder / "2_Router" / "router_config.json"
    types = json.loads(path.read_text())["types"]
    edit(path, types={name: "my_code.Dense" for name in types})
    with pytest.raises(CheckpointError, match="No code of a checkpoint is run"):
        open_checkpoint(folder)
    outside = {"../../elsewhere": next(iter(types.values()))}
    edit(path, types=outside, structure={"query": list(outside)})
    with pytest.raises(CheckpointError, match="elsewhere"):
        open_checkpoint(folder)


def test_a_second_router_and_one_within_a_router_are_refused(tmp_path):
    twice = write_stack(tmp_path / "twice", (pooling(), router(ROUTES), router(ROUTES)))
    with pytest.raises(CheckpointError, match="3_Router is a second router; one is supported"):
        open_checkpoint(twice)
    within = written(tmp_path / "within", {"query": (router(ROUTES),), "document": ()})
    with pytest.raises(CheckpointError, match=r"query_0_Router: the module 'Router' .* is not supported"):
        open_checkpoint(within)


def test_routes_to_sparse_vectors_share_an_encoder_and_its_head(tmp_path):
    folder = tiny_sparse.write_routes(tmp_path / "model")
    model = load(folder)
    assert model.outputs == ("sparse",)
    queries, documents = (
        encode(modules.TEXTS).sparse for encode in (model.encode_query, model.encode_document)
    )
    for strategy, found in (("sum", queries), ("max", documents)):
        alone = load(tiny_sparse.write_splade(tmp_path / strategy, strategy=strategy))
        assert found.allclose(alone.encode(modules.TEXTS).sparse, rtol=1e-5, atol=1e-5)
    assert model.encode(modules.TEXTS).sparse.allclose(documents)
    copy = load(save_checkpoint(open_checkpoint(folder), tmp_path / "copy"))
    assert copy.encode_query(modules.TEXTS).sparse.allclose(queries, atol=0)


def test_a_route_to_sparse_and_one_to_dense_vectors_are_refused(tmp_path):
    folder = tiny_sparse.write_routes(tmp_path)
    path = folder / "1_Router" / "router_config.json"
    config = json.loads(path.read_text())
    config["types"]["query_0_Pooling"] = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    (folder / "1_Router" / "query_0_Pooling").mkdir()
    settings = {"embedding_dimension": 32, "pooling_mode": "mean"}
    (folder / "1_Router" / "query_0_Pooling" / "config.json").write_text(json.dumps(settings))
    config["structure"]["query"] = ["query_0_Pooling"]
    path.write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"'document' ends in .*SpladePooling.*'query' makes dense ones"
    ):
        open_checkpoint(folder)
