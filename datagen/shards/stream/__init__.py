"""Streaming a split: one order, whoever reads, resumable at a sample."""
