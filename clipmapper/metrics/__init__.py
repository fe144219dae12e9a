"""Scores of answers and captions: by people's answers and captions, by CLIP, and by the scenes that Shapes knows."""
