"""From a manifest to a verified dataset: planning, units of work, resume, and the runners that carry them."""
