"""Shards of a pipeline on a cluster."""
