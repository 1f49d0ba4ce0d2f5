"""Whether what the run is to begin with is there, and fits."""

from biggan_sn.config import Config
from biggan_sn.data.loader import open_dataset
from biggan_sn.preflight.findings import FAILS, OK, Finding, by_value
from biggan_sn.training.heritage import open_heritage
from biggan_sn.training.world import World


def check_source(world: World, config: Config, hosts: list[str]) -> Finding:
    """Read on every process. Every process must call it, once shards are known to be there."""
    text, verdict = "", OK
    try:
        classes = open_dataset(config.data).classes
        text = "; ".join(open_heritage(config, classes).notes(config, classes))
    except (ValueError, OSError) as error:
        text, verdict = str(error), FAILS
    told = world.tell(text)
    (wrong,) = world.most(verdict == FAILS)
    if wrong or len(set(told)) > 1:
        return Finding("source", FAILS, by_value(told, hosts))
    return Finding("source", OK, text)
