"""The same clips inside trainers: `lightning.ClipCallback` and `transformers.ClipCallback`.

Each module is imported by its own name and needs its own trainer. Accelerate and Lightning Fabric need
nothing from here: `clipwise.torch.attach` takes the optimizers that they prepare.
"""
