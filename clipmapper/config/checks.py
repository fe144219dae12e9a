"""Checks of settings."""


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raises ValueError, naming the setting and what it must be, unless `holds`."""
    if not holds:
        raise ValueError(f"{name} is {value!r} and must be {wanted}")
