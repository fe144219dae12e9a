"""Models that answer questions about images, as one kind of thing: asked, recorded, perturbed and judged alike."""
