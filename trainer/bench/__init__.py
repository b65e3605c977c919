"""What training takes: speed, memory, and whether the data keeps up."""
