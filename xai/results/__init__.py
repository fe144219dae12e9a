"""Results of explainers, and the files that keep them."""
