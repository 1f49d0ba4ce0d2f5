"""Two data sets of one: nothing is in both, nothing is lost, each has its share of every class."""

import shutil

import numpy as np
import pytest

from biggan_sn.data.shards import load_index
from data_tools.sources import open_folder
from data_tools.splitting import split
from tests.unit.data_tools.making import SIDE, make, refused


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_parts_are_all_of_it_and_nothing_twice(tree, share):
    source = open_folder(tree)
    train, heldout = split(source, share).values()
    assert sorted([*train.chosen, *heldout.chosen]) == list(range(len(source.labels)))
    counts = np.bincount(source.labels)
    wanted = [max(1, round(share * count)) for count in counts]
    assert np.bincount(heldout.labels).tolist() == wanted
    for part in (train, heldout):
        assert part.classes == source.classes
        for image, number in enumerate(part.chosen):
            assert part.labels[image] == source.labels[number]
            assert part.name(image) == source.name(number)
            assert part.read(image) == source.read(number)
    again = split(open_folder(tree), share)
    assert again["heldout"].digest() == heldout.digest() != train.digest()
    assert heldout.chosen.tolist() == again["heldout"].chosen.tolist()


def test_a_class_too_small(tree):
    source = open_folder(tree)
    with pytest.raises(ValueError, match="none of them would be left to train on"):
        split(source, 0.999)


def test_make_shards_writes_both(tree, tmp_path, capsys):
    out = tmp_path / "out"
    assert make("folder", tree, out, "--heldout", "0.3") == 0
    source = open_folder(tree)
    train, heldout = (load_index(out / part) for part in ("train", "heldout"))
    assert train.classes == heldout.classes == source.classes
    assert len(train) + len(heldout) == len(source.labels)
    said = capsys.readouterr().out
    assert f"{out / 'train'}: {len(train)} images" in said
    assert f"{out / 'heldout'}: {len(heldout)} images" in said
    before = {path.name: path.read_bytes() for path in (out / "heldout").iterdir()}
    shutil.rmtree(out / "heldout")  # as if it had been stopped after the first
    assert make("folder", tree, out, "--heldout", "0.3") == 0
    assert {path.name: path.read_bytes() for path in (out / "heldout").iterdir()} == before
    shutil.rmtree(out / "heldout")
    capsys.readouterr()
    other = ("folder", tree, out, "--resolution", SIDE, "--format", "png", "--heldout", "0.3")
    refused(capsys, f"{out / 'train'}: 1 shards are there already", *other)
    assert make("folder", tree, out, "--heldout", "0.3") == 0
    capsys.readouterr()
    again = ("folder", tree, out, "--resolution", SIDE, "--heldout", "0.3")
    refused(capsys, f"{out / 'train'}: 1 shards are there already", *again)
