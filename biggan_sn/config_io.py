"""Configs outside the program: as dictionaries, and compared with one another."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any

from biggan_sn.config import Config

# What may change when a run goes on; all else is part of what the run is.
FREE_TO_CHANGE = (
    "steps",
    "timeout",
    "data.path",
    "data.heldout",
    "data.threads",
    "data.prefetch",
    "data.connections",
    "data.command",
    "data.damaged",
    "data.damaged_share",
    "generator.microbatch",
    "discriminator.microbatch",
    "model.norm_batch",
    "monitor",
    "collapse",
    "checkpoint",
    "evaluation",
    "logs",
    "speed",
)


# What a rollback may change: nothing that is stored in a checkpoint or decides which image is next.
CHANGED_BY_ROLLBACK = (
    "generator.lr",
    "generator.betas",
    "generator.eps",
    "discriminator.lr",
    "discriminator.betas",
    "discriminator.eps",
    "penalties",
    "penalty_every",
    "real_label",
    "lr_decay",
    "feature_matching.weight",
    "augment",
    "consistency",
    "lecam",
    "top_k",
    "regularizers",
    "lipschitz",
    "sigma0",
    "ema.decay",
)


def after_rollbacks(config: Config, attempt: int) -> Config:
    """What a config becomes in an attempt: `collapse.change` replaces settings from the first
    rollback on, `collapse.scale` multiplies them at each.

    Raises:
        ValueError: a setting that is not there, or that a rollback must not change.
    """
    changed: Config = from_dict(values_after_rollbacks(config, attempt))
    return changed


def values_after_rollbacks(config: Config, attempt: int) -> dict[str, Any]:
    """The same as plain values, of which nobody has checked the types."""
    values = to_dict(config)
    if attempt == 0:
        return values
    for name, value in config.collapse.change.items():
        section, key = _find(values, f"collapse.change.{name}", name)
        if isinstance(section.get(key), dict) != isinstance(value, dict):
            raise ValueError(f"collapse.change.{name}: a section is one, and a value is none")
        section[key] = value
    for name, factor in config.collapse.scale.items():
        section, key = _find(values, f"collapse.scale.{name}", name)
        if type(section.get(key)) not in (int, float):
            raise ValueError(f"collapse.scale.{name}: not a number that is set")
        section[key] *= factor**attempt
    return values


def _find(values: dict[str, Any], where: str, name: str) -> tuple[dict[str, Any], str]:
    """The section of a dotted name, and its last part."""
    if not _within(name, CHANGED_BY_ROLLBACK):
        raise ValueError(f"{where}: a rollback may only change {', '.join(CHANGED_BY_ROLLBACK)}")
    *path, key = name.split(".")
    for part in path:
        values = values.get(part)  # type: ignore[assignment]
        if not isinstance(values, dict):
            raise ValueError(f"{where}: there is no such setting")
    return values, key


def _within(name: str, sections: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{section}.") for section in sections)


def changes(before: Config, after: Config) -> list[str]:
    """What differs between two configs of one run that must not, as `section.field: old -> new`."""
    old, new = _flat(to_dict(before)), _flat(to_dict(after))
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not _within(name, FREE_TO_CHANGE)
    ]


def differences(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a config has, as `to_dict` wrote it, where that is not the default: dotted name -> its
    value and the default, None for what is not there. Nobody has checked it: it may come from
    another version of the package."""
    default, found = _flat(to_dict(Config())), _flat(values)
    return {
        name: (found.get(name), default.get(name))
        for name in dict.fromkeys([*found, *default])
        if found.get(name) != default.get(name)
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain nested dictionaries, lists and scalars, ready for JSON or YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(asdict(config))
    return result


def from_dict(values: dict[str, Any], schema: type = Config) -> Any:
    """The config that `to_dict` wrote. Fields that are absent take their default.

    Raises:
        ValueError: a field that this version does not know, or an impossible value.
    """
    known = {item.name: item for item in fields(schema)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"unknown field {unknown[0]!r} in {schema.__name__}")
    default = schema()
    built = {}
    for name, value in values.items():
        standard = getattr(default, name)
        if is_dataclass(standard) and not isinstance(standard, type):
            built[name] = from_dict({**asdict(standard), **value}, type(standard))
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return schema(**built)
