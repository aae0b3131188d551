"""What `--ablations` compares: the method with one of its parts changed at a time."""

from keras_switcher.checks import ConfigError, nearest
from keras_switcher.compare.plan import Variant
from keras_switcher.config import Config, to_values

REFERENCE = "switcher"

# By part: the methods to compare with the recipe's `switcher`.
ABLATIONS: dict[str, tuple[str, ...]] = {
    "switcher": (
        "free",
        "magnitude-switcher",
        "switcher:switcher=connection,switcher_hidden=16",
        "switcher:switcher_hidden=none",
        "switcher:switcher_hidden=16",
        "switcher:switcher_hidden=64",
        "switcher:switcher_hidden=64/64",
    ),
    "gate": ("switcher:gate=relu_tanh",),
    "alternation": (
        "switcher:task_steps=1",
        "switcher:task_steps=4",
        "switcher:task_steps=8",
        "switcher:task_steps=16",
        "switcher:switcher_steps=2",
    ),
    "granularity": (
        "switcher:granularity=block4",
        "switcher:granularity=block16",
        "switcher:granularity=unit",
    ),
    "warmup": ("switcher:warmup=0.0", "switcher:warmup=0.2", "switcher:warmup=0.3"),
    "settle": ("switcher:settle=0.2", "switcher:settle=0.3", "switcher:settle=0.6"),
    "ramp": ("switcher:ramp=0.5", "switcher:ramp=1.0"),
    "dual": ("switcher:multiplier_rate=0.01", "switcher:multiplier_rate=0.2"),
    "rate_exponent": ("switcher:rate_exponent=0", "switcher:rate_exponent=0.5"),
    "switcher_rate": (
        "switcher:switcher_learning_rate=0.0003",
        "switcher:switcher_learning_rate=0.003",
    ),
}


def ablated(parts: list[str], config: Config) -> list[str]:
    """Return the methods that show what parts of the method bring.

    Args:
        parts: Names of parts; none means all of them.
        config: What all trainings share; a part that has this value there is left out.

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
        changed = any(values[option] != value for option, value in variant.options)
        return variant.method != REFERENCE or changed

    names = (name for part in parts or ABLATIONS for name in ABLATIONS[part])
    return [REFERENCE, *filter(differs, names)]
