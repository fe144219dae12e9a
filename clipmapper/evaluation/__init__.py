"""What `evaluate.py` makes of a checkpoint: answers or captions, their scores beside floors, and pictures of some."""
