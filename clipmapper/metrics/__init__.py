"""How good answers and captions are: by people's answers and captions, by CLIP, and by the scenes that Shapes knows."""
