"""What all tests share."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rxcompact.testing import run

ROOT = Path(__file__).parent.parent
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", deadline=None, suppress_health_check=SLOW)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True, max_examples=300)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


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
