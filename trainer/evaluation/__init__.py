"""What `trainer evaluate` measures: pure functions on arrays, one idea a file; docs/metrics.md has the definitions."""
