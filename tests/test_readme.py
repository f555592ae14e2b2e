import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_first_example_runs_and_prints_what_the_readme_says(capsys):
    [code, output] = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    number = re.compile(r"-?\d+\.\d+")
    assert number.sub("#", printed) == number.sub("#", output)
    for found, written in zip(number.findall(printed), number.findall(output), strict=True):
        assert float(found) == pytest.approx(float(written), abs=2e-4)


def test_the_first_screen_shows_the_two_commands_and_an_example():
    first_screen = "\n".join(README.splitlines()[:25])
    for wanted in ("make demo", "make test", "import tercet", "Embeddings(3 texts"):
        assert wanted in first_screen
