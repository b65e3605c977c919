"""Ground-truth maps from meshes, and shading of simulated images (floor 3)."""
