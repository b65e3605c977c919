"""Plain geometry on arrays: meshes, cameras, canonical space, landmarks."""
