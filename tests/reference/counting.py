"""How many parameters the residual family has, by hand: from the widths in the papers' tables
alone, without the code that builds it."""

from itertools import pairwise

G_WIDTHS = {32: "4444", 64: "gg842", 128: "gg8421", 256: "gg88421", 512: "gg884211"}
D_WIDTHS = {32: "4444", 64: "1248g", 128: "1248gg", 256: "12488gg", 512: "112488gg"}


def widths(letters, channels):
    return [channels * int(letter, 17) for letter in letters]


def conv(before, after, size):
    return after * (before * size**2 + 1)


def attention(width):
    """Maps to C/8, C/8 and C/2 and from C/2, without bias; and gamma."""
    return width * width // 8 * 2 + width * width // 2 * 2 + 1


def generator(config):
    model, resolution = config.model, config.data.resolution
    w = widths(G_WIDTHS[resolution], model.channels)
    deep = model.name == "biggan_deep"
    with_default = {"biggan": 128, "biggan_deep": 128}.get(model.name, 0)
    shared = with_default if model.shared_dim is None else model.shared_dim
    cut = model.name == "biggan" if model.hierarchical_z is None else model.hierarchical_z
    chunk = model.z_dim // (len(w) if cut else 1)
    # What a number of a conditional norm costs: a column of a map, or one for each class.
    each = shared + chunk * (cut or deep) if shared else config.data.num_classes
    total = config.data.num_classes * shared
    total += ((each if deep else chunk) + 1) * w[0] * 16  # 4 x 4 pixels
    for i, (before, after) in enumerate(pairwise(w)):
        if deep:
            total += _bottleneck(before, before, each) + _bottleneck(before, after, each)
        else:
            total += 2 * each * (before + after) + conv(before, after, 3) + conv(after, after, 3)
            total += conv(before, after, 1)
        total += attention(after) if 8 * 2**i in model.generator_attention else 0
    return total + 2 * w[-1] + conv(w[-1], 3, 3)


def _bottleneck(before, after, each):
    """1x1, 3x3, 3x3 and 1x1, each after a conditional norm."""
    narrow = before // 4
    norms = 2 * each * (before + 3 * narrow)
    return norms + conv(before, narrow, 1) + 2 * conv(narrow, narrow, 3) + conv(narrow, after, 1)


def discriminator(config):
    model, resolution = config.model, config.data.resolution
    w = widths(D_WIDTHS[resolution], model.discriminator_channels or model.channels)
    deep = model.name == "biggan_deep"
    total = _deep_blocks(w) if deep else _blocks(w, model.name)
    for side in model.discriminator_attention:
        halvings = (resolution // side).bit_length() - 1
        total += attention(w[halvings] if deep else w[halvings - 1])
    if model.minibatch_layer == "discrimination":
        total += w[-1] * 500 + 100  # T to 100 kernels of 5; a weight of each
    total += model.minibatch_layer == "stddev"
    return total + w[-1] + 1 + config.data.num_classes * w[-1]


def _blocks(w, name):
    """All but the last halve; at 32 pixels the last two do not."""
    halvings = 2 if len(w) == 4 else len(w) - 1
    total = 0
    for i, (before, after) in enumerate(zip([3, *w], w, strict=False)):
        inner = before if name == "sngan" else after
        total += conv(before, inner, 3) + conv(inner, after, 3)
        total += conv(before, after, 1) if i < halvings or before != after else 0
    return total


def _deep_blocks(w):
    """A convolution of the image; then two bottlenecks for each step of the widths, of which the
    first has a shortcut for the channels that are new."""
    total = conv(3, w[0], 3)
    for before, after in pairwise(w):
        narrow = after // 4
        inside = 2 * conv(narrow, narrow, 3) + conv(narrow, after, 1)
        total += conv(before, narrow, 1) + conv(after, narrow, 1) + 2 * inside
        total += conv(before, after - before, 1) if after > before else 0
    return total
