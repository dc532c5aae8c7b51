from .devices import Runner, bf16_is_fast, generator, make_runner, pick_device, pick_dtype, versions

__all__ = [
    "Runner",
    "bf16_is_fast",
    "generator",
    "make_runner",
    "pick_device",
    "pick_dtype",
    "versions",
]
