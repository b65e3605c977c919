"""The dataset format: Zarr v3 shards with records. Reading needs numpy and zarr only (floor 1)."""
