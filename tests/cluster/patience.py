"""Has Ray wait for its processes on a busy machine too."""

from __future__ import annotations

import os
import time
from typing import Any

from ray._private import node

os.environ |= {
    "RAY_AUTH_MODE": "disabled",  # it listens on loopback alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
}


class SlowClock:
    """The module `time`, in which seconds take ten: Ray gives a node 30 of them to start, which no option changes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return time.monotonic() / 10


node.time = SlowClock()  # type: ignore[assignment]
