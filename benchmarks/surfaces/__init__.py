"""What samples show of a frame, by each kind of surface, beside the truth."""
