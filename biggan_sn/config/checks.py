"""What a section demands of its values."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def require_positive(section: str, config: object, *names: str) -> None:
    """Raises ValueError unless these fields of a section are above 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name} must be positive, got {value}")


def require_not_negative(section: str, config: object, *names: str) -> None:
    """Raises ValueError unless these fields of a section are 0 or more."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{section}.{name} must be 0 or more, got {value}")
