"""One image, of any kind, compared with what is known of it, not with what a run once gave."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.imaging import (
    ENCODINGS,
    UnreadableError,
    area_means,
    scaled,
    square_picture,
)
from tests.unit.data_tools.making import SIDE, file_of, plain

WHITE = (255, 255, 255)


def taken(image, resolution=SIDE, fit="short"):
    return square_picture(image, resolution, fit).pixels


def noise(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


# ------------------------------------------------------------------------------------------ area


def overlaps(size, parts):
    """[parts, size]: how much of each pixel is in each part, from the definition."""
    weights = np.zeros((parts, size))
    for part in range(parts):
        for pixel in range(size):
            begin = max(part * size / parts, pixel)
            end = min((part + 1) * size / parts, pixel + 1)
            weights[part, pixel] = max(0.0, end - begin)
    return weights * parts / size


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_reduction_is_the_mean_over_areas(data):
    height, width = data.draw(st.integers(1, 23)), data.draw(st.integers(1, 23))
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    values = data.draw(st.binary(min_size=height * width * 3, max_size=height * width * 3))
    pixels = np.frombuffer(values, np.uint8).reshape(height, width, 3)
    true = np.einsum("ah,hwc,bw->abc", overlaps(height, rows), pixels, overlaps(width, columns))
    assert abs(area_means(pixels, rows, columns) - true).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("factor", "parts"), [(2, 16), (3, 32), (8, 5)])
def test_whole_factors_give_the_means_of_blocks(factor, parts):
    pixels = noise(parts * factor, parts * factor, 3)
    blocks = pixels.reshape(parts, factor, parts, factor, 3).sum((1, 3), dtype=int)
    area = factor * factor
    np.testing.assert_array_equal(area_means(pixels, parts, parts), (blocks + area // 2) // area)


def test_nothing_to_reduce_changes_nothing():
    pixels = noise(17, 9, 3)
    np.testing.assert_array_equal(area_means(pixels, 17, 9), pixels)


def test_sums_beyond_32_bits():
    # White of 4200 x 4200 sums up to 4.5e9; and in strips, which must not show.
    pixels = np.full((4200, 4200, 1), 255, np.uint8)  # of one colour, to be quick
    assert (area_means(pixels, 32, 32) == 255).all()


def test_strips_do_not_show(monkeypatch):
    pixels = noise(50, 70, 3)
    whole = area_means(pixels, 7, 32)
    monkeypatch.setattr("data_tools.imaging.STRIP", 1000)
    np.testing.assert_array_equal(area_means(pixels, 7, 32), whole)


def test_single_pixels_are_averaged():
    # In black and white: anything but an average over areas would alias.
    checks = np.uint8(np.indices((128, 128)).sum(0) % 2 * 255)
    assert (taken(file_of(Image.fromarray(checks))) == 128).all()


def test_one_axis_grows_while_the_other_is_reduced():
    pixels = np.repeat(noise(8, 1, 3), 128, 1)
    expected = Image.fromarray(pixels[:, :1]).resize((1, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(scaled(pixels, 32, 16), np.repeat(expected, 16, 1))


# ----------------------------------------------------------------------------------------- square


@pytest.mark.parametrize("upright", [True, False])
def test_the_middle_of_a_long_image_is_taken(upright):
    stripes = np.repeat(np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8), 64, 0)
    image = np.repeat(stripes[:, None], 64, 1)  # [192, 64, 3]: three squares
    image = image if upright else image.swapaxes(0, 1)
    assert (taken(image) == (0, 255, 0)).all()


@pytest.mark.parametrize("upright", [True, False])
def test_a_long_image_is_all_seen_where_it_is_to_fit(upright):
    image = np.zeros((192, 64, 3), np.uint8)
    image[:6] = 255, 0, 0
    image[-6:] = 0, 0, 255
    out = taken(image if upright else image.swapaxes(0, 1), fit="long")
    out = out if upright else out.swapaxes(0, 1)
    assert (out[:, :10] == 255).all() and (out[:, 21:] == 255).all()  # 11 of 32 columns
    assert (out[0, 10:21] == (255, 0, 0)).all() and (out[-1, 10:21] == (0, 0, 255)).all()
    assert (out[1:-1, 10:21] == 0).all()


def test_a_line_is_still_seen():
    out = taken(np.zeros((2000, 1, 3), np.uint8), fit="long")
    assert (out == 0).all(2).sum() == SIDE


@pytest.mark.parametrize(("size", "fit", "enlarged"), [
    ((31, 90), "short", True), ((32, 90), "short", False),
    ((31, 12), "long", True), ((32, 12), "long", False),
])  # fmt: skip
def test_a_small_image_is_enlarged(size, fit, enlarged):
    picture = square_picture(np.full((*size, 3), (10, 200, 30), np.uint8), SIDE, fit)
    assert picture.enlarged == enlarged
    assert abs(picture.pixels[16, 16].astype(int) - (10, 200, 30)).max() <= 1


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512])
def test_every_resolution(resolution):
    assert taken(noise(300, 200, 3), resolution).shape == (resolution, resolution, 3)


# ------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_images_turned_by_their_camera_come_out_upright(orientation, form):
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:16, :16] = 255, 0, 0  # red above left
    pixels[:16, 16:] = 0, 255, 0  # green above right
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = file_of(Image.fromarray(np.ascontiguousarray(turned)), form, exif=exif)
    wrong = abs(taken(file).astype(int) - pixels)
    assert wrong[8, 8].max() < 9 and wrong[8, 24].max() < 9 and wrong[24].max() < 9


def test_damaged_tags_do_no_harm():
    pixels = noise(SIDE, SIDE, 3)
    file = file_of(Image.fromarray(pixels), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\x01")
    np.testing.assert_array_equal(taken(file), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_in_every_mode(mode, level):
    form = "TIFF" if mode in {"CMYK", "YCbCr", "PA"} else "PNG"
    try:
        file = file_of(plain((level,) * 3).convert(mode), form)
    except OSError:
        pytest.skip(f"Pillow writes no {mode}")
    assert (taken(file) == level).all()


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 200, 90)])
def test_colours_of_cmyk_and_palettes(color):
    for file in (
        file_of(plain(color).convert("CMYK"), "JPEG", quality=100),
        file_of(plain(color).quantize(2), "PNG"),
        file_of(plain(color).quantize(2), "GIF"),
    ):
        assert abs(taken(file).astype(int) - color).max() <= 3


def test_what_is_transparent_becomes_white():
    half = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, SIDE, 16))
    clear = plain((255, 0, 0)).quantize(2)
    for file in (file_of(half), file_of(half, "WEBP", lossless=True)):
        assert (taken(file)[:16] == (255, 0, 0)).all() and (taken(file)[16:] == 255).all()
    assert (taken(file_of(clear, transparency=clear.getpixel((0, 0)))) == 255).all()


def png_of(width, height, bits, kind, rows, *chunks):
    """A PNG made by hand, as Pillow writes no colours of 16 bits."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data)
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *(chunk(*pair) for pair in chunks),
         chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )  # fmt: skip


