"""The methods that `--ablations` compares: this project's, with one part changed at a time."""

import logging

from keras_switcher.checks import ConfigError, nearest
from keras_switcher.compare.plan import Variant
from keras_switcher.config import Config, from_values, to_values, validate
from keras_switcher.flags import WITHOUT_HIDDEN

logger = logging.getLogger(__name__)

REFERENCE = "switcher"

# By part: the methods to compare with the recipe's `switcher`. Those that equal the recipe are left
# out, so the defaults are listed here, too.
ABLATIONS: dict[str, tuple[str, ...]] = {
    "switcher": (
        "free",
        "magnitude-switcher",
        "switcher:switcher=unit",
        "switcher:switcher=orthogonal",
        "switcher:switcher=connection",
        "switcher:switcher_hidden=none",
        "switcher:switcher_hidden=16",
        "switcher:switcher_hidden=64",
        "switcher:switcher_hidden=64/64",
    ),
    "gate": ("switcher:gate=step", "switcher:gate=relu_tanh"),
    "alternation": (
        "switcher:task_steps=1",
        "switcher:task_steps=4",
        "switcher:task_steps=8",
        "switcher:task_steps=16",
        "switcher:switcher_steps=1",
        "switcher:switcher_steps=2",
    ),
    "granularity": (
        "switcher:granularity=connection",
        "switcher:granularity=block4",
        "switcher:granularity=block16",
        "switcher:granularity=unit",
    ),
    "warmup": tuple(f"switcher:warmup={share}" for share in (0.0, 0.1, 0.2, 0.3)),
    "settle": tuple(f"switcher:settle={share}" for share in (0.2, 0.3, 0.4, 0.6)),
    "ramp": tuple(f"switcher:ramp={share}" for share in (0.5, 0.8, 1.0)),
    "dual": tuple(f"switcher:multiplier_rate={rate}" for rate in (0.01, 0.05, 0.2)),
    "rate_exponent": tuple(f"switcher:rate_exponent={power}" for power in (0, 0.25, 0.5)),
    "switcher_rate": (
        "switcher:switcher_learning_rate=0.0003",
        "switcher:switcher_learning_rate=0.001",
        "switcher:switcher_learning_rate=0.002",
        "switcher:switcher_learning_rate=0.003",
    ),
}


def ablated(parts: list[str], config: Config) -> list[str]:
    """Return the methods that show what parts of the method contribute.

    Args:
        parts: Names of parts; none means all of them.
        config: The configuration that all trainings share; variants of `switcher` that change
            nothing in it are left out.

    Raises:
        ConfigError: If there is no such part.
    """
    for part in parts:
        if part not in ABLATIONS:
            raise ConfigError(
                f"Unknown part of the method: {part!r}.{nearest(part, ABLATIONS)} "
                f"Known: {', '.join(ABLATIONS)}."
            )
    values = to_values(config)

    def differs(name: str) -> bool:
        variant = Variant.parse(name)
        changed = {option for option, value in variant.options if values[option] != value}
        if values["switcher"] == "free" and variant.method == "free":
            return False  # It is that method.
        return variant.method != REFERENCE or bool(changed)

    def fits(name: str) -> bool:
        own = dict(Variant.parse(name).options)
        try:
            validate(from_values({**values, **own}))
        except ConfigError as error:
            logger.warning("Without %s. %s", name, error)
            return False
        return True

    names = [name for part in parts or ABLATIONS for name in ABLATIONS[part]]
    if values["switcher"] in WITHOUT_HIDDEN:
        # Among the widths is that of `unit` as it comes.
        names = [
            name.replace(":switcher_hidden", ":switcher=unit,switcher_hidden")
            for name in names
            if name != "switcher:switcher=unit"
        ]
    return [REFERENCE, *(name for name in names if differs(name) and fits(name))]
