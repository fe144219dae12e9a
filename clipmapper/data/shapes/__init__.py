"""Shapes: procedurally rendered scenes with questions, captions, masks and the truth of what decides each answer."""
