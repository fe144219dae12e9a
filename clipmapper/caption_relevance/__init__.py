"""Explained captions measured: what their words' maps fall on (Shapes), and what removing patches does to the caption.

`run.compare` is `evaluate.py --explainers` for captioners: it explains and measures a batch of captions at a time (`measure`, by
`truth` and `perturbation`), which stays on disk (`parts`); then `summary`, `curves`, `page`.
"""
