"""Ground-truth maps of surfaces that carry canonical coordinates: one contract, four backends."""
