"""The ramp study: images of three pixels, whose decision spaces can be drawn (Roos 2020)."""
