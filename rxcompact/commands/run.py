"""rxcompact run: a pipeline that a Python module or file defines, as a service."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from functools import reduce
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from rxcompact.commands import common
from rxcompact.commands.service import EXIT_CODES, USAGE, add_service_arguments, serve
from rxcompact.errors import ArgumentError
from rxcompact.pipeline import Pipeline

DESCRIPTION = """\
Run a Pipeline that you wrote as a service: supervised, drained on SIGTERM, SIGHUP or Ctrl-C, with probes and metrics.

The pipeline is a name in a module or in a file, by default `pipeline`; or a function that returns one.
"""
EPILOG = f"""\
Every option can be given by the environment, --status by RXCOMPACT_STATUS. Each of several workers makes the pipeline
for itself, and has its number, from 0, in RXCOMPACT_WORKER.

example, with a file alerts.py that has `pipeline = Pipeline(…)`:
  rxcompact run alerts:pipeline --status :9090 --dead-letters dead.ndjson
  curl http://localhost:9090/readyz?verbose

{EXIT_CODES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("pipeline", metavar="MODULE[:NAME]", help="module or file, and name in it (pipeline)")
    reload = "for development: start anew when a Python file beside it changes (extra reload)"
    add_service_arguments(parser).add_argument("--reload", action="store_true", help=reload)
    common.add_log_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    common.configure_log(options)
    if options.reload:
        return _reload(options)
    try:
        pipeline = _load(options.pipeline)
    except argparse.ArgumentError:
        raise
    except Exception:  # noqa: BLE001 - of the module: a worker that is started again would end in it again
        traceback.print_exc()
        return USAGE
    if (sink := common.dead_letter_sink(options.dead_letters)) is not None:
        pipeline = pipeline.having(dead_letters=sink)
    return common.run_loop(serve(pipeline, options))


def _reload(options: argparse.Namespace) -> int:
    """Run the command in a process that is drained and started anew when a file changes."""
    try:
        from watchfiles import PythonFilter, run_process  # noqa: PLC0415 - an extra
    except ImportError:
        raise ArgumentError("--reload", True, 'with the extra: pip install "rxcompact[reload]"') from None
    os.environ["RXCOMPACT_RELOAD"] = "0"
    command = [sys.executable, "-m", "rxcompact", *(each for each in sys.argv[1:] if each != "--reload")]
    run_process(
        Path(options.pipeline.partition(":")[0]).parent,
        target=shlex.join(command),
        target_type="command",
        watch_filter=PythonFilter(),
        callback=lambda changes: common.note(f"{', '.join(sorted(path for _, path in changes))} changed"),
        sigint_timeout=options.deadline + 1,
    )
    return 0


def _load(text: str) -> Pipeline:
    """Return the pipeline of a module or file."""
    place, _, name = text.partition(":")
    module, name = _module(place), name or "pipeline"
    try:
        found: Any = reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise argparse.ArgumentError(None, f"{place} has no {name}: {error}") from None
    if callable(found):
        found = found()
    if not isinstance(found, Pipeline):
        raise argparse.ArgumentError(None, f"{text} is no Pipeline, and no function that returns one: {found!r}")
    return found


def _module(place: str) -> ModuleType:
    path = Path(place)
    sys.path.insert(0, str(path.parent.resolve() if path.suffix == ".py" else Path.cwd()))
    if path.suffix != ".py":
        try:
            return import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):  # one that the user's module imports
                raise
            raise argparse.ArgumentError(None, f"no module {place!r} here, nor installed") from None
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise argparse.ArgumentError(None, f"no file {place}")
    module = module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # `signal.py` must not take the place of Python's
    spec.loader.exec_module(module)
    return module
