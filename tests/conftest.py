"""Tiers, virtual time for coroutine tests, and what all tests share."""

from __future__ import annotations

import inspect
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rxcompact.testing import run

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"

TIERS = ("slow", "broker", "cluster", "notebook", "browser", "debian", "bench")
"""The markers that pyproject.toml describes. A plain `pytest` is the fast tier: it runs no test that has one."""
FOLDERS = {
    "benchmarks": "bench",
    "brokers": "broker",
    "chaos": "slow",
    "cluster": "cluster",
    "frames": "notebook",
    "fuzz": "slow",
    "notebooks": "notebook",
    "senders": "debian",
}
"""The marker of each test in a folder, unless the test or its module has another."""

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
# the same examples each time: a test turns red by a change, never by luck; --hypothesis-profile=random searches on
settings.register_profile("dev", deadline=None, suppress_health_check=SLOW, derandomize=True)
settings.register_profile("ci", settings.get_profile("dev"), print_blob=True, max_examples=300)
settings.register_profile("random", settings.get_profile("dev"), derandomize=False, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def folder_tier(path: Path) -> str | None:
    """Return the marker of the folder that a path lies in."""
    return FOLDERS.get(path.relative_to(TESTS).parts[0]) if path != TESTS and path.is_relative_to(TESTS) else None


def pytest_configure(config: pytest.Config) -> None:
    """Select the fast tier, and the tiers of folders that the command line names, unless `-m` is given."""
    if not config.option.markexpr:
        named = {folder_tier(Path(argument.partition("::")[0]).resolve()) for argument in config.args}
        config.option.markexpr = " and ".join(f"not {tier}" for tier in TIERS if tier not in named)
    # a shell in the background and nohup have these ignored, and so would every process that a test starts
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders of tiers that are not selected: what they import may not be installed."""
    tier = folder_tier(collection_path)
    return True if tier is not None and f"not {tier}" in config.option.markexpr else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test that lies in the folder of a tier."""
    tier = folder_tier(item.path)
    if tier is not None and not any(mark.name in TIERS for mark in item.iter_markers()):
        item.add_marker(tier)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutine functions, in virtual time."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    run(lambda: pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real event sets, which lie beside the project; RXCOMPACT_SHARED names another place."""
    found = Path(os.environ.get("RXCOMPACT_SHARED", ROOT.parent / "shared" / "data"))
    if not found.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{found} is missing")
        pytest.skip(f"{found} is not here")
    return found
