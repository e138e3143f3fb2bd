"""The operators, each usable alone in ``.pipe()``."""

from rxcompact.operators.compact import compact
from rxcompact.operators.distinct import Release, distinct, distinct_within

__all__ = ["Release", "compact", "distinct", "distinct_within"]
