"""The house rules that a test can see."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rxcompact

PACKAGE = Path(rxcompact.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
EXTRA = {"notebook": "notebook", "brokers": "broker", "cluster": "cluster"}
ROOMS = [
    pytest.param(f"rxcompact.{room.name}", marks=[getattr(pytest.mark, EXTRA[room.name])] if room.name in EXTRA else ())
    for room in pkgutil.iter_modules([str(PACKAGE)])
    if room.ispkg
]
EXTRAS = (
    "async_solipsism",
    "nats",
    "opentelemetry",
    "pandas",
    "prometheus_client",
    "ray",
    "redis",
    "rich",
    "tqdm",
    "uvloop",
    "watchfiles",
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_has_a_docstring_and_at_most_400_lines(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 400, "two rooms share a wall"
    assert lines[0].startswith('"""')


@pytest.mark.parametrize("room", ["rxcompact", *ROOMS])
def test_every_public_name_is_documented(room: str) -> None:
    module = importlib.import_module(room)
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if isinstance(thing, type | ModuleType) or callable(thing):
            # the generated docstring of a dataclass or a named tuple does not count
            assert not (thing.__doc__ or "(").startswith(("(", f"{name}(")), name


def test_the_core_needs_no_extra() -> None:
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS}))\n"  # None: importing it raises
        "import rxcompact, rxcompact.__main__\n"
        "import rxcompact.operators, rxcompact.sources, rxcompact.sinks, rxcompact.observers\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_operators_load_no_pictures() -> None:
    program = (
        "import sys\n"
        "import rxcompact.operators, rxcompact.observers\n"
        "assert not [name for name in sys.modules if name.startswith(('rxcompact.render', 'prometheus_client'))]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_loads_no_http_no_pictures_and_no_extra() -> None:
    program = (
        "import sys\n"
        "import rxcompact\n"
        f"unwanted = {('aiohttp', 'rxcompact.render', 'rxcompact.notebook', *EXTRAS)}\n"
        "assert not [name for name in sys.modules if name.startswith(unwanted)]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_command_that_reads_files_loads_no_log_no_http_and_no_retries() -> None:
    program = (
        "import sys\n"
        "from rxcompact.__main__ import main\n"
        "assert main(['compact', '/dev/null', '--key=id', '--timespan=1']) == 0\n"
        "unwanted = ('aiohttp', 'loguru', 'tenacity', 'email', 'hashlib', 'json', 'zoneinfo', 'multiprocessing')\n"
        "found = [name for name in sys.modules if name.partition('.')[0] in unwanted]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_touches_neither_loop_nor_log_nor_thread() -> None:
    program = (
        "import asyncio, threading\n"
        "from loguru import logger\n"
        "sinks = list(logger._core.handlers)\n"
        "import rxcompact\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert list(logger._core.handlers) == sinks\n"
        "assert asyncio._get_running_loop() is None\n"
        "assert asyncio.get_event_loop_policy()._local._loop is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
