"""Are the signs of collapse to be trusted? Many small trainings on digits, healthy and broken.

python -m tests.experiments.collapse OUT

Every training is a real one, by the trainer that users run. On the runs of the first seeds, which
only look, it measures how near healthy runs come to each limit of `collapse` and how far broken
ones go beyond it: the limits in the config were set from that. The other seeds judge them: false
alarms, collapses missed, lead over the loss of quality; and the runs that explode are trained again
with rollbacks, to see whether they recover. May be stopped and run again; it goes on.
"""

import argparse
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from biggan_sn.collapse.detector import Detector
from biggan_sn.collapse.signs import SIGNS, Look
from biggan_sn.config import (
    CheckpointConfig,
    CollapseConfig,
    Config,
    DataConfig,
    EMAConfig,
    EvaluationConfig,
    LipschitzConfig,
    LogsConfig,
    ModelConfig,
    MonitorConfig,
    PlayerConfig,
)
from biggan_sn.data.digits import Digits, load_digits
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.training import records
from biggan_sn.training.monitor import Measured
from biggan_sn.training.rollback import CollapseError
from biggan_sn.training.step import GANStep
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from data_tools.make_shards import digit_samples, write_shards

LOOK = 10  # steps between two looks
SCORE = 50  # steps between two evaluations
# Quality is lost when for good the FID is above this times, or the variety of samples (in pixels)
# below this part of, what healthy runs have at that step in the median.
RUINED_FID, RUINED_VARIETY = 1.5, 0.5
RECOVERED = 1.1  # times the best FID before the collapse
FAULT = 400  # step at which what is broken breaks
FITTING, JUDGING = (0, 1, 2, 3), (5, 6, 7, 8, 9)  # seeds
TO_THE_END = "to the end"
ENDS = ("explosion", "memorization", "nan")
NOTHING = LipschitzConfig(generator=(), discriminator=())


@dataclass(frozen=True)
class Kind:
    """One way to train.

    Args:
        change: of the usual config.
        fault: what breaks at each step of the first attempt, if anything does.
        ends: how: healthy, explosion, memorization or nan.
        images: of training data; 0 is all.
    """

    change: Callable[[Config], Config]
    ends: str = "healthy"
    fault: Callable[[Trainer], None] = lambda trainer: None
    images: int = 0


def rates(generator: float, discriminator: float) -> Callable[[Config], Config]:
    """The same with other learning rates."""
    return lambda config: replace(
        config, generator=PlayerConfig(lr=generator), discriminator=PlayerConfig(lr=discriminator)
    )


def rates_that_explode(trainer: Trainer) -> None:
    """Both rates grow by 3% with each step."""
    if trainer.step >= FAULT:
        for player, config in (
            (trainer.play.g, trainer.config.generator),
            (trainer.play.d, trainer.config.discriminator),
        ):
            player.optimizer.param_groups[0]["lr"] = config.lr * 1.03 ** (trainer.step - FAULT)


@torch.no_grad()
def rates_that_jump(trainer: Trainer) -> None:
    """Both rates are fifty times as high from one step to the next."""
    if trainer.step >= FAULT:
        trainer.play.g.optimizer.param_groups[0]["lr"] = 50 * trainer.config.generator.lr
        trainer.play.d.optimizer.param_groups[0]["lr"] = 50 * trainer.config.discriminator.lr


@torch.no_grad()
def not_a_number(trainer: Trainer) -> None:
    """One weight of D is lost."""
    if trainer.step == FAULT:
        trainer.play.d.network.get_parameter("linear.bias").fill_(math.nan)


KINDS = {
    "spectral norm": Kind(lambda config: config),
    "nonsaturating": Kind(lambda config: replace(config, objective="nonsaturating")),
    "R1, no norm": Kind(
        lambda config: replace(config, lipschitz=NOTHING, penalties={"r1": 1.0}),
    ),
    "slow G": Kind(rates(1e-3, 2e-3)),
    "weight norm": Kind(
        lambda config: replace(config, lipschitz=LipschitzConfig(discriminator=("weight_norm",)))
    ),
    "high rates, no norm": Kind(
        lambda config: replace(rates(1e-2, 1e-2)(config), lipschitz=NOTHING), "explosion"
    ),
    "exploding rates": Kind(lambda config: config, "explosion", rates_that_explode),
    "jumping rates": Kind(lambda config: config, "explosion", rates_that_jump),
    "40 images": Kind(lambda config: config, "memorization", images=40),
    "100 images": Kind(lambda config: config, "memorization", images=100),
    "not a number": Kind(lambda config: config, "nan", not_a_number),
}
STEPS = {"healthy": 1000, "explosion": 700, "memorization": 1000, "nan": 500}


