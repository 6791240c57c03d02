"""A model, attacks and budgets -> rows, rates, scores and red flags."""
