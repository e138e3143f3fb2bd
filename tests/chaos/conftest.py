"""Lets the tests here import what they share with the command `python tests/chaos/soak.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
