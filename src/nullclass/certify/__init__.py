"""Images -> what is proved about a classifier around them."""
