"""Clipping inside of trainers: `lightning.ClipCallback` and `transformers.ClipCallback`.

Each module is imported by its own name and needs its trainer. Accelerate and Lightning Fabric need no module:
`clipwise.torch.attach` accepts the optimizers that they prepare.
"""
