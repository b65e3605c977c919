"""From calibrated pictures to registered heads, where there is no scan."""
