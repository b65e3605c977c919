"""``adapt``: an avatar learnt in a studio, adapted to an unlabelled clip of another camera."""
