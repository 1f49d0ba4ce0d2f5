"""What comes along with the package beside its code: configs/, launch/ and slurm/.

In the repository they lie at the top, where one looks for them, and here are links to them; an
installed package holds what works without a repository.
"""

import re
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten

FOLDER = Path(__file__).parent
WIDTH = 90  # of what is said of a config


def configs() -> dict[str, Path]:
    """All configs by name, as `digits32_biggan`, `layers/ada`, `arena/games/ring8`; whole runs
    first."""
    root = FOLDER / "configs"
    files = [path for depth in ("*", "*/*", "*/*/*") for path in root.glob(f"{depth}.yaml")]
    found = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
    return dict(sorted(found.items(), key=lambda row: ("/" in row[0], row[0])))


def config_file(given: str | Path) -> Path:
    """The config that is meant: a file that is there, or one that comes along, by its name.

    Raises:
        ValueError: neither is there; the message has the nearest names.
    """
    path, known = Path(given), configs()
    if path.exists() and not path.is_dir():
        return path
    if str(given) in known:
        return known[str(given)]
    last = {name: name.rpartition("/")[2] for name in known}
    wanted = path.name.removesuffix(".yaml")
    begun = [name for name in last.values() if wanted and name.startswith(wanted)]
    near = begun[:3] or get_close_matches(wanted, set(last.values()), n=3)
    names = [name for match in near for name in known if last[name] == match]
    hint = f"; did you mean {' or '.join(names)}?" if names else ""
    raise ValueError(
        f"{given}: neither a file nor a config that comes along{hint} (biggan-sn configs list "
        "names them all)"
    )


def summary(config: Path) -> str:
    """What a config is: the first sentence of the comment that it begins with; without one, what it
    says."""
    lines = config.read_text(encoding="utf-8").splitlines()
    comment = []
    while lines and lines[0].startswith("#"):
        comment.append(lines.pop(0).removeprefix("#").strip())
    # A sentence ends before a capital: "Brock et al. 2019" goes on.
    sentence = re.split(r"\.(?=\s+[A-Z]|$)", " ".join(comment), maxsplit=1)[0]
    return shorten(sentence or ", ".join(lines).replace(":,", ":"), WIDTH, placeholder=" ...")
