"""That our shards are WebDataset's: webdataset itself finds the same images and labels in them."""

import io

import numpy as np
import pytest
import webdataset
from PIL import Image

from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import load_index
from data_tools.make_shards import write_shards


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # it leaves that to others
def test_webdataset_reads_our_shards(tmp_path, encode, noise):
    folder = tmp_path / "shards"
    kinds = [("png", "PNG"), ("jpg", "JPEG")]
    samples = [(encode(image, kinds[number % 2][1]), kinds[number % 2][0], number % 3)
               for number, image in enumerate(noise)]  # fmt: skip
    write_shards(iter(samples), len(samples), folder, 4, ("cat", "dog", "owl"))
    index = load_index(folder)
    assert len(index.names) == 3
    # Never .decode(): it unpickles what is named so. The order is that of the index.
    urls = [index.path(shard) for shard in range(3)]
    found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(found) == len(index)
    assert [int(sample["cls"]) for sample in found] == index.label.tolist()
    reader, pixels = Reader(index, 32), np.zeros((32, 32, 3), np.uint8)
    for number, sample in enumerate(found):
        assert sample["__key__"] == f"{number:08d}"
        extension = kinds[number % 2][0]
        assert sample[extension] == samples[number][0]
        reader.read_into(number, pixels)
        image = np.asarray(Image.open(io.BytesIO(sample[extension])).convert("RGB"))
        assert abs(pixels.astype(int) - image).max() <= (extension == "jpg")
    reader.close()
