"""The report of a benchmark: what won, how sure that is, and what to choose."""

from .page import write_report

__all__ = ["write_report"]
