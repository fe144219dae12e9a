"""The models: mappers A and B over a frozen CLIP, their heads, and the writing of captions."""
