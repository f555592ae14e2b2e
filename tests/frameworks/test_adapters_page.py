import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", ["LangChain", "LlamaIndex", "Haystack", "MTEB"])
def test_the_examples_of_the_page_run_and_print_what_it_says(name, capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL))
    wanted = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    exec(compile(code, "docs/adapters.md", "exec"), {})
    printed = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert wanted
    assert printed == wanted


def test_the_page_has_a_section_for_every_framework():
    assert set(SECTIONS) == {"LangChain", "LlamaIndex", "Haystack", "MTEB"}
