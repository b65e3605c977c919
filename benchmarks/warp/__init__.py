"""What the registration engine achieves where the truth is known."""
