"""What the registration engine reaches where truth is known."""
