"""Only the tests are collected here: the rest is a program, which they run as one."""

from pathlib import Path

collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]
