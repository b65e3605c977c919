"""Everything that has to be seen on a GPU once, in one run (docs/gpu.md)."""
