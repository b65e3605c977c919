"""Plain geometry on arrays: meshes, cameras, canonical space, landmarks (floor 1)."""
