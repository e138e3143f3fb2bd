"""Change one thing at a time in the parts that must not lose events, and list the changes that no test notices.

``python tests/mutation.py [FILE …] [--only TEXT] [--jobs N]``: files of the package, by default `TARGETS`. Exits with 1
when a mutant survives that `EQUIVALENT` does not explain.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
TARGETS: dict[str, list[str]] = {
    "acks.py": [
        "lifecycle/test_acks.py", "lifecycle/test_dead_letters.py", "workers/test_intake.py",
        "telemetry/test_traces.py",
    ],
    "operators/bucket.py": [
        "operators/test_bucket.py", "operators/test_compact.py", "lifecycle/test_capacity.py", "lifecycle/test_acks.py",
        "lifecycle/test_bytes.py", "operators/test_per_key.py", "properties/test_compact_laws.py",
    ],
    "operators/stage.py": [
        "operators/test_pool.py", "operators/test_enrich.py", "operators/test_publish.py", "operators/test_field.py",
        "operators/test_failures.py", "operators/test_neighbours.py", "operators/test_breaker.py",
        "lifecycle/test_drain.py", "lifecycle/test_conservation.py", "lifecycle/test_observers.py",
    ],
    "run.py": [
        "lifecycle", "faults/source/test_source_demand.py", "faults/source/test_source_access.py", "telemetry",
        "render/test_report.py", "integration/test_outages.py",
    ],
}  # fmt: skip
"""Files of the package, and their tests, those first that notice most."""
WORK = "how much work it is taken for"
LENGTH = "what is zipped is of one length"
DUE = "(due := (born + ages))"
EQUIVALENT: dict[str, str] = {
    "operators/bucket.py: 2  →  3  |  for _ in range(2):": "a third look at an empty table finds it empty too",
    "operators/bucket.py: 0  →  1  |  deque(map(list.append, map(self.acks.__getitem__, keys), ack": "one may stay",
    "operators/bucket.py: 0  →  1  |  deque(map(self.table.setdefault, keys, events), maxlen=0)": "one of it may stay",
    "operators/bucket.py: True  →  False  |  self.table.update(zip(keys, events, strict=True))": LENGTH,
    "operators/bucket.py: True  →  False  |  for key, event in zip(keys, events, strict=True):": LENGTH,
    "operators/bucket.py: True  →  False  |  for (key, event), arrived in zip(self.table.items(), self._a": LENGTH,
    "operators/bucket.py: contained(error)  →  pass  |  contained(error)": "the key raises again where it is looked up",
    "operators/bucket.py: False  →  True  |  self._timed = False": "the least of what is in order is the first",
    "operators/bucket.py: True  →  False  |  self._fill_timed(zip(keys, events, seen, strict=True))": LENGTH,
    "operators/bucket.py: True  →  False  |  self._fill_arrived(zip(keys, events, strict=True), seen)": LENGTH,
    "operators/bucket.py: time > row[3]  →  time >= row[3]  |  if time > row[3]:": "the same time again",
    "operators/bucket.py: time < row[2]  →  time <= row[2]  |  elif earlier and time < row[2]:": "the same time again",
    "operators/bucket.py: time < row[2]  →  time <= row[2]  |  elif time < row[2]:": "the same time again",
    f"operators/stage.py: {DUE} > latest  →  {DUE} >= latest  |  "
    "deadlines = [latest if born is None or (due := born + ages) ": "both are the same then",
    "operators/stage.py: 0  →  1  |  self._steps = 0  # calls that began": "only whether it rises counts",
    "operators/bucket.py: True  →  False  |  key, event, *(number if kept else None for number, kept in z": LENGTH,
    "run.py: return Disposable()  →  return None  |  return Disposable()": "RxPY takes None for one",
    "run.py: len(window[:]) // FAST + 1  →  len(window[:]) // FAST - 1  |  yield len(window[:]) // FAST + 1": WORK,
    "run.py: 1  →  2  |  yield len(window[:]) // FAST + 1": WORK,
    "run.py: 1  →  2  |  yield from in_parts(events, getattr(self._pipeline.calls[0],": WORK,
    "acks.py: False  →  True  |  for each, ack in zip(map(id, self), self.acks, strict=False)": "one of no event",
    "acks.py: self.text = text  →  pass  |  self.text = text": "a chunk without text is decoded event by event",
}
"""Mutants that change nothing that can be seen, as they are listed, and why."""
SECONDS = 150.0
"""A mutant whose tests take longer is noticed: it hangs."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
    ast.Break: ast.Continue, ast.Continue: ast.Break,
}  # fmt: skip


