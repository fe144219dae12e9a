"""Explained captions measured: what their words' maps fall on (Shapes), and what removing patches does to the caption.

`python -m clipmapper.caption_relevance --model FOLDER_OR_CHECKPOINT --output DIR`.
"""
