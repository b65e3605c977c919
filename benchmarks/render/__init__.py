"""How fast and how exact the rendering backends are."""
