import pytest

from tests.unit.data_tools.making import CLASSES, plain


@pytest.fixture
def tree(tmp_path):
    """images/<class>/: four, five and six images; the class is in red, the number in green."""
    root = tmp_path / "images"
    for label, name in enumerate(CLASSES):
        (root / name / "more").mkdir(parents=True)
        for number in range(4 + label):
            folder = root / name / ("more" if number == 3 else "")
            color = (100 * label, 40 * number, 0)
            plain(color).save(folder / f"{number}.{'PNG' if number % 2 else 'jpeg'}")
    (root / "notes.txt").write_text("not a class")
    (root / "ant" / "notes.txt").write_text("not an image")
    return root
