"""Lets the tests here import what they share, among them and with those of the sink."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "sink")]
