"""Enrichers: what adds to events."""
