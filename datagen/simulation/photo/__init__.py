"""Pictures of simulated captures: skin, eyes, hair, light, places and cameras."""
