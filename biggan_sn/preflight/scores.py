"""Whether the run can be scored on its way: weights of the extractor, real images, metrics."""

from biggan_sn.config import Config
from biggan_sn.preflight.findings import FAILS, OK, Finding, by_value
from biggan_sn.training.scoring import Scoring
from biggan_sn.training.world import World


def check_scores(world: World, config: Config, hosts: list[str]) -> Finding:
    """On every process, for each extracts features. Every process must call it."""
    section = config.evaluation
    wanted = f"{', '.join(section.metrics)} of {section.samples} samples, by {section.extractor}"
    complaint = ""
    try:
        Scoring(config, (), world)
    except (ValueError, OSError) as error:
        complaint = str(error)
    told = world.tell(complaint)
    if any(told):
        return Finding("scores", FAILS, by_value([text or "all is well" for text in told], hosts))
    return Finding("scores", OK, f"{wanted}, every {section.every} steps")
