"""The joint model: a DINOv2-style transformer over all frames of a clip and a dense decoder."""
