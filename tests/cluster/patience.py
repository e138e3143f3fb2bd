"""Has Ray start on a busy machine too."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from ray._private import node
from ray._private.parameter import RayParams

os.environ |= {
    "RAY_AUTH_MODE": "disabled",  # it listens on loopback alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
}
AGENTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


class SlowClock:
    """The module `time`, in which seconds take ten: Ray gives a node 30 of them to start, which no option changes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return time.monotonic() / 10


def free_ports(count: int) -> list[int]:
    taken = [socket.socket() for _ in range(count)]
    for each in taken:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def with_ports(make: Any) -> Any:
    """Choose the ports of a node's agents: otherwise its raylet waits 15 s for them to do so, and then dies."""

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        ports = dict(zip(AGENTS, free_ports(len(AGENTS)), strict=True))
        make(self, *arguments, **{**options, **{name: options.get(name) or port for name, port in ports.items()}})

    return init


node.time = SlowClock()  # type: ignore[assignment]
RayParams.__init__ = with_ports(RayParams.__init__)  # type: ignore[method-assign]
