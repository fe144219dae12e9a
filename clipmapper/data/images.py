"""Another name of `clipmapper.images`."""

from clipmapper.images import BadImage, ImageSource, image_key, load_image

__all__ = ["BadImage", "ImageSource", "image_key", "load_image"]
