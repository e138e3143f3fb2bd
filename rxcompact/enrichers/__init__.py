"""What makes events worth more."""

from rxcompact.enrichers.http import HttpEnricher

__all__ = ["HttpEnricher"]
