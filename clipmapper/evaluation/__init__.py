"""The work of `evaluate.py` on a checkpoint: answers or captions, their scores beside baselines, and pictures of some."""