def test_sixteen_bits_of_grey_are_scaled_to_eight():
    levels = np.linspace(0, 65535, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)
    big_ends = [row.astype(">u2").tobytes() for row in levels]
    for file in (
        png_of(SIDE, SIDE, 16, 0, big_ends),
        file_of(Image.fromarray(levels), "PNG"),
        file_of(Image.fromarray(levels), "TIFF"),
    ):
        exact = levels / 65535 * 255
        assert abs(taken(file) - exact[..., None]).max() <= 0.5 + 1e-6
        assert taken(file)[0, 0, 0] == 0 and taken(file)[-1, -1, 0] == 255


def test_transparent_grey_of_sixteen_bits():
    rows = [struct.pack(">32H", *([40_000] * 16 + [7] * 16))] * SIDE
    pixels = taken(png_of(SIDE, SIDE, 16, 0, rows, (b"tRNS", struct.pack(">H", 7))))
    assert (pixels[:, :16] == 156).all() and (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize(("kind", "values"), [(2, 3), (6, 4)])  # RGB, RGBA
def test_colours_of_sixteen_bits(kind, values):
    color = [65535, 32768, 257][:3] + [65535] * (values - 3)
    rows = [struct.pack(f">{values}H", *color) * SIDE] * SIDE
    assert abs(taken(png_of(SIDE, SIDE, 16, kind, rows)).astype(int) - (255, 128, 1)).max() <= 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_of_unknown_range_are_refused(kind):
    file = file_of(Image.fromarray(np.zeros((4, 4), kind)), "TIFF")
    with pytest.raises(UnreadableError, match=r"range of its values is unknown, mode [IF]"):
        taken(file)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(form):
    frames = [plain(color) for color in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    file = file_of(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    picture = square_picture(file, SIDE, "short")
    assert picture.animated
    assert abs(picture.pixels.astype(int) - (255, 0, 0)).max() <= 1
    assert not square_picture(file_of(frames[0], form), SIDE, "short").animated


# ---------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_cut_files_are_refused(form, share):
    whole = file_of(Image.fromarray(noise(64, 64, 3)), form)
    assert taken(whole).shape == (SIDE, SIDE, 3)
    with pytest.raises(UnreadableError, match=r"\w"):
        taken(whole[: int(len(whole) * share)])


def test_what_is_no_image_is_refused():
    for file in (b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"):
        with pytest.raises(UnreadableError, match="none of JPEG"):
            taken(file)


def test_programs_are_not_started(monkeypatch):
    # Pillow hands PostScript to another program, whatever the name of the file.
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    out = io.BytesIO()
    plain(WHITE).save(out, "EPS")
    with pytest.raises(UnreadableError, match="none of JPEG"):
        taken(out.getvalue())


def test_bombs_are_refused_and_large_ones_taken_without_a_word(monkeypatch):
    with pytest.raises(UnreadableError, match="exceeds limit"):
        taken(png_of(14_000, 14_000, 1, 0, []))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert (taken(file_of(plain(WHITE, (40, 40)))) == 255).all()  # Pillow warns of that
    assert not said
    with pytest.raises(UnreadableError, match="exceeds limit"):
        taken(file_of(plain(WHITE, (50, 50))))


# --------------------------------------------------------------------------------------- encoding


def test_png_is_lossless():
    pixels = noise(SIDE, SIDE, 3)
    encoded = ENCODINGS["png"].encode(pixels, 1)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded))), pixels)


def test_raw_is_rows_of_columns_of_colours():
    pixels = noise(SIDE, SIDE, 3)
    encoded = ENCODINGS["raw"].encode(pixels.swapaxes(0, 1), 1)
    assert len(encoded) == SIDE * SIDE * 3
    assert tuple(encoded[3 * (SIDE * 2 + 5) :][:3]) == tuple(pixels[5, 2])


def test_jpeg_keeps_colours_apart_and_knows_quality():
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, ::2, 0] = pixels[:, 1::2, 2] = 255  # thinned colours would be a purple wall
    best, worst = (ENCODINGS["jpg"].encode(pixels, quality) for quality in (100, 5))
    assert abs(np.asarray(Image.open(io.BytesIO(best))).astype(int) - pixels).max() < 12
    assert len(worst) < len(best)
