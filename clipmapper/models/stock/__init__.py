"""Generative models of transformers' own classes over CLIP's image tower, trained here."""
