"""A web page to try models and explainers on a picture of one's own."""
