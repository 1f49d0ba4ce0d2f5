"""The verb `evaluate`."""

import json

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.draw import declare_drawing, declare_truncation, sampling_of


def declare(parser: ArgumentParser) -> None:
    """Score the samples of a checkpoint; prints one line of JSON."""
    declare_drawing(parser)
    declare_truncation(parser)
    parser.add_argument("--scorer", default="digits", help="what scores them")
    parser.add_argument("--samples", type=int, default=1000, help="how many, over all classes")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Scores a checkpoint; returns the exit code."""
    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.sampling import find_device, load_generator, renew_statistics
    from biggan_sn.evaluation.scorers import evaluate

    if parsed.samples < 1:
        raise ValueError(f"--samples must be 1 or more, got {parsed.samples}")
    sampling = sampling_of(parsed, parsed.truncation)
    checkpoint = find(parsed.checkpoint)
    generator, state = load_generator(checkpoint, find_device(parsed.device))
    renew_statistics(generator, sampling)
    scores = evaluate(generator, parsed.scorer, parsed.samples, sampling)
    print(json.dumps({"checkpoint": str(checkpoint), "step": state["step"], **scores}))
    return 0
