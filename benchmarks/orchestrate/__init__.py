"""What builds cost beside the work itself: planning, carrying tasks, and finding that all is done."""
