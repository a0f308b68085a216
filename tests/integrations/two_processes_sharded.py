"""A script for torchrun: sharded models in the trainers, on two processes, each with half of every batch.

Every case is a function that returns what there is to compare, parameters as whole tensors.
"""

import os
import sys
import types
import warnings

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import clipwise
from tests.torch.loops.reference_loops import STEPS, THRESHOLD, batch, make_model

CLIP = clipwise.clip_by_global_norm(THRESHOLD)
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def loss_of(model, step, rows=slice(None)):
    """Every third gradient is large, the others small."""
    return model(batch(step)[rows]).square().mean() * (10.0 if step % 3 == 2 else 0.01)


def half(rank=None):
    return slice(dist.get_rank() if rank is None else rank, 4, 2)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def whole(model):
    state = model.state_dict()
    return {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in state.items()}


def found(model, clipper=None, **more):
    if clipper is not None:
        more |= {
            "steps": clipper.steps,
            "clipped": clipper.clipped_steps,
            "names": list(clipper.report.names),
        }
        more["norm"] = float(clipper.report.norm)
    return {"model": whole(model)} | more


class Said:
    """The warnings in the time of a ``with``."""

    def __enter__(self):
        self._context = warnings.catch_warnings(record=True)
        self._all = self._context.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, *args):
        self._context.__exit__(*args)

    def about(self, words):
        return [str(one.message) for one in self._all if words in str(one.message)]


# A loop of one's own.


@case
def plain():
    model = make_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    opt = sgd(model.parameters())
    with torch.no_grad():
        loss_of(model, 0)  # then the weights are still gathered
    assert not any(hasattr(p, "placements") for p in model.parameters())
    measured = clipwise.torch.Clipper(model, CLIP).parameters.values()
    assert all(hasattr(p, "placements") for p in measured)
    with torch.no_grad():
        loss_of(model, 0)
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    for step in range(STEPS):
        opt.zero_grad()
        loss_of(model, step, half()).backward()
        opt.step()
    return found(model, clipper)


@case
def plain_ddp():
    model = torch.nn.parallel.DistributedDataParallel(make_model())
    opt = sgd(model.parameters())
    clipper = clipwise.torch.attach(opt, CLIP, model=model.module)
    for step in range(STEPS):
        opt.zero_grad()
        loss_of(model, step, half()).backward()
        opt.step()
    return found(model.module, clipper)


# Lightning.


def lightning_module(configure_model):
    from tests.integrations.lightning_runs import Automatic

    class Module(Automatic):
        def training_step(self, number, _):
            return loss_of(self.net, int(number), half())

    Module.configure_model = configure_model
    return Module(sgd)


def lightning_fit(strategy, clip, configure_model, **options):
    from clipwise.integrations.lightning import ClipCallback
    from tests.integrations.lightning_runs import fit

    module, callback = lightning_module(configure_model), ClipCallback(clip)
    options |= {"strategy": strategy, "devices": 2, "use_distributed_sampler": False}
    return fit(module, callback, **options), module, callback


def shard_net(self):
    fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def model_parallel():
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)


@case
def lightning_model_parallel():
    trainer, module, callback = lightning_fit(model_parallel(), CLIP, shard_net, log_every_n_steps=1)
    logged = float(trainer.callback_metrics["clipwise/norm"])
    return found(module.net, callback.clipper, logged=logged)


@case
def lightning_hears():
    """A threshold that follows the loss is told its mean over the ranks."""
    from tests.integrations.policies import HEARS

    _, module, callback = lightning_fit(model_parallel(), HEARS, shard_net)
    return found(module.net, callback.clipper)


@case
def lightning_resumed():
    """Half of the epochs, and from the checkpoint the others."""
    path = os.path.join(sys.argv[1], "lightning")
    _, through, _ = lightning_fit(model_parallel(), "autoclip(60)", shard_net, max_epochs=2)
    trainer, *_ = lightning_fit(model_parallel(), "autoclip(60)", shard_net)
    trainer.save_checkpoint(path)
    _, module, callback = lightning_fit(
        model_parallel(), "autoclip(60)", shard_net, max_epochs=2, ckpt_path=path
    )
    return found(module.net, callback.clipper, through=whole(through.net))


