"""Which explainer is right? All explainers on the same held-out questions, by what removing tokens does to the answer.

What is explained is the model's own answer. `run.compare` is `evaluate.py --explainers`, a batch at a time: `explained` ->
`measure` -> `parts` (on disk, so that a killed run goes on) -> `summary`, `curves`, `page`.
"""
