"""One HTML page of figures and explanations, to be read without a network."""
