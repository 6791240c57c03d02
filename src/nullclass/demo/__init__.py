"""A live demonstration in the browser: draw a digit, attack it, ask a proved model."""
