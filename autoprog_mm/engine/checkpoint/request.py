# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How a hook gets a checkpoint out of turn."""
# In the runner's message hub, which is itself saved and resumed.
_REQUESTED = 'requested_checkpoint'


def request_checkpoint(runner) -> None:
    """Have ``SafeCheckpointHook`` save when the epoch ends, even if it is not time to.

    Args:
        runner (Runner): The runner, in ``after_train_epoch`` of a hook that
            comes before ``SafeCheckpointHook``, or earlier in the epoch.
    """
    runner.message_hub.update_info(_REQUESTED, runner.epoch + 1)


def take_request(runner) -> bool:
    """Whether a checkpoint of the epoch that ends was asked for; asks no second time.

    Args:
        runner (Runner): The runner, in ``after_train_epoch``.
    """
    # One of another epoch is stale.
    return runner.message_hub.pop_info(_REQUESTED) == runner.epoch + 1
