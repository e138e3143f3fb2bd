"""Lets the tests here import the oracle that they share with the fuzzer."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "fuzz"))
