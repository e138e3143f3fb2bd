"""Makes the helpers of these tests, and of those of the sink, importable."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "sink")]
