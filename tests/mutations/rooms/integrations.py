"""Lightning and the Hugging Face Trainer."""

from tests.mutations.breaks import Break

BREAKS = [
    Break(
        "Lightning: the loss of a micro-batch for that of the step",
        "src/clipwise/integrations/lightning.py",
        "            loss = loss * trainer.accumulate_grad_batches\n",
        "            pass\n",
        "tests/integrations/test_lightning.py tests/integrations/test_lightning_reports.py",
    ),
    Break(
        "Lightning: thresholds of a checkpoint are not loaded",
        "src/clipwise/integrations/lightning.py",
        "                clipper.load_state_dict(one)\n",
        "                pass\n",
        "tests/integrations/test_lightning.py tests/integrations/test_lightning_reports.py",
    ),
    Break(
        "the Trainer clips too",
        "src/clipwise/integrations/transformers.py",
        '        self._replace(accelerator, "clip_grad_norm_", measure)\n',
        "",
        "tests/integrations/test_transformers.py",
    ),
    Break(
        "the Trainer clips too where gradients lie on several meshes",
        "src/clipwise/integrations/transformers.py",
        '_MIXED = "_mixed_mesh_grad_norm"',
        '_MIXED = "none"',
        "tests/integrations/test_sharded_trainers.py",
    ),
    Break(
        "the Trainer's thresholds of a checkpoint are not loaded",
        "src/clipwise/integrations/transformers.py",
        'self.clipper.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))',
        "pass",
        "tests/integrations/test_transformers.py",
    ),
]
