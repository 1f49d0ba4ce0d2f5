"""The spectra of both networks: heat-maps, and the curves of the worst layers."""

from biggan_sn.report.charts import over_steps
from biggan_sn.report.curves import Chart, draw
from biggan_sn.report.markup import (
    NOTHING,
    Html,
    element,
    join,
    paragraph,
    picture,
    sideways,
    table,
    text,
)
from biggan_sn.report.reading import History, number
from biggan_sn.report.scales import brief
from biggan_sn.training.monitor import Sigmas, heat_maps, ranked
from biggan_sn.training.records import Record

WORST = 8  # layers shown: as many as there are colours
NETWORKS = ("G", "D")
TITLES = {"log10_sigma0": "log10 sigma_0", "log10_ratio": "log10 sigma_0 / sigma_1"}


def spectra(run: History) -> Html:
    """Nothing where none were measured."""
    if not run.spectra:
        return NOTHING
    parts = [element("div", join(map(draw, _charts(run))), {"class": "charts"})]
    parts += [_table(run), _maps(run)]
    return join(parts)


def _sigmas(record: Record) -> Sigmas:
    """Network -> layer -> at least two singular values, nan where one is not a number."""
    return {
        network: {
            str(layer): [number(sigma) for sigma in sigmas]
            for layer, sigmas in record[network].items()
            if isinstance(sigmas, list) and len(sigmas) > 1
        }
        for network in NETWORKS
    }


def _charts(run: History) -> list[Chart]:
    history = {record["step"]: _sigmas(record) for record in run.spectra}
    newest = history[run.spectra[-1]["step"]]
    values: dict[str, dict[int, float]] = {
        f"{network} {layer}": {
            step: sigmas[network][layer][0]
            for step, sigmas in history.items()
            if layer in sigmas[network]
        }
        for _, network, layer, _ in ranked(newest)[:WORST]
    }
    bounds = {
        record["step"]: number(record["lipschitz"].get("total"))
        for record in run.spectra
        if isinstance(record.get("lipschitz"), dict)
    }
    charts = [
        over_steps(run, "sigma_0 of the layers with the largest sigma_0 / sigma_1", values),
        over_steps(run, "Lipschitz bound of D, an estimate", {"bound": bounds} if bounds else {}),
    ]
    return [chart for chart in charts if chart.lines]


def _table(run: History) -> Html:
    newest = run.spectra[-1]
    rows = [
        [text(f"{network} {layer}"), *(text(brief(value)) for value in (ratio, *sigmas[:2]))]
        for ratio, network, layer, sigmas in ranked(_sigmas(newest))[:WORST]
    ]
    caption = f"The worst layers at step {newest['step']}: largest sigma_0 / sigma_1"
    return table(caption, ["layer", "sigma_0 / sigma_1", "sigma_0", "sigma_1"], rows)


def _maps(run: History) -> Html:
    try:
        maps = heat_maps(run.folder)
    except (ValueError, KeyError, TypeError, IndexError) as error:  # records that are damaged
        return paragraph(
            f"The heat-maps cannot be drawn: a record is not as it was written ({error!r})."
        )
    figures = []
    for name, pixels in maps.items():
        network, _, kind = name.rpartition("/")[2].partition("_")
        words = f"{network}: {TITLES[kind]} of every layer over the run"
        shown = picture(pixels, f"Heat-map of {words}; alarms are red lines", "map")
        caption = element("figcaption", text(words))
        figures.append(
            element("figure", join([caption, sideways(shown, words)]), {"class": "card"})
        )
    return element("div", join(figures), {"class": "maps"})
