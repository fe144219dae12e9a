"""Explained captions measured: what their words' maps fall on (Shapes), and what removing patches does to the caption.

`run.compare` is `evaluate.py --explainers` for captioners, `study.CaptionStudy` what a training logs: both explain and
`measure` a batch of captions at a time, by `truth`, `perturbation` and the `weights` of words; then `summary`, `curves`, `page`.
"""
