"""Benchmarks against simulated truth (floor 5)."""
