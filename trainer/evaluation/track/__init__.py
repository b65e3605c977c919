"""The tracker benchmark: predicted meshes of any topology against true ones (docs/track-benchmark.md)."""