@case
def lightning_fsdp1():
    """Lightning's FSDPStrategy wants a GPU; one that derives from it runs on a model that is wrapped here."""
    from lightning.pytorch.strategies import FSDPStrategy
    from torch.distributed.fsdp import FullyShardedDataParallel

    class OnTheCpu(FSDPStrategy):
        pass

    def wrap_net(self):
        self.net = FullyShardedDataParallel(self.net, device_id=torch.device("cpu"), use_orig_params=True)

    return {
        "theirs": error_of(lambda: lightning_fit(FSDPStrategy(), CLIP, wrap_net)),
        "ours": error_of(lambda: lightning_fit(OnTheCpu(), CLIP, wrap_net)),
    }


def error_of(function):
    try:
        function()
    except (ValueError, clipwise.errors.ArgumentError) as error:
        return f"{type(error).__name__}: {error}"


# Fabric.


def fabric_run(strategy, clip=None):
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
    fabric.launch()
    model = make_model()
    wrapped = fabric.setup_module(model)
    opt = fabric.setup_optimizers(sgd(wrapped.parameters()))
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    with Said() as said:
        for step in range(STEPS):
            fabric.backward(loss_of(wrapped, step, half()))
            if clip is not None:
                fabric.clip_gradients(wrapped, opt, max_norm=clip)
            opt.step()
            opt.zero_grad()
    return found(model, clipper, told=said.about("the loop clips too"))


def shard(model, mesh):
    return fully_shard(model, mesh=mesh["data_parallel"])


@case
def fabric_ddp():
    return fabric_run("ddp")


@case
def fabric_model_parallel():
    from lightning.fabric.strategies import ModelParallelStrategy

    return fabric_run(ModelParallelStrategy(shard, data_parallel_size=2, tensor_parallel_size=1))


@case
def fabric_clips_too():
    from lightning.fabric.strategies import ModelParallelStrategy

    return fabric_run(ModelParallelStrategy(shard, data_parallel_size=2, tensor_parallel_size=1), clip=1e9)


# Accelerate.


