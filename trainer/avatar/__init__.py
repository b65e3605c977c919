"""One person's appearance model, driven by single pictures and adapted to unlabelled clips (Yoon et al., 2019)."""
