_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['autoprog_mm'], allow_failed_imports=False)

default_hooks = dict(
    # Logs losses without stopping the GPU to read them.
    runtime_info=dict(type='LateRuntimeInfoHook'),
    # `compile=True` compiles the backbone; float32_matmul_precision, below.
    compile=dict(type='CompileHook'),
    # The last two checkpoints and the best one are kept.
    checkpoint=dict(_delete_=True, type='SafeCheckpointHook', interval=1),
    # Signals, images that cannot be read, losses that are not finite.
    guard=dict(type='RunGuardHook', max_bad_images=100, max_nonfinite=10))

# Lines that say what runs, and an ETA that knows what is to come.
log_processor = dict(type='AutoProgLogProcessor')

# TF32 on a GPU, where something is still float32.
env_cfg = dict(float32_matmul_precision='high')

# Used by distributed runs only; mmengine finds it under its full name only.
model_wrapper_cfg = dict(type='mmpretrain.ElasticDistributedDataParallel')

# All randomness is a function of this seed; None draws one and saves it.
randomness = dict(seed=0)
