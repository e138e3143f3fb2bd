"""The README: its examples run, and its first two commands are those of the gate."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n+```text\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(block["code"], block["output"], id=f"line {README.count(chr(10), 0, block.start()) + 1}")
    for block in BLOCK.finditer(README)
]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_an_example_runs_and_prints_what_is_shown(
    code: str, output: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102
    assert output is None or capsys.readouterr().out == output


def test_it_has_examples() -> None:
    assert EXAMPLES


def test_the_first_two_shell_lines_are_what_the_gate_runs() -> None:
    run = subprocess.run(["bash", ROOT / ".ci" / "run", "commands"], check=True, capture_output=True, text=True)
    first, second = run.stdout.splitlines()
    assert re.search(r"^```sh\n(.*\n.*\n)", README, re.MULTILINE)[1].splitlines() == [first, second]
    assert first.endswith(".venv/bin/rxcompact demo")
    assert second.endswith(".venv/bin/pytest")
