"""How large the study is: in seconds for tests, within an hour, within two hours."""

from __future__ import annotations

from studies.evidence_protocol.runs import Preset

QUICK = Preset(
    size=32,
    width=4,
    steps=8,
    batch=4,
    train=8,
    validation=8,
    test=8,
    seeds=1,
    architectures=("unet",),
    variations=(),
    shuffled=(("unet", "adam"),),
    truncated=(("unet", "adam"),),
    tuning_steps=2,
    from_scratch=True,
)

CPU = Preset(
    size=64,
    width=8,
    steps=700,
    batch=8,
    train=320,
    validation=64,
    test=96,
    seeds=3,
    architectures=("unet", "multiresunet", "unet_bn", "monai", "smp"),
    variations=(("unet", "adamw"), ("unet_bn", "adamw"), ("unet", "sgd")),
    shuffled=(("unet", "adam"), ("unet_bn", "adam")),
    truncated=(("unet", "adam"),),
    tuning_steps=100,
    from_scratch=True,
)

FULL = Preset(
    size=64,
    width=8,
    steps=2000,
    batch=8,
    train=640,
    validation=64,
    test=192,
    seeds=4,
    architectures=("unet", "multiresunet", "unet_bn", "monai", "smp"),
    variations=(("unet", "adamw"), ("unet_bn", "adamw"), ("unet", "sgd"), ("unet_bn", "sgd")),
    shuffled=(("unet", "adam"), ("unet_bn", "adam"), ("unet", "adamw")),
    truncated=(("unet", "adam"), ("unet_bn", "adam")),
    tuning_steps=700,
    from_scratch=True,
)

PRESETS = {"quick": QUICK, "cpu": CPU, "full": FULL}