class Mutant(NamedTuple):
    file: str
    line: int
    before: str
    after: str
    text: str
    """The whole file."""

    source: str
    """The beginning of the line as it stands."""

    @property
    def name(self) -> str:
        return f"{self.file}: {self.before}  →  {self.after}  |  {self.source}"


def changes(node: ast.AST) -> Iterator[ast.AST | None]:
    """Yield what may stand in a node's place; None for nothing."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in SWAPS:
            yield ast.Compare(node.left, [SWAPS[type(operator)]()], node.comparators)
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in SWAPS:
            changed = copy.copy(node)
            changed.op = SWAPS[type(node.op)]()
            yield changed
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.BoolOp):
            changed = copy.copy(node)
            changed.test = ast.UnaryOp(ast.Not(), node.test)
            yield changed
        case ast.Break() | ast.Continue():
            yield SWAPS[type(node)]()
    match node:
        case ast.Expr(value=ast.Call() | ast.Await() | ast.Yield()) | ast.Assign() | ast.AugAssign() | ast.Raise():
            yield ast.Pass()
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None))


def mutants(file: str) -> Iterator[Mutant]:
    """Yield each change of one thing in a file's functions."""
    source = (ROOT / "rxcompact" / file).read_text()
    tree, lines = ast.parse(source), source.splitlines()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {child for function in functions for child in ast.walk(function) if child is not function}
    for function in functions:
        if function not in inner:
            for parent in ast.walk(function):
                yield from _mutants_below(file, lines, tree, parent)


def _mutants_below(file: str, lines: list[str], tree: ast.Module, parent: ast.AST) -> Iterator[Mutant]:
    for field, value in ast.iter_fields(parent):
        if field in {"annotation", "args", "decorator_list", "returns"} and not isinstance(parent, ast.Call):
            continue
        places = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, node in places:
            if not isinstance(node, ast.AST):
                continue
            for change in changes(node):
                new = ast.copy_location(change, node) if change is not None else None
                _put(parent, field, index, new)
                text = ast.unparse(ast.fix_missing_locations(tree))
                after = ast.unparse(change).split("\n")[0] if change is not None else ""
                _put(parent, field, index, node)
                line = getattr(node, "lineno", getattr(parent, "lineno", 0))
                yield Mutant(file, line, ast.unparse(node).split("\n")[0], after, text, lines[line - 1].strip()[:60])


def _put(parent: ast.AST, field: str, index: int | None, node: Any) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def noticed(mutant: Mutant, place: Path, tests: list[str]) -> bool:
    """Return whether a test fails with a mutant in place of its file."""
    path = place / "rxcompact" / mutant.file
    original = path.read_text()
    path.write_text(mutant.text)
    found = [str(place / "tests" / test) for test in tests if (ROOT / "tests" / test).exists()]
    options = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "--no-header", "--timeout=60"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *found], cwd=place, env=os.environ | {"PYTHONPATH": str(place)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(SECONDS) != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        path.write_text(original)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TARGETS))
    parser.add_argument("--only", default="", help="only mutants whose listing has this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    found = [mutant for file in options.files for mutant in mutants(file) if options.only in mutant.name]
    found = [mutant for mutant in found if mutant.name not in EQUIVALENT]
    survivors: list[Mutant] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as threads:
        places: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.jobs):
            place = Path(folder) / str(number)
            for part in ("rxcompact", "tests"):
                shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", place)
            places.put(place)

        def check(mutant: Mutant) -> None:
            place = places.get()
            try:
                if not noticed(mutant, place, TARGETS[mutant.file]):
                    survivors.append(mutant)
                    print(f"survived, line {mutant.line}: {mutant.name}", flush=True)
            finally:
                places.put(place)

        list(threads.map(check, found))
    took = time.monotonic() - began
    print(f"{len(found)} mutants, {len(survivors)} survived, {len(EQUIVALENT)} known to change nothing, {took:.0f} s")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
