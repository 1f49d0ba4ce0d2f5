"""Where the processes of a job find one another: a store that all can write into and read."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from biggan_sn.training.launching import LaunchError


class Meeting:
    """The place where a job meets, as torchrun, accelerate and srun's scripts name it.

    Args:
        environment: of this process.
        timeout: seconds that the others are waited for.
    """

    def __init__(self, environment: Mapping[str, str], timeout: float) -> None:
        self.rank = int(environment["RANK"])
        self.ranks = int(environment["WORLD_SIZE"])
        self.timeout = timeout
        self._host = environment.get("MASTER_ADDR", "")
        self._port = int(environment.get("MASTER_PORT", "0"))
        if not self._host or not self._port:
            raise LaunchError(
                f"WORLD_SIZE is {self.ranks}, but MASTER_ADDR and MASTER_PORT do not say where the "
                "processes meet: start them with launch/local.sh, launch/node.sh or torchrun"
            )
        # A store of the launcher outlives those that it starts again: what the ones before left
        # there must not be taken for news, or the new ones wait for the dead.
        self._launchers = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = self._attempts(self._connect(serve=not self._launchers and self.rank == 0))

    def _connect(self, serve: bool = False) -> TCPStore:
        try:
            return TCPStore(
                self._host,
                self._port,
                self.ranks,
                serve,
                timedelta(seconds=self.timeout),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except RuntimeError as error:
            raise LaunchError(
                f"{self._host}:{self._port}, where the processes meet, cannot be reached within "
                f"{self.timeout:g} s: is the first node up, and HEAD its address?"
            ) from error

    def _attempts(self, store: TCPStore) -> Any:
        return PrefixStore(f"attempt_{self._attempt}" if self._launchers else "attempt", store)

    def line(self) -> Any:
        """A connection to the store for another thread: on one's own nobody waits for its turn."""
        return self._attempts(self._connect())

    def call_the_roll(self) -> None:
        """Returns when all are here.

        Raises:
            LaunchError: some did not come in time; names them.
        """
        self.store.set(f"here/{self.rank}", "")
        if self.rank == 0:
            self._wait_for_all()
            self.store.set("all here", "")
        else:
            self._wait(["all here"], self.timeout + 5, "rank 0, which waits for all,")

    def _wait_for_all(self) -> None:
        keys = [f"here/{rank}" for rank in range(self.ranks)]
        try:
            self.store.wait(keys, timedelta(seconds=self.timeout))
        except RuntimeError as error:
            missing = [str(rank) for rank, key in enumerate(keys) if not self.store.check([key])]
            raise self._nobody(f"rank {', '.join(missing)}") from error

    def _wait(self, keys: list[str], seconds: float, who: str) -> None:
        try:
            self.store.wait(keys, timedelta(seconds=seconds))
        except RuntimeError as error:
            raise self._nobody(who) from error

    def _nobody(self, who: str) -> LaunchError:
        return LaunchError(
            f"{who} did not come to {self._host}:{self._port} within {self.timeout:g} s; see what "
            "its node says, and that all nodes were started"
        )


def is_met(environment: Mapping[str, str]) -> bool:
    """Whether a launcher says that there are others."""
    size = environment.get("WORLD_SIZE", "1")
    return "RANK" in environment and size.isdecimal() and int(size) > 1
