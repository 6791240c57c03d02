"""Ways to refuse: a threshold on the null score, proofs, smoothing."""
