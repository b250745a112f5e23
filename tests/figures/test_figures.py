"""Figures: what they show, that all of it can be read, and that nothing else is touched."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from cvrnet import figures as report
from cvrnet import metrics
from cvrnet.errors import UserError
from cvrnet.figures import plot_confusion as confusion
from cvrnet.figures import style
from tests.support.readable import assert_readable, legend_texts, shown_texts

LONG = [
    "Normal radiograph without findings",
    "Bacterial pneumonia (other than tuberculosis)",
    "Viral pneumonia other than COVID-19",
    "COVID-19 pneumonia confirmed by RT-PCR",
    "_Pulmonary oedema or effusion, $cardiogenic$",
]
TITLE = "Pooled over five folds, data set of three sources, patients never shared between folds"


def make(n, classes, skill=1.5, absent=None):
    rng = np.random.default_rng(0)
    y = rng.integers(len(classes), size=n)
    if absent is not None:
        y[y == absent] = (absent + 1) % len(classes)
    z = rng.normal(size=(n, len(classes)))
    z[np.arange(n), y] += skill
    p = np.exp(z)
    return y, p / p.sum(1, keepdims=True), classes


CASES = {
    "2 classes": make(1200, ["NCV", "CVP"]),
    "3 classes": make(1500, ["NOR", "NCP", "CVP"]),
    "6 classes": make(900, ["NOR", "NCP", "CVP", "OBP", "OVP", "TBC"]),
    "long names": make(1500, LONG),
    "absent class": make(300, ["NOR", "NCP", "CVP"], absent=1),
    "large counts": make(200_000, ["NOR", "CVP"], skill=5),
    "one image": make(1, ["NOR", "NCP", "CVP"]),
    "19 classes": make(400, [f"{LONG[k % 5]} {k}" for k in range(19)]),
    "120 classes": make(1200, [f"finding {k}" for k in range(120)], skill=4, absent=7),
}
PLOTS = {
    "confusion": lambda y, p, c, t=None: report.plot_confusion_matrix(metrics.confusion_matrix(y, p), c, t),
    "roc": lambda y, p, c, t=None: report.plot_roc(metrics.roc_curves(y, p, c), t),
    "precision-recall": lambda y, p, c, t=None: report.plot_precision_recall(
        metrics.precision_recall_curves(y, p, c), t
    ),
    "calibration": lambda y, p, c, t=None: report.plot_calibration(metrics.calibration_curve(y, p, c), t),
}


def history(n):
    rng = np.random.default_rng(0)
    return [
        {
            "epoch": k,
            "train_loss": 0.2 + np.exp(-k / 15),
            "val_loss": 0.4 + np.exp(-k / 10) + 0.004 * k + 0.02 * rng.normal(),
            "val_accuracy": 0.9 - 0.4 * np.exp(-k / 10),
            "lr": 1e-4 * 0.9 ** (k // 12),
        }
        for k in range(1, n + 1)
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("plot", PLOTS)
def test_everything_can_be_read(plot, case):
    figure = PLOTS[plot](*CASES[case], None if case == "3 classes" else TITLE)
    assert_readable(figure)
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height, rel=0.01)  # square
    assert all(ax.get_ylabel() for ax in figure.axes)
    assert figure.axes[-1].get_xlabel()


@pytest.mark.parametrize(("n", "title"), [(1, None), (60, TITLE)])
def test_learning_curves_can_be_read(n, title):
    figure = report.plot_learning_curves(history(n), title=title)
    assert_readable(figure)


@pytest.mark.parametrize("n", [1, 5, 10])
def test_learning_curves_of_all_folds_can_be_read(n):
    figure = report.plot_fold_learning_curves({f"Fold {k}": history(20 + k) for k in range(1, n + 1)}, title=TITLE)
    assert_readable(figure)
    assert legend_texts(figure) == [*(f"Fold {k}" for k in range(1, n + 1)), "Best epoch"]
    losses = [figure.axes[1].get_lines()[2 * k].get_ydata() for k in range(n)]
    assert [len(line) for line in losses] == [20 + k for k in range(1, n + 1)]


def test_the_best_epoch_of_a_fold_is_the_one_that_was_kept():
    rows = [{**row, "best": int(row["epoch"] in (1, 3))} for row in history(5)]
    figure = report.plot_fold_learning_curves({"Fold 1": rows})
    assert figure.axes[0].get_lines()[1].get_xdata() == [3]
    with pytest.raises(UserError, match="no folds"):
        report.plot_fold_learning_curves({})
    with pytest.raises(UserError, match="history lacks val_f1"):
        report.plot_fold_learning_curves({"Fold 1": rows}, score="val_f1")


@pytest.mark.parametrize("std", [None, 0.02], ids=["one model", "folds"])
def test_heads_can_be_read(std):
    names = ["P1", "P2", "P3", "P4", "P5", "mean of the heads", "best head (P3)", "average (the model)"]
    figure = report.plot_heads(
        [{"head": h, "accuracy": 0.6 + 0.02 * i, "std": std} for i, h in enumerate(names)], TITLE
    )
    assert_readable(figure)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names
    with pytest.raises(UserError, match="no heads"):
        report.plot_heads([])


# the first paper's Tables 5, 7 and 8 as printed: rows predicted, columns actual.
TABLE_5 = """1461 80 6 | 92.29 1.87 1.20
119 4185 15 | 7.52 97.94 3.00
3 8 479 | 0.19 0.19 95.80"""
TABLE_7 = """1522 88 7 | 92.35 2.01 1.40
126 4276 26 | 7.65 97.83 5.20
0 7 467 | 0.00 0.16 93.40"""
TABLE_8 = """87 26 | 82.86 26.53
18 72 | 17.14 73.47"""


@pytest.mark.parametrize("table", [TABLE_5, TABLE_7, TABLE_8], ids=["Table 5", "Table 7", "Table 8"])
def test_confusion_matrix_is_laid_out_as_in_the_paper(table):
    halves = [line.split(" | ") for line in table.splitlines()]
    counts = np.array([[int(count) for count in left.split()] for left, _ in halves])
    percents = [right.split() for _, right in halves]
    classes = ["NOR", "CPN", "NCP"][: len(counts)]
    figure = report.plot_confusion_matrix(counts.T, classes)  # rows true, as from confusion_matrix
    (ax,) = figure.axes
    cells = {}
    for text in sorted(ax.texts, key=lambda text: text.get_position()[1]):
        x, y = text.get_position()
        cells.setdefault((int(y), int(x)), []).append(text.get_text())
    for row, column in np.ndindex(counts.shape):
        assert cells[row, column] == [f"{counts[row, column]:,}", f"{percents[row][column]} %"]
    figure.canvas.draw()
    assert [label.get_text() for label in ax.get_yticklabels()] == classes
    assert ax.transData.transform((0, 0.5))[1] > ax.transData.transform((0, 1.5))[1]  # the first row is on top
    assert ax.get_xticklabels()[0].get_text() == f"NOR\n(n = {counts[:, 0].sum():,})"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Actual class\n(% of column)", "Predicted class")


def test_class_without_images_has_no_percentages():
    (ax,) = report.plot_confusion_matrix([[3, 1], [0, 0]], ["NOR", "CVP"]).axes
    assert sorted(text.get_text() for text in ax.texts) == ["0", "0", "1", "25.00 %", "3", "75.00 %", "–", "–"]


def test_confusion_matrix_of_another_shape():
    with pytest.raises(UserError, match=r"shape \(2, 2\): expected \(3, 3\)"):
        report.plot_confusion_matrix([[1, 0], [0, 1]], ["a", "b", "c"])


def luminance(color):
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return np.dot([0.2126, 0.7152, 0.0722], channels)


def contrast(a, b):
    """Contrast ratio of the Web Content Accessibility Guidelines, 1 to 21."""
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["white", confusion.LIGHT_BLUES(1.0)], ids=["paper", "darkest cell"])
def test_text_is_dark_on_light(ground):
    assert contrast(style.TEXT, ground) >= 5


def test_lines_of_six_classes_differ_and_stand_out():
    assert all(contrast(color, "white") >= 2 for color in report.OKABE_ITO)
    styles = [(s["color"], s["linestyle"]) for s in map(style.class_style, range(18))]
    assert len(set(styles)) == 18


def test_legends_give_the_scores():
    y, p, classes = CASES["3 classes"]
    roc, pr = legend_texts(PLOTS["roc"](y, p, classes)), legend_texts(PLOTS["precision-recall"](y, p, classes))
    for k, name in enumerate(classes):
        assert roc[k] == f"{name} (AUC\xa0{roc_auc_score(y == k, p[:, k]):.3f})"
        assert pr[k] == f"{name} (AP\xa0{average_precision_score(y == k, p[:, k]):.3f})"
    assert roc[3] == f"Macro average (AUC\xa0{roc_auc_score(y, p, multi_class='ovr'):.3f})"
    scores = metrics.classification_scores(y, p, classes)
    ece, brier = scores["expected_calibration_error"], scores["brier_score"]
    assert f"Predicted class (ECE\xa0{ece:.3f}, Brier\xa0{brier:.3f})" in legend_texts(
        PLOTS["calibration"](y, p, classes)
    )


def test_undefined_classes_are_named():
    y, p, classes = CASES["absent class"]
    assert "NCP (AUC\xa0undefined)" in legend_texts(PLOTS["roc"](y, p, classes))
    assert "NCP (AP\xa0undefined)" in legend_texts(PLOTS["precision-recall"](y, p, classes))
    y, p, classes = CASES["one image"]
    assert sum("undefined" in text for text in legend_texts(PLOTS["roc"](y, p, classes))) == 3


def test_many_classes_give_figures_of_bounded_size():
    """Up to 18 classes have lines of their own; of more, the figures are as large and the legend has the range."""
    y, p, classes = CASES["120 classes"]
    areas = [roc_auc_score(y == k, p[:, k]) for k in np.unique(y)]
    figures = {name: plot(y, p, classes) for name, plot in PLOTS.items()}
    assert len(areas) == 119
    expected = f"120 classes (AUC {min(areas):.3f} to {max(areas):.3f}, 1 undefined)"
    assert legend_texts(figures["roc"])[0].replace("\n", " ") == expected
    assert legend_texts(figures["calibration"])[0] == "120 classes"
    for name, limit in {"confusion": 14, "roc": 7, "precision-recall": 7, "calibration": 7}.items():
        assert max(figures[name].get_size_inches()) < limit
    (mesh,) = figures["confusion"].axes[0].collections
    shares = confusion_matrix(y, p.argmax(1), labels=range(120), normalize="true").T
    np.testing.assert_allclose(mesh.get_array().reshape(120, 120), 100 * shares)


def test_class_names_are_taken_literally():
    names = ["_hidden", "$x_1$"]
    texts = legend_texts(PLOTS["calibration"](*make(50, names)))
    assert texts[:2] == names
    assert not any(text.get_parse_math() for text in PLOTS["roc"](*make(50, names)).legends[0].get_texts())


def test_drawn_lines_are_the_curves():
    y, p, classes = CASES["2 classes"]
    curves = metrics.roc_curves(y, p, classes)
    lines = report.plot_roc(curves).axes[0].get_lines()
    np.testing.assert_array_equal(lines[1].get_xydata().T, [curves["per_class"]["CVP"][k] for k in ("fpr", "tpr")])
    np.testing.assert_array_equal(lines[2].get_xydata().T, [curves["macro"][k] for k in ("fpr", "tpr")])


def test_best_epoch_is_the_lowest_validation_loss():
    rows = history(30)
    rows[17]["val_loss"] = 0.01
    assert legend_texts(report.plot_learning_curves(rows))[-1] == "Best epoch (18)"
    rows[3]["best"] = "1"
    assert legend_texts(report.plot_learning_curves(rows))[-1] == "Best epoch (4)"


def test_learning_curves_from_a_csv_file():
    file = io.StringIO()
    writer = csv.DictWriter(file, list(history(1)[0]))
    writer.writeheader()
    writer.writerows(history(20))
    file.seek(0)
    figure = report.plot_learning_curves(list(csv.DictReader(file)))
    expected = [[row["epoch"], row["train_loss"]] for row in history(20)]
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_xydata(), expected)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_learning_curves_of_a_diverged_run(loss):
    rows = history(5)
    rows[0]["val_loss"] = loss
    assert legend_texts(report.plot_learning_curves(rows))[-1] == "Best epoch (5)"
    for row in rows:
        row["val_loss"] = loss
    figure = report.plot_learning_curves(rows)
    assert legend_texts(figure) == ["Training", "Validation"]
    assert_readable(figure)


def test_learning_curves_name_what_is_missing():
    with pytest.raises(UserError, match="no epochs"):
        report.plot_learning_curves([])
    with pytest.raises(
        UserError, match="history lacks val_f1; expected the columns epoch, train_loss, val_loss, val_f1, lr"
    ):
        report.plot_learning_curves(history(3), score="val_f1")


def test_saved_at_200_dots_an_inch_and_repeatably(tmp_path):
    for name in ("a.png", "b.png"):
        report.save_figure(PLOTS["roc"](*CASES["3 classes"]), tmp_path / "figures" / name)
    first, second = sorted((tmp_path / "figures").iterdir())
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        width, _ = PLOTS["roc"](*CASES["3 classes"]).get_size_inches()
        assert image.width == pytest.approx(200 * width, abs=1)
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".PNG"])
def test_saved_as_the_suffix_says(tmp_path, suffix):
    report.save_figure(PLOTS["roc"](*CASES["2 classes"]), tmp_path / f"a{suffix}")
    start = (tmp_path / f"a{suffix}").read_bytes()[:5]
    assert start in {".pdf": [b"%PDF-"], ".svg": [b"<?xml"], ".PNG": [b"\x89PNG\r"]}[suffix]


@pytest.mark.parametrize("name", ["a.xyz", "a"])
def test_unknown_format(tmp_path, name):
    with pytest.raises(UserError, match=r"unknown figure format, expected one of .*\.png"):
        report.save_figure(PLOTS["roc"](*CASES["2 classes"]), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_failed_save_leaves_the_old_file(tmp_path):
    (tmp_path / "a.png").write_text("old")
    figure = PLOTS["roc"](*CASES["2 classes"])
    figure.suptitle("$\\bad$")  # matplotlib cannot draw this
    with pytest.raises(ValueError, match="bad"):
        report.save_figure(figure, tmp_path / "a.png")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.png", "old")]


def test_global_state_is_left_alone(tmp_path):
    before = dict(mpl.rcParams)
    report.save_figure(report.plot_learning_curves(history(3)), tmp_path / "a.png")
    assert dict(mpl.rcParams) == before
    code = """
import sys, types
package = types.ModuleType("cvrnet")  # as the package, without importing torch
package.__path__ = [sys.argv[1]]
sys.modules["cvrnet"] = package
import cvrnet.figures
print("matplotlib.pyplot" in sys.modules, "torch" in sys.modules)
"""
    folder = Path(report.__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", code, folder], text=True) == "False False\n"


def test_a_dark_style_of_the_user_does_not_hide_anything():
    with mpl.rc_context({"text.color": "white", "axes.labelcolor": "white", "axes.facecolor": "black"}):
        figure = PLOTS["confusion"](*CASES["2 classes"], TITLE)
        roc = PLOTS["roc"](*CASES["2 classes"], TITLE)
    for text, _ in [*shown_texts(figure), *shown_texts(roc)]:
        assert contrast(text.get_color(), "white") >= 4.5
    assert to_rgb(roc.axes[0].get_facecolor()) == (1, 1, 1)
