"""`accelerate launch` that ends as the first of its processes to end, and says which, without a
traceback: what went wrong they have said. Arguments as for `accelerate launch`, or beginning with
--standalone as for `torchrun`, which also takes a single process."""

import re
import signal
import sys
import time

import accelerate.commands.launch
import torch.distributed.launcher.api
import torch.distributed.run
from torch.distributed import DistStoreError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

WRONG_INPUT, LOST = 2, 3  # exit codes, the latter of a process that lost another one
FAREWELL = 2.0  # seconds
FINAL = (WRONG_INPUT, 4)  # to start again would mend neither that nor a run that collapsed


class Agent(LocalElasticAgent):
    """torchrun's, which starts the processes again only where that may help."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if any(failure.exitcode in FINAL for failure in result.failures.values()):
            self._remaining_restarts = 0
        return result

    def _exit_barrier(self) -> None:
        """The first node keeps what all meet at until the others have surely heard that all are
        done: else they complain at length, after all has gone well."""
        super()._exit_barrier()
        if self._worker_group.group_rank == 0 and self._worker_group.group_world_size > 1:
            time.sleep(FAREWELL)


def launch() -> int:
    """Returns the exit code."""
    torch.distributed.launcher.api.LocalElasticAgent = Agent
    alone = sys.argv[1:2] == ["--standalone"]
    launcher = torch.distributed.run if alone else accelerate.commands.launch
    try:
        launcher.main()
    except SignalException:
        return 1  # no more than the code of the one at fault, where srun ends the others for it
    except ImportError as error:  # accelerate's, before anything starts
        if "DeepSpeed is not installed" not in str(error):
            raise
        needed = "pip install 'biggan_sn[deepspeed]', or another TOPOLOGY"
        print(f"launch: this topology needs DeepSpeed: {needed}", file=sys.stderr)
        return WRONG_INPUT
    except DistStoreError as error:
        if not (came := re.search(r"(\d+)/(\d+) clients joined", str(error))):
            raise
        print(
            f"launch: only {came[1]} of {came[2]} nodes came to where they meet in time: start "
            "launch/node.sh on each, with the same HEAD and PORT (WAIT says how long they wait)",
            file=sys.stderr,
        )
        return LOST
    except ChildFailedError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # srun's, who has seen another node end
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        print(f"launch: rank {rank} was the first here to end, {how}", file=sys.stderr)
        return code if code >= 0 else 128 - code  # as shells have it
    return 0


if __name__ == "__main__":
    sys.exit(launch())
