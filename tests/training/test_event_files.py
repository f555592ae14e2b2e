import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

import tiny
from tercet.errors import MissingExtraError, OutputError
from tercet.training.scalars import Scalars
from tercet.training.trainer import train


def events(file: Path) -> Iterator[Any]:
    """The records of a TFRecord file: length, its checksum, as many bytes, their checksum."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        [length] = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: name -> step -> value, without what a later file comes to hold again."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in events(file):
            if event.session_log.status == event.session_log.START:
                for steps in found.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.simple_value
    return found


def test_event_files_hold_what_the_lines_hold_and_no_step_twice(tmp_path: Path) -> None:
    first = Scalars(tmp_path, tensorboard=True)
    first.begin(0)
    for step in (1, 2, 3):
        first.add({"step": step, "epoch": 0, "loss": 1 / step, "dense/info_nce": 0.5, "gradient_norm": None})
    first.add({"step": 3, "validation/dense/ndcg@10": 0.25})
    # Killed: nothing is closed, and all of it is there.
    second = Scalars(tmp_path, tensorboard=True)
    second.begin(2)
    second.add({"step": 3, "epoch": 1, "loss": 0.75, "skipped": 1})
    second.close()
    second.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert shown(tmp_path / "tensorboard") == {
        "loss": {1: 1.0, 2: 0.5, 3: 0.75},
        "dense/info_nce": {1: 0.5, 2: 0.5},
        "validation/dense/ndcg_10": {},
        "skipped": {3: 1.0},
    }
    lines = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 0.75)]
    first.close()


def test_without_the_library_the_error_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"tensorboard: true.*pip install 'tercet\[tensorboard\]'"):
        Scalars(tmp_path, tensorboard=True)
    Scalars(tmp_path).begin(0)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(OutputError, match="tensorboard"):
        Scalars(tmp_path, tensorboard=True).begin(0)


def test_a_run_is_shown_as_its_lines_have_it_also_where_it_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny.write_checkpoint(tmp_path / "base", "bert")
    rows = [{"query": one, "pos": [one[::-1]]} for one in ("the cat", "a dog", "one sun", "red fish")]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": str(base),
        "output": {"folder": "out"},
        "data": [{"path": "data.jsonl", "group_size": 1}],
        "losses": [{"name": "info_nce", "head": "dense"}],
        "batch": {"texts": 4},
        "steps": 4,
        "precision": "float32",
        "tensorboard": True,
    }

    def stop(step: int, steps: int, scalars: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, device="cpu", progress=stop)
    train(recipe, device="cpu", resume=True)
    lines = [json.loads(line) for line in Path("out.run/scalars.jsonl").read_text().splitlines()]
    found = shown(Path("out.run/tensorboard"))
    for name in ("loss", "dense/info_nce", "learning_rate", "tokens"):
        assert found[name] == {line["step"]: pytest.approx(line[name], rel=1e-6) for line in lines}
