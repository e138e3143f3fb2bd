"""Sinks: destinations of batches."""
