"""What `trainer predict` is made of: reading frames, windows, maps, tracks, pictures, videos, the viewer."""
