"""Why a request hits or misses: the nearest entry, and what tells the two apart."""

from castore.explain.comparing import changed_code
from castore.explain.difference import Difference
from castore.explain.explanation import (
    Comparison,
    Explanation,
    compare_entries,
    explain,
    short_reason,
)

__all__ = [
    "Comparison",
    "Difference",
    "Explanation",
    "changed_code",
    "compare_entries",
    "explain",
    "short_reason",
]