def usual(data: Path, steps: int, seed: int) -> Config:
    """A BigGAN of 23 thousand parameters that gets somewhere in a minute of one core."""
    return Config(
        data=DataConfig(path=str(data), heldout=str(data.parent / "heldout"), resolution=32,
                        num_classes=10),
        model=ModelConfig(channels=4, z_dim=40, shared_dim=16),
        generator=PlayerConfig(lr=2e-3),
        discriminator=PlayerConfig(lr=2e-3),
        ema=EMAConfig(decay=0.99, start=50),
        monitor=MonitorConfig(every=LOOK),
        collapse=CollapseConfig(every=LOOK, images=16, explosion="warn", memorization="warn",
                                quality="warn"),
        checkpoint=CheckpointConfig(every=50, keep=2, keep_spaced=3),
        evaluation=EvaluationConfig(every=SCORE, metrics=("fid", "variety"), samples=500,
                                    extractor="digits", real=str(data.parent / "heldout")),
        logs=LogsConfig(every=LOOK, images=0),
        steps=steps,
        d_steps=1,
        batch_size=16,
        seed=seed,
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        kind: a row of KINDS.
        seed: of the run.
        goes_back: whether alarms make it go back, with rates halved; else it only warns.
        out: folder of the experiment.
    """

    kind: str
    seed: int
    goes_back: bool
    out: Path

    @property
    def folder(self) -> Path:
        """Of the run."""
        name = f"{self.kind}_{self.seed}".replace(" ", "_").replace(",", "")
        return self.out / ("recoveries" if self.goes_back else "runs") / name

    @property
    def done(self) -> Path:
        """Exists when the training has ended, in whatever way."""
        return self.folder / "ended.txt"

    def config(self) -> Config:
        """Of the run."""
        kind = KINDS[self.kind]
        data = self.out / "data" / (f"first_{kind.images}" if kind.images else "train")
        config = kind.change(usual(data, STEPS[kind.ends], self.seed))
        if not self.goes_back:
            return config
        # Long enough to get where a healthy run does, wherever it goes back to.
        collapse = replace(
            config.collapse,
            explosion="rollback",
            quality="rollback",
            scale={"generator.lr": 0.5, "discriminator.lr": 0.5},
        )
        return replace(config, collapse=collapse, steps=STEPS["healthy"])


def train(job: Job) -> None:
    """Trains to the end, or to where it breaks off; or on from where it was stopped."""
    torch.set_num_threads(1)
    trainer = Trainer(job.config(), job.folder, World())
    play = GANStep.__call__

    def play_with_fault(self: GANStep, step: int, reals: Any) -> Any:
        if trainer.attempt == 0:
            KINDS[job.kind].fault(trainer)
        return play(self, step, reals)

    GANStep.__call__ = play_with_fault  # type: ignore[method-assign]
    end = TO_THE_END
    with Path(os.devnull).open("w") as silence, redirect_stdout(silence):
        try:
            trainer.run()
        except CollapseError as error:
            end = str(error)
    GANStep.__call__ = play  # type: ignore[method-assign]
    job.done.write_text(end)


def jobs(out: Path) -> list[Job]:
    """All trainings, those that only warn first."""
    seeds = FITTING + JUDGING
    looks = [Job(kind, seed, False, out) for seed in seeds for kind in KINDS]
    back = [
        Job(name, seed, True, out)
        for seed in JUDGING
        for name, kind in KINDS.items()
        if kind.ends in ("explosion", "nan")
    ]
    return looks + back


def make_data(out: Path) -> None:
    """Shards of all digits, of those held out, and of the first few of each class."""
    train_digits, heldout = load_digits()
    parts = {"train": train_digits, "heldout": heldout}
    for number in sorted({kind.images for kind in KINDS.values()} - {0}):
        per_class = [np.flatnonzero(train_digits.labels == c)[: number // 10] for c in range(10)]
        chosen = np.concatenate(per_class)
        few = Digits(train_digits.images[chosen], train_digits.labels[chosen])
        parts[f"first_{number}"] = few
    for name, digits in parts.items():
        folder = out / "data" / name
        if not (folder / "index.npz").exists():
            shutil.rmtree(folder, ignore_errors=True)
            classes = tuple("0123456789")
            write_shards(digit_samples(digits), len(digits.labels), folder, 500, classes)


def run_all(todo: list[Job], processes: int) -> None:
    """Trains side by side, with a bar."""
    left = [job for job in todo if not job.done.exists()]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, maxtasksperchild=1) as pool:
        for _ in tqdm(pool.imap_unordered(train, left), total=len(left), unit="training"):
            pass


@dataclass(frozen=True)
class Outcome:
    """What came of a training that only warned.

    Args:
        job: which.
        fids, varieties: of the averaged G's samples, by step.
        alarms: of the detector as it is now, from what the run recorded.
        broke: the step at which something was not finite; None if that never happened.
    """

    job: Job
    fids: dict[int, float]
    varieties: dict[int, float]
    alarms: list[records.Record]
    broke: int | None

    @classmethod
    def of(cls, job: Job) -> "Outcome":
        """From the records of a run."""
        scores = [r for r in records.read(job.folder / records.SCALARS) if "evaluation/fid" in r]
        lost = [alarm for alarm in records.alarms(job.folder) if alarm["sign"] == "finite"]
        broke = [alarm["step"] for alarm in lost]
        fids, varieties = (
            {score["step"]: score[f"evaluation/{name}"] for score in scores}
            for name in ("fid", "variety")
        )
        return cls(job, fids, varieties, _alarms(job) + lost, broke[0] if broke else None)

    def ruined(self, healthy: "Usual") -> int | None:
        """The first evaluation from which on quality stays away from that of healthy runs."""
        good = [
            step
            for step, fid in self.fids.items()
            if fid <= RUINED_FID * healthy.fids[step]
            and self.varieties[step] >= RUINED_VARIETY * healthy.varieties[step]
        ]
        bad = [s for s, fid in self.fids.items() if s > max(good, default=0)]
        moments = [*bad[:1], *([self.broke] if self.broke else [])]
        return min(moments, default=None)

    def highest(self) -> dict[str, float]:
        """The highest level of each sign, by the detector as it is now, from the records."""
        detector = Detector(self.job.config().collapse)
        highest = dict.fromkeys(SIGNS, 0.0)
        for look in looks(self.job):
            detector.observe(look)
            highest = {sign: max(highest[sign], detector.levels[sign]) for sign in SIGNS}
        return highest


def _alarms(job: Job) -> list[records.Record]:
    """What the detector says to the looks at a run. The run itself said the same, if the detector
    was the same then."""
    detector = Detector(job.config().collapse)
    return [asdict(alarm) for look in looks(job) for alarm in detector.observe(look)]


def looks(job: Job) -> Iterator[Look]:
    """What was seen of a run, step by step."""
    nothing = torch.zeros(1)
    undecided = float(OBJECTIVES[job.config().objective].d_loss(nothing, nothing))
    weights = {
        r["step"]: Measured({n: r[n] for n in ("G", "D")}, r["lengths"]).sizes()
        for r in records.read(job.folder / records.SPECTRA)
    }
    for r in records.read(job.folder / records.SCALARS):
        if "evaluation/fid" in r:
            yield Look(r["step"], fid=r["evaluation/fid"])
        else:
            scalars = {**r, "d_doubt": r["d_loss"] / undecided}
            yield Look(r["step"], scalars, weights.get(r["step"], {}))


class Usual(NamedTuple):
    """Medians over healthy runs of all kinds, by step."""

    fids: dict[int, float]
    varieties: dict[int, float]

    @classmethod
    def of(cls, outcomes: list[Outcome]) -> "Usual":
        """Of the healthy ones among these."""
        healthy = [o for o in outcomes if KINDS[o.job.kind].ends == "healthy"]
        steps = sorted({step for outcome in healthy for step in outcome.fids})
        return cls(
            {s: median(o.fids[s] for o in healthy if s in o.fids) for s in steps},
            {s: median(o.varieties[s] for o in healthy if s in o.varieties) for s in steps},
        )


def report(todo: list[Job]) -> Iterator[str]:
    """Lines of Markdown."""
    outcomes = [Outcome.of(job) for job in todo if not job.goes_back]
    healthy = Usual.of(outcomes)
    fitting = [o for o in outcomes if o.job.seed in FITTING]
    judging = [o for o in outcomes if o.job.seed in JUDGING]
    yield "## Levels of the signs, seeds for fitting: the highest of any run; 1 is an alarm\n"
    yield from _levels(fitting)
    yield "\n## Alarms, seeds for judging\n"
    yield from _healthy(judging)
    yield from _broken(judging, healthy)
    yield "\n## Recoveries\n"
    yield from _recoveries([job for job in todo if job.goes_back], outcomes)


def _levels(outcomes: list[Outcome]) -> Iterator[str]:
    yield "| runs | " + " | ".join(SIGNS) + " |"
    yield "| --- |" + " --- |" * len(SIGNS)
    for name, kind in KINDS.items():
        highest = [o.highest() for o in outcomes if o.job.kind == name]
        cells = [f"{max(level[sign] for level in highest):.2f}" for sign in SIGNS]
        yield f"| {name} ({kind.ends}) | " + " | ".join(cells) + " |"


def _healthy(outcomes: list[Outcome]) -> Iterator[str]:
    runs = [o for o in outcomes if KINDS[o.job.kind].ends == "healthy"]
    alarmed = [o for o in runs if o.alarms]
    yield f"False alarms: {len(alarmed)} of {len(runs)} healthy runs.\n"
    for outcome in alarmed:
        first = outcome.alarms[0]
        yield f"- {outcome.job.folder.name}, step {first['step']}: {first['reason']}"


def _broken(outcomes: list[Outcome], healthy: Usual) -> Iterator[str]:
    yield "\n| runs | caught | before quality is lost | first by | steps between, first alarm |"
    yield "| --- | --- | --- | --- | --- |"
    for name, kind in KINDS.items():
        runs = [o for o in outcomes if o.job.kind == name and kind.ends != "healthy"]
        if not runs:
            continue
        caught = [o for o in runs if o.alarms]
        signs = sorted({o.alarms[0]["sign"] for o in caught})
        leads = [_lead(o, healthy) for o in caught]
        known = sorted(lead for lead in leads if lead is not None)
        early = sum(lead is None or lead >= 0 for lead in leads)
        span = f"{median(known):+.0f} ({known[0]:+d} to {known[-1]:+d})" if known else ""
        yield (
            f"| {name} ({kind.ends}) | {len(caught)} of {len(runs)} | {early} of {len(runs)} | "
            f"{', '.join(signs)} | {span} |"
        )
    yield "\nBy sign, in broken runs: in how many it sounded, and its lead, median and range:\n"
    yield from _signs(outcomes, healthy)


def _lead(outcome: Outcome, healthy: Usual, sign: str = "") -> int | None:
    """Steps from the first alarm (of a sign) to the loss of quality; None if either is missing."""
    ruined = outcome.ruined(healthy)
    steps = [alarm["step"] for alarm in outcome.alarms if sign in ("", alarm["sign"])]
    return ruined - steps[0] if ruined is not None and steps else None


def _signs(outcomes: list[Outcome], healthy: Usual) -> Iterator[str]:
    yield "| sign | " + " | ".join(ENDS) + " |"
    yield "| --- |" + " --- |" * len(ENDS)
    for sign in (*SIGNS, "finite"):
        cells = []
        for end in ENDS:
            runs = [o for o in outcomes if KINDS[o.job.kind].ends == end]
            heard = [o for o in runs if any(alarm["sign"] == sign for alarm in o.alarms)]
            leads = [lead for o in heard if (lead := _lead(o, healthy, sign)) is not None]
            span = f": {median(leads):+.0f} ({min(leads):+d} to {max(leads):+d})" if leads else ""
            cells.append(f"{len(heard)} of {len(runs)}{span}")
        yield f"| {sign} | " + " | ".join(cells) + " |"


def _recoveries(todo: list[Job], outcomes: list[Outcome]) -> Iterator[str]:
    yield "| runs | recovered | rollbacks | last FID over the best before | over a healthy run's |"
    yield "| --- | --- | --- | --- | --- |"
    usual = Usual.of(outcomes)
    for kind in dict.fromkeys(job.kind for job in todo):
        runs = [job for job in todo if job.kind == kind]
        times = [len(records.rollbacks(job.folder)) for job in runs]
        before = [_recovery(job, _best_before(job, outcomes)) for job in runs]
        beside = [_recovery(job, usual.fids[STEPS["healthy"]]) for job in runs]
        recovered = sum(ratio <= RECOVERED for ratio in before)
        lists = (times, *([round(ratio, 2) for ratio in ratios] for ratios in (before, beside)))
        cells = " | ".join(", ".join(map(str, numbers)) for numbers in lists)
        yield f"| {kind} | {recovered} of {len(runs)} | {cells} |"


def _best_before(job: Job, outcomes: list[Outcome]) -> float:
    """The best FID that the run which only warned had before its first alarm."""
    twin = next(o for o in outcomes if (o.job.kind, o.job.seed) == (job.kind, job.seed))
    first = min((alarm["step"] for alarm in twin.alarms), default=math.inf)
    return min((fid for step, fid in twin.fids.items() if step < first), default=math.nan)


def _recovery(job: Job, wanted: float) -> float:
    """The last FID of a run that came to its end, over another."""
    ended = job.done.read_text() == TO_THE_END
    return list(Outcome.of(job).fids.values())[-1] / wanted if ended else math.inf


SHOWN = ("spectral norm", "exploding rates", "40 images", "high rates, no norm")


def draw(out: Path, seed: int) -> None:
    """One column for each of four runs: quality, weights, D's opinions, variety, and the alarms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 11), layout="constrained")
    axes = figure.subplots(4, len(SHOWN), sharex="col", sharey="row")
    for column, kind in zip(axes.T, SHOWN, strict=True):
        job = Job(kind, seed, False, out)
        seen = [look for look in looks(job) if look.weights]
        steps = [look.step for look in seen]
        fids = Outcome.of(job).fids
        column[0].semilogy(list(fids), list(fids.values()), color="black")
        for name in seen[0].weights:
            if name.endswith("sigma_0"):
                sizes = [look.weights[name] for look in seen]
                column[1].semilogy(steps, sizes, lw=0.7, color="C0" if name[0] == "G" else "C1")
        for name, label in (("d_on_train", "training images"), ("d_on_heldout", "held-out images"),
                            ("d_on_fake", "G's images")):  # fmt: skip
            logits = _running_mean([look.scalars[name] for look in seen])
            column[2].plot(steps, logits, label=label)
        diversity = _running_mean([look.scalars.get("diversity", math.nan) for look in seen])
        column[3].semilogy(steps, diversity, color="C2")
        column[3].axhline(CollapseConfig().diversity, lw=0.7, ls=":", color="black")
        for alarm in Outcome.of(job).alarms:
            for axis in column:
                axis.axvline(alarm["step"], color="red", lw=0.8)
            column[0].text(
                alarm["step"],
                0.98,
                alarm["sign"],
                color="red",
                rotation=90,
                va="top",
                ha="right",
                transform=column[0].get_xaxis_transform(),
            )
        column[0].set_title(kind)
        column[3].set_xlabel("step")
    axes[2, 0].legend()
    axes[2, 0].set_ylim(-6, 6)
    axes[3, 0].set_ylim(0.03, 10)
    for axis, label in zip(
        axes[:, 0],
        ("FID", "sigma_0 of all layers, G blue", "D's mean logit of",
         "variety within a class, to D"),
        strict=True,
    ):  # fmt: skip
        axis.set_ylabel(label)
    figure.savefig(out / "signs.png", dpi=100)


def _running_mean(values: list[float]) -> list[float]:
    """Over ten looks, as the detector smooths."""
    return [float(np.mean(values[max(0, i - 9) : i + 1])) for i in range(len(values))]


def main() -> int:
    """Trains what is not trained yet, and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for data, runs and the report")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parsed = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    make_data(parsed.out)
    todo = jobs(parsed.out.absolute())
    run_all(todo, parsed.processes)
    text = "\n".join(report(todo))
    (parsed.out / "report.md").write_text(text + "\n")
    draw(parsed.out.absolute(), JUDGING[0])
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
