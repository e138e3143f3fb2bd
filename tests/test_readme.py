"""README and manual: their examples run, and their tables are complete."""

from __future__ import annotations

import re
import subprocess
from inspect import signature
from pathlib import Path

import pytest
from metrics_table import with_metrics

import rxcompact
from rxcompact.signals import Signal

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SIGNALS = Signal.__subclasses__()
MANUAL = Path(rxcompact.__file__).parent / "manual"
PAGES = [README, *sorted(MANUAL.glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n+```text\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL)
TOGETHER = ("stores.md",)  # pages whose blocks go on from those before
FRAMES = r"^import (pandas|pyarrow)"


def code_of(page: Path, block: re.Match[str]) -> str:
    before = BLOCK.finditer(page.read_text()[: block.start()]) if page.name in TOGETHER else ()
    return "\n".join(each["code"] for each in (*before, block))


EXAMPLES = [
    pytest.param(
        page.name,
        code_of(page, block),
        block["output"],
        id=f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}",
        marks=[pytest.mark.notebook] if re.search(FRAMES, block["code"], re.MULTILINE) else [],
    )
    for page in PAGES
    for text in [page.read_text()]
    for block in BLOCK.finditer(text)
]


@pytest.mark.parametrize(("page", "code", "output"), EXAMPLES)
def test_an_example_prints_what_is_shown(
    page: str, code: str, output: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(code, page, "exec"), {"__name__": "example"})  # noqa: S102
    assert output is None or capsys.readouterr().out == output


def test_a_recipe_is_complete_in_less_than_forty_lines() -> None:
    recipes = (MANUAL / "cookbook.md").read_text().split("\n## ")[1:]
    for recipe in recipes:
        (block,) = BLOCK.finditer(recipe)
        assert block["code"].count("\n") < 40
    assert len(recipes) >= 14


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_manual_has_its_pages() -> None:
    pages = "topology windows fields enrichment retry publishing ordering delivery backpressure stores failures "
    pages += (
        "shutdown brokers deployment performance limits security telemetry testing extending promises measurements "
    )
    pages += "comparison cookbook faq glossary"
    assert {page.stem for page in PAGES[1:]} == {*pages.split()}
    for name in pages.split():
        assert f"(rxcompact/manual/{name}.md)" in README.read_text()


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading of a page of the manual."""
    section = (MANUAL / page).read_text().partition(f"# {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in cells] for cells in lines]


def code(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)


def test_the_table_of_signals_is_complete() -> None:
    own = {kind: (each for each in kind.__struct_fields__ if each not in Signal.__struct_fields__) for kind in SIGNALS}
    expected = {f"`{kind.__name__}`": code(fields) for kind, fields in own.items()}
    assert {name: of for name, _, of in rows("telemetry.md", "Signals")} == expected


def test_the_table_of_metrics_is_the_one_that_help_comes_from() -> None:
    page = (MANUAL / "telemetry.md").read_text()
    assert with_metrics(page) == page, "python tests/support/metrics_table.py writes it"


def test_the_table_of_limits_has_the_defaults() -> None:
    units = {"MiB": 1 << 20, "KiB": 1 << 10}
    table = rows("limits.md", "Limits")
    assert len(table) > 15
    for option, default, _ in table:
        name, parameter = re.fullmatch(r"`(\w+)\((\w+)=\)`", option).groups()
        number, unit = re.match(r"([\d,]+) (\w+)", default).groups()
        call = getattr(rxcompact, name, None) or getattr(rxcompact.operators, name)
        expected = int(number.replace(",", "")) * units.get(unit, 1)
        assert signature(call).parameters[parameter].default == expected, option


def test_the_tests_of_an_operators_day_exist() -> None:
    section = (MANUAL / "brokers.md").read_text().partition("## An operator's day\n")[2]
    table = [line for line in section.splitlines()[6:] if line.startswith("| ")]
    assert len(table) >= 20
    for line in table:
        names = re.findall(r"`([\w/.]+\.py)::(\w+)`", line.split(" | ")[-1])
        assert names
        for file, name in names:
            assert f"def {name}(" in (ROOT / "tests" / "brokers" / file).read_text(), name


def test_the_first_two_shell_lines_are_what_the_gate_runs() -> None:
    run = subprocess.run(["bash", ROOT / ".ci" / "run", "commands"], check=True, capture_output=True, text=True)
    first, second = run.stdout.splitlines()
    assert re.search(r"^```sh\n(.*\n.*\n)", README.read_text(), re.MULTILINE)[1].splitlines() == [first, second]
    assert first.endswith(".venv/bin/rxcompact demo")
    assert second.endswith(".venv/bin/pytest")