def accelerator_here(*, shards=True):
    """Accelerate itself takes FSDP for GPUs only, and goes on without a word: here it is told."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import DistributedType

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if not shards:
        return Accelerator(cpu=True)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    shard_with(accelerator, plugin)
    assert accelerator.distributed_type == DistributedType.FSDP
    assert accelerator.is_fsdp2
    return accelerator


def shard_with(accelerator, plugin):
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def accelerate_run(*, before=False, clip=None, shards=True):
    accelerator = accelerator_here(shards=shards)
    model = inner = make_model()
    made = sgd(model.parameters())
    if before:
        clipper = clipwise.torch.attach(made, CLIP, model=model)
    model, opt = accelerator.prepare(model, made)
    assert any(hasattr(p, "placements") for p in model.parameters()) == shards
    if not before:
        clipper = clipwise.torch.attach(opt, CLIP, model=inner)
    with Said() as said:
        for step in range(STEPS):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, step, half()))
                if clip is not None:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                opt.step()
                opt.zero_grad()
    return found(inner, clipper, told=said.about("the loop clips too"))


@case
def accelerate():
    return accelerate_run()


@case
def accelerate_ddp():
    return accelerate_run(shards=False)


@case
def accelerate_attached_before():
    return accelerate_run(before=True)


@case
def accelerate_clips_too():
    return accelerate_run(clip=1e9)


@case
def accelerate_resumed():
    runs = []
    for resumes in (False, False, True):
        accelerator = accelerator_here()
        model = make_model()
        model, opt = accelerator.prepare(model, sgd(model.parameters()))
        clipper = clipwise.torch.attach(opt, clipwise.autoclip(60), model=model)
        accelerator.register_for_checkpointing(clipper)
        folder = os.path.join(sys.argv[1], "accelerate")
        first = STEPS if resumes else 0
        if resumes:
            accelerator.load_state(folder)
        for step in range(first, 2 * STEPS if len(runs) != 1 else STEPS):
            accelerator.backward(loss_of(model, step, half()))
            opt.step()
            opt.zero_grad()
        if len(runs) == 1:
            accelerator.save_state(folder)
        runs.append((model, clipper))
    return found(*runs[2], through=whole(runs[0][0]))


# Hugging Face.


def trainer_run(*callbacks, shards=True, **options):
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, GradientState
    from transformers import Trainer

    from tests.integrations.transformers_runs import logged, trainer_for

    class Sharding(Trainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            if shards:
                shard_with(self.accelerator, FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args))
                self.is_fsdp_enabled = True

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if shards:
        options |= {"fsdp": True, "fsdp_config": {"version": 2}}
    with Said() as said:
        trainer = trainer_for(sys.argv[1], *callbacks, kind=Sharding, ddp_backend="gloo", **options)
        trainer.train()
    assert any(hasattr(p, "placements") for p in trainer.model.parameters())
    more = {"norms": logged(trainer, "grad_norm"), "told": said.about("clips too")}
    if "clipwise/norm_after" in trainer.state.log_history[0]:  # of the first process
        more["after"] = logged(trainer, "clipwise/norm_after")
    return found(trainer.model, callbacks[0].clipper if callbacks else None, **more)


@case
def transformers():
    from clipwise.integrations.transformers import ClipCallback
    from tests.integrations.transformers_runs import THRESHOLD

    return trainer_run(ClipCallback(clipwise.clip_by_global_norm(THRESHOLD)))


@case
def transformers_patched():
    from tests.integrations.transformers_runs import THRESHOLD

    with clipwise.torch.patch():
        return trainer_run(max_grad_norm=THRESHOLD)


@case
def transformers_clips_too():
    """By `attach`, of which the Trainer knows nothing."""
    from transformers import TrainerCallback

    class Attaches(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            self.clipper = clipwise.torch.attach(optimizer, CLIP, model=model)

    return trainer_run(Attaches())


@case
def transformers_measured():
    """What the Trainer is told of a norm where one rank lacks a gradient."""
    from clipwise.integrations.transformers import _measure_only

    model = fully_shard(make_model(), mesh=init_device_mesh("cpu", (2,)))
    loss_of(model, 0, half()).backward()
    gradients = [p.grad.full_tensor() for p in model.parameters()]
    gradients[0][4:] = 0.0  # what the second rank holds of it
    if dist.get_rank() == 1:
        model[0].weight.grad = None
    accelerator = types.SimpleNamespace(unscale_gradients=lambda: None)
    return {"norm": float(_measure_only(accelerator)(model.parameters(), 1.0)), "gradients": gradients}


def loaded_in_parts(folder):
    """Sharded by transformers itself while it reads the weights."""
    from transformers import GPT2LMHeadModel
    from transformers.distributed import DistributedConfig

    from tests.integrations.transformers_runs import make_gpt2

    if dist.get_rank() == 0:
        make_gpt2().save_pretrained(folder)
    dist.barrier()
    plan = {"transformer.h.*": "free_full_weight"}
    config = DistributedConfig(fsdp_size=2, fsdp_plan=plan)
    return GPT2LMHeadModel.from_pretrained(folder, distributed_config=config)


@case
def transformers_native():
    from clipwise.integrations.transformers import ClipCallback
    from tests.integrations.transformers_runs import THRESHOLD

    model = loaded_in_parts(os.path.join(sys.argv[1], "gpt2"))
    callback = ClipCallback(clipwise.clip_by_global_norm(THRESHOLD))
    return trainer_run(callback, shards=False, model=model)


@case
def transformers_native_mixed():
    """A plain parameter beside the shards: then the Trainer clips in another way."""
    from clipwise.integrations.transformers import ClipCallback
    from tests.integrations.transformers_runs import THRESHOLD, with_scale

    model = with_scale(loaded_in_parts(os.path.join(sys.argv[1], "gpt2-mixed")))
    callback = ClipCallback(clipwise.clip_by_global_norm(THRESHOLD))
    return trainer_run(callback, shards=False, model=model)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    results = {name: CASES[name]() for name in sys.argv[2:]}
    torch.save(results, f"{sys.argv[1]}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
