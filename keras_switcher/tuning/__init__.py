"""The search over the switcher's architecture with Keras Tuner."""
