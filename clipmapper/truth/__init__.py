"""Which explainer finds what decides? Each method's relevance against the truth of Shapes, on held-out questions.

`python -m clipmapper.truth --model FOLDER_OR_CHECKPOINT --output DIR`. What is explained is the model's own answer, right or
wrong. The figures say where relevance falls, not whether the model used it.
"""
