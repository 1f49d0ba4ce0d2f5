"""The spectra of both networks as people see them: measured, written down and drawn."""

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.evaluation.pictures import Pixels, heat_map
from biggan_sn.models.bound import LipschitzBound
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.training import records

HEAT_MAP_COLUMNS = 400  # the newest measurements shown
WORST = 10  # layers in the table

Sigmas = dict[str, dict[str, list[float]]]  # network (G, D) -> layer -> sigma_0, sigma_1, ...


class Measured(NamedTuple):
    """What is known of all raw weights by network and layer: singular values, 0 past the rank of a
    weight and nan where it is not finite, or none if they were not asked for; Frobenius norms."""

    sigmas: Sigmas
    lengths: dict[str, dict[str, float]]

    def sizes(self) -> dict[str, float]:
        """What may explode: sigma_0, sigma_0 / sigma_1 and the Frobenius norm of each weight; the
        ratio is nan where there is no sigma_1."""
        found = {}
        for network, layers in self.sigmas.items():
            for layer, sigmas in layers.items():
                name = f"{network} {layer}"
                found[f"{name}: sigma_0"] = sigmas[0]
                found[f"{name}: sigma_0 / sigma_1"] = _ratio(sigmas)
                found[f"{name}: Frobenius norm"] = self.lengths[network][layer]
        return found

    def not_finite(self) -> list[str]:
        """Names of the weights that are not."""
        return [
            f"{network} {layer}"
            for network, layers in self.lengths.items()
            for layer, length in layers.items()
            if not math.isfinite(length)
        ]


def on_device(spectra: Mapping[str, Spectrum], sigmas: bool) -> Tensor:
    """The numbers of `Measured` in one vector, without singular values unless asked: where nobody
    follows them, they have to be searched. Every process must call it."""
    parts = []
    for spectrum in spectra.values():
        parts += [spectrum.known().sigmas.flatten()] if sigmas else []
        parts.append(spectrum.lengths())
    return torch.cat([part.double() for part in parts])


def on_host(spectra: Mapping[str, Spectrum], sigmas: bool, numbers: Iterator[float]) -> Measured:
    """What `on_device` made, by name."""
    measured = Measured({}, {})
    for network, spectrum in spectra.items():
        if sigmas:
            measured.sigmas[network] = {
                layer: list(islice(numbers, spectrum.values)) for layer in spectrum.layers
            }
        measured.lengths[network] = dict(zip(spectrum.layers, numbers, strict=False))
    return measured


def measure(spectra: Mapping[str, Spectrum]) -> Measured:
    """All raw weights now. Every process must call it."""
    return on_host(spectra, True, iter(on_device(spectra, True).tolist()))


def worst_layers(now: Sigmas) -> str:
    """A Markdown table of the layers with the largest sigma_0 / sigma_1, worst first."""
    lines = ["| network | layer | sigma_0 / sigma_1 | sigma_0 | sigma_1 |", "|---|---|---|---|---|"]
    lines += [
        f"| {network} | {layer} | {ratio:.3g} | {sigmas[0]:.4g} | {sigmas[1]:.4g} |"
        for ratio, network, layer, sigmas in ranked(now)[:WORST]
    ]
    return "\n".join(lines)


def ranked(now: Sigmas) -> list[tuple[float, str, str, list[float]]]:
    """sigma_0 / sigma_1, network, name and singular values of every layer that has a sigma_1; the
    largest ratio first, and before it what is not finite."""
    rows = [
        (_ratio(sigmas), network, layer, sigmas)
        for network, layers in now.items()
        for layer, sigmas in layers.items()
        if sigmas[1] != 0
    ]
    return sorted(rows, key=lambda row: -math.inf if math.isnan(row[0]) else -row[0])


def _ratio(sigmas: list[float]) -> float:
    """sigma_0 / sigma_1; nan where there is no sigma_1."""
    return sigmas[0] / sigmas[1] if sigmas[1] else math.nan


def board_layout(spectra: Mapping[str, Spectrum]) -> dict[str, Any]:
    """TensorBoard's custom scalars: margins of all layers of a network, three lines per layer."""
    layout: dict[str, Any] = {}
    for network in spectra:
        layout[f"{network}: all layers"] = {
            title: ["Margin", [f"margin/{network}/{name}_{part}" for part in MARGIN]]
            for name, title in (
                ("log10_sigma0", "log10 sigma_0: median, least, most"),
                ("log10_ratio", "log10 sigma_0 / sigma_1: median, least, most"),
            )
        }
    for network, spectrum in spectra.items():
        tops = range(min(3, spectrum.values))
        layout[f"{network}: layer by layer"] = {
            layer: ["Multiline", [f"^{re.escape(f'sigma{n}/{network}/{layer}')}$" for n in tops]]
            for layer in spectrum.layers
        }
    layout["D: Lipschitz bound"] = {
        "log10 of the bound": ["Multiline", ["^lipschitz/log10_total$"]]
    }
    return layout


MARGIN = ("median", "least", "most")


def board_scalars(now: Sigmas, bound: LipschitzBound) -> dict[str, float]:
    """All that is drawn as curves, by tag."""
    scalars = {}
    for network, layers in now.items():
        for layer, sigmas in layers.items():
            for number, sigma in enumerate(sigmas):
                scalars[f"sigma{number}/{network}/{layer}"] = sigma
        for name, values in _logarithms(layers).items():
            finite = [value for value in values if math.isfinite(value)] or [math.nan]
            ends = (float(np.median(finite)), min(finite), max(finite))
            for part, value in zip(MARGIN, ends, strict=True):
                scalars[f"margin/{network}/{name}_{part}"] = value
    for layer, norm in bound.layers.items():
        scalars[f"lipschitz/D/{layer}"] = norm
    scalars["lipschitz/log10_total"] = _log10(bound.total)
    return scalars


def _logarithms(layers: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """log10 of sigma_0 of all layers, and of sigma_0 / sigma_1 of those that have both."""
    return {
        "log10_sigma0": [_log10(sigmas[0]) for sigmas in layers.values()],
        "log10_ratio": [_log10(_ratio(sigmas)) for sigmas in layers.values() if sigmas[1] != 0],
    }


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan


def heat_maps(folder: Path) -> dict[str, Pixels]:
    """By name, pictures of layers x time of each network over the run so far: log10 of sigma_0 and
    of sigma_0 / sigma_1. Steps with alarms are marked."""
    found = records.read(folder / records.SPECTRA)[-HEAT_MAP_COLUMNS:]
    if not found:  # an alarm before the first measurement
        return {}
    steps = [record["step"] for record in found]
    alarms = [bisect_left(steps, alarm["step"]) for alarm in records.alarms(folder)]
    marks = [column for column in alarms if column < len(steps)]
    pictures = {}
    for network in ("G", "D"):
        layers = list(found[-1][network])
        history = np.array([[record[network][layer][:2] for record in found] for layer in layers])
        top, second = history[..., 0], history[..., 1]
        several = ~(second == 0).all(1)  # a weight of one row has no sigma_1
        names = [layer for layer, keep in zip(layers, several, strict=True) if keep]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: NDArray[np.float64] = np.log10(top[several] / second[several])
            level: NDArray[np.float64] = np.log10(top)
        for name, title, rows, values in (
            ("log10_sigma0", "log10 sigma_0", layers, level),
            ("log10_ratio", "log10 sigma_0 / sigma_1", names, ratio),
        ):
            picture = heat_map(values, rows, f"{network}: {title}", steps[0], steps[-1], marks)
            pictures[f"spectra/{network}_{name}"] = picture
    return pictures
