"""A stage as several processes that train together, started by torchrun's launcher, one a GPU."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from gta import warning
from gta.errors import LAUNCHER, InputError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

LONGEST_WAIT = timedelta(days=1)
"""For the first process, which alone validates and writes. One that has died is noticed at once."""


def launch(count: int, module: str) -> None:
    """Runs this command, `python -m module ...`, as `count` processes, and waits for them to end.

    The first failure ends all. Nothing of them outlives this process, however it ends.
    Raises InputError where one of them raised it, and where there are fewer GPUs; SystemExit where one was
    killed, which is no mistake of the user's; RuntimeError with the traceback of any other error.
    """
    # here: the launcher's modules take a while, and only a cell of several processes needs them
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and torch.cuda.device_count() < count:
        raise InputError(
            "params.yaml: finetune.processes: expected at most the number of GPUs that torch sees, "
            f"{torch.cuda.device_count()}, got {count}"
        )
    os.environ[LAUNCHER] = str(os.getpid())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # failures are told below
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *sys.argv[1:])
        except ChildFailedError as error:
            if warning.STATUS in {failure.exitcode for failure in error.failures.values()}:
                sys.exit(warning.STATUS)
            raise _cause(error, count) from None
        except SignalException as error:  # ends this process as if it had not been caught
            signal.signal(error.sigval, signal.SIG_DFL)
            ended = error.sigval
        else:
            return
    os.kill(os.getpid(), ended)


def _cause(error: ChildFailedError, count: int) -> InputError | SystemExit | RuntimeError:
    """What went wrong. After a first failure others follow, as the group has lost a member."""
    tracebacks = []
    for number, failure in sorted(error.failures.items()):
        message: Any = failure.message
        if isinstance(message, dict):  # as `together` has recorded it
            kind, _, text = message["message"].partition(": ")
            if kind == InputError.__name__:
                return InputError(text)
            tracebacks.append(f"process {number} of {count}:\n{message['extraInfo']['py_callstack']}")
    for number, failure in sorted(error.failures.items()):
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # which the launcher sends the rest
            why = " (by hand, or for want of memory)" if failure.exitcode == -signal.SIGKILL else ""
            return SystemExit(f"process {number} of {count} was ended by {failure.signal_name()}{why}")
    return RuntimeError("\n".join(tracebacks) or str(error))


def launched() -> bool:
    """Whether this process is one of those."""
    return dist.is_torchelastic_launched()


@contextmanager
def together() -> Iterator[None]:
    """Lets processes that were launched train together while the context lasts; alone it does nothing.

    Only the first one logs; each has its own GPU, or its part of the CPU's threads. An error ends the
    process at once, and the launcher tells it.
    """
    if not launched():
        yield
        return
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    number, count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for what waits for others
    if number:
        logging.disable(logging.CRITICAL)
    if torch.cuda.is_available():
        torch.cuda.set_device(number)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
        yield
        dist.destroy_process_group()
    except SystemExit:
        dist.destroy_process_group()
        raise
    except BaseException as error:
        get_error_handler().record_exception(error)
        os._exit(1)  # not by way of the group, which may wait for ever for a member
