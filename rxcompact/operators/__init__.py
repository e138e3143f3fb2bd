"""The operators, each usable alone in ``.pipe()``."""

from rxcompact.operators.compact import compact
from rxcompact.operators.distinct import distinct
from rxcompact.operators.enrich import enrich
from rxcompact.operators.merge import merge
from rxcompact.operators.publish import publish
from rxcompact.operators.retry_until_age import retry_until_age

__all__ = ["compact", "distinct", "enrich", "merge", "publish", "retry_until_age"]
