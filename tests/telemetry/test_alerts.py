"""What is shipped for Prometheus and Grafana: rules and expressions are valid, and speak of metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rxcompact
from rxcompact.observers.metrics import families
from rxcompact.observers.statistics import Snapshot

SHIPPED = Path(rxcompact.__file__).parent / "telemetry"
DASHBOARD: Any = json.loads((SHIPPED / "dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def promtool(*arguments: object) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.debian
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    promtool("check", "rules", SHIPPED / "alerts.yml")
    promtool("test", "rules", Path(__file__).parent / "alerts_test.yml")


@pytest.mark.debian
def test_the_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    assert len(EXPRESSIONS) > 20
    rules = [{"record": f"r{at}", "expr": each.replace("$instance", ".*")} for at, each in enumerate(EXPRESSIONS)]
    path = tmp_path / "rules.json"  # which is YAML too
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)


def test_rules_and_dashboard_name_metrics_that_are_exported() -> None:
    exported = {
        f"{family.name}{suffix}"
        for family in families(Snapshot())
        for suffix in {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[family.type]
    }
    named = set(re.findall(r"rxcompact_\w+", (SHIPPED / "alerts.yml").read_text() + " ".join(EXPRESSIONS)))
    assert named - {"rxcompact_events"} <= exported
    assert len(named) > 10
