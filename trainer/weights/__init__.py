"""Published weights: reading them, naming them as this network does, and a report of what fitted."""
