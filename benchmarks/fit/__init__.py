"""What fits of pictures achieve where the truth is known."""
