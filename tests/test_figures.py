"""Figures: pure functions of results, the right numbers in them, and the same bytes on every run."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import reporting_results
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from visdyn.reporting import names, summaries
from visdyn.reporting import rendering as outputs
from visdyn.reporting.figures import bootstrapping_figures as figures_bootstrapping
from visdyn.reporting.figures import doundo_figures as figures_doundo
from visdyn.reporting.figures import figure_parts as figure_parts
from visdyn.reporting.figures import schematic as figures_schematic
from visdyn.reporting.figures import style
from visdyn.reporting.results import Results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(reporting_results.write(tmp_path_factory.mktemp("profile")))


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def test_heatmaps_print_the_percentages(results):
    rates = summaries.preference_rates(results.read("probing/likelihoods.csv"))
    figure = figures_bootstrapping.preference_heatmaps(rates)
    printed = texts(figure)
    for rate in rates["percent"]:
        assert f"{rate:.1f}" in printed
    assert len(figure.axes) == 3  # two tasks and the colour bar


def test_plotting_leaves_its_input_alone(results):
    pairs = summaries.preference_pairs(results.read("idm_evaluation/likelihoods.csv"))
    before = pairs.copy()
    figure = figures_bootstrapping.likelihood_scatter(pairs, "idm")
    pd.testing.assert_frame_equal(pairs, before)
    kind = pairs[(pairs["model"] == "idm") & (pairs["task"] == "idp") & (pairs["kind"] == "random_action")]
    share = 100 * (kind["reference"] > kind["negative"]).mean()
    assert f"Rand. Act.: {share:.1f} % of {len(kind)}" in texts(figure)


def test_verification_has_a_row_for_each_arm_and_a_panel_for_each_subset_and_the_average():
    table = reporting_results.candidates(np.random.default_rng(0))
    both = pd.concat([table, table.assign(arm="synthetic_weighted", score=table["score"] / 2)])
    curves = summaries.verification_curves(both)
    lines = {"region judge": {"Copy": {"ag": 0.5, "all": -4.0}}}
    figure = figures_bootstrapping.verification_curves({"region judge": curves}, lines)
    titles = [f"{name} (n = 4)" for name in ("MagicBrush", "AG", "Something", "WhatsUp", "Kubric")]
    assert [axes.get_title() for axes in figure.axes] == [*titles, "Average (n = 20)"] * 2
    for panel, arm in ((5, "supervised"), (11, "synthetic_weighted")):
        own = curves[(curves["arm"] == arm) & (curves["subset"] == "all")]
        for line, selector in zip(figure.axes[panel].get_lines(), names.SELECTORS, strict=False):
            expected = own[own["selector"] == selector].sort_values("k")["value"]
            assert np.allclose(line.get_ydata(), expected)
        bands = (own["value"] - own["spread"].fillna(0), own["value"] + own["spread"].fillna(0))
        low, high = figure.axes[panel].get_ylim()
        assert low < bands[0].min() <= bands[1].max() < high  # the average's curves fill its own axis
        assert high - low < 1.5 * (bands[1].max() - bands[0].min())
        assert "↓ Copy -4.0" in [text.get_text() for text in figure.axes[panel].texts]
    subsets = figure.axes[:5]
    assert len({axes.get_ylim() for axes in subsets}) == 1
    for axes, known in zip(subsets, (False, True, False, False, False), strict=True):
        low, high = axes.get_ylim()
        drawn = any(line.get_ydata() == [0.5, 0.5] for line in axes.get_lines() if len(line.get_ydata()) == 2)
        named = any("Copy" in text.get_text() for text in axes.texts)
        assert named is known  # no score of Copy is known elsewhere
        assert drawn == (known and low <= 0.5 <= high)


def test_series_differ_by_more_than_colour():
    styles = [style.line_style(place) for place in range(4)]
    for key in ("color", "marker", "dashes"):
        assert len({str(entry[key]) for entry in styles}) == 4
    assert len({style.bar_style(place)["hatch"] for place in range(4)}) == 4


def test_strips_refuse_columns_of_different_length():
    image = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="equal number"):
        figure_parts.image_strips({"source": image, "target": image[:1]})


def test_strips_order_columns_and_limit_rows():
    image = np.zeros((9, 8, 8, 3), np.uint8)
    arrays = dict.fromkeys(("doundo_forward", "source", "base_reverse", "target", "base_forward"), image)
    figure = figure_parts.image_strips(arrays, max_rows=2)
    assert len(figure.axes) == 10
    heads = ["Input", "Ground truth", "Bagel (base)\ndone", "Bagel (base)\nundone", "Do-Undo\ndone"]
    assert [axes.get_title() for axes in figure.axes] == [
        *heads,
        *[""] * 5,
    ]  # above the first row, where one reads them


def test_rows_run_from_the_best_to_the_worst_where_scores_are_known():
    arrays = {"source": np.zeros((5, 8, 8, 3), np.uint8)}
    assert list(figure_parts.choose_rows(arrays, 3)) == [0, 2, 4]
    assert list(figure_parts.choose_rows(arrays, 9)) == [0, 1, 2, 3, 4]
    arrays["synthetic_weighted_text"] = np.array(
        ["score 1.0 ✗", "score 10.0 ✓", "score 0.0 ✗", "score 9.5", "score 3 ✗"]
    )
    assert list(figure_parts.choose_rows(arrays, 3)) == [1, 4, 2]
    assert list(figure_parts.choose_rows(arrays, 5)) == [1, 3, 4, 0, 2]
    arrays["synthetic_weighted_text"][0] = ""  # an unknown score has no rank
    assert list(figure_parts.choose_rows(arrays, 3)) == [0, 2, 4]


def test_flow_maps_stand_behind_the_images_and_long_texts_have_a_line_each():
    image = np.zeros((2, 8, 8, 3), np.uint8)
    white, name = np.full_like(image, 255), "doundo_c_0.6"
    arrays = {"source": image, f"{name}_epe": white, f"{name}_of_f": white, f"{name}_reverse": image}
    arrays[f"{name}_forward"] = image
    arrays[f"{name}_forward_text"] = np.array(["DINO-F 0.9, CLIP-T-F 0.5, OF-F 0.2", "ES 9, ME 8"])
    axes = figure_parts.image_strips(arrays).axes
    heads = [one.get_title().splitlines()[-1] for one in axes[:5]]
    assert heads == ["Input", "done", "undone", "flow OF-F", "flow error EPE"]
    assert axes[1].get_title().startswith("Do-Undo(c), weight\n0.6")
    assert axes[1].get_xlabel() == "DINO-F 0.9\nCLIP-T-F 0.5\nOF-F 0.2"
    assert axes[6].get_xlabel() == "ES 9, ME 8"
    assert [one.spines["left"].get_visible() for one in axes[:5]] == [False, False, False, True, True]


def test_other_plots_draw(results):
    segments = results.read("mining/segments.csv")
    figures_doundo.action_counts(segments, "kitchen-train")
    figures_doundo.benchmark_set(segments, results.read("mining/prompts.csv"))
    figures_doundo.verb_noun_heatmap(segments, "kitchen-test", most=3)
    curves = figure_parts.training_curves(results.read("doundo/training.csv"), "variant", ("loss", "consistency"))
    assert [axes.get_ylabel() for axes in curves.axes] == ["loss", "consistency"]


def test_text_on_heatmaps_keeps_its_contrast():
    def luminance(colour):
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    figure = Figure()
    axes = figure.subplots()
    values = pd.DataFrame([np.linspace(0, 1, 41)])
    style.heatmap(axes, values, "{:.3f}", 0, 1)
    for text in axes.texts:
        cell = luminance(matplotlib.colormaps[style.HEATMAP](float(text.get_text())))
        ink = 1.0 if text.get_color() == "white" else 0.0
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 4.3, text.get_text()


def test_each_source_of_segments_has_its_own_panel(results):
    both = pd.concat([results.read("mining/segments.csv"), results.read("external/segments.csv")])
    sources = ("kitchen-train", "epic-100-validation")
    counts = figures_doundo.action_counts(both, *sources)
    assert len(counts.axes) == 4
    assert "reversible segments (n = 100)" in texts(counts)
    assert "60%" in texts(counts)
    joint = figures_doundo.verb_noun_heatmap(both, *sources)
    assert [axes.get_title() for axes in joint.axes[:2]][1] == "EPIC-100, validation: 2 of 2 verbs, 3 of 3 nouns"
    benchmark = figures_doundo.benchmark_set(both, results.read("mining/prompts.csv"), sources)
    assert [axes.get_title(loc="left") for axes in benchmark.axes][:2] == ["kitchen, training", "EPIC-100, validation"]


@pytest.mark.parametrize("name", outputs.SCHEMATICS)
def test_schematics_say_that_they_are_ours_and_keep_text_in_boxes(name):
    figure = outputs.SCHEMATICS[name]()
    figure.draw_without_rendering()
    assert figures_schematic.MARK in texts(figure)
    axes = figure.axes[0]
    edges = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    for text in axes.texts:
        inside = text.get_window_extent()
        hit = [box for box in edges if box.overlaps(inside)]
        assert len(hit) <= 1, text.get_text()
        assert all(box.x0 <= inside.x0 and inside.x1 <= box.x1 for box in hit), text.get_text()


def test_save_writes_png_pdf_and_hashes_without_dates(results, tmp_path):
    source = results.path("annotation/pairs.csv")
    figure = figures_bootstrapping.score_distributions(results.read("annotation/pairs.csv"))
    png, pdf, sidecar = style.save(figure, "b_figure9", tmp_path, [source], results.profile)
    assert list(reporting_results.read_sidecar(sidecar)) == ["reports/results/annotation/pairs.csv"]
    assert "Software" not in Image.open(png).info
    assert not any(word in pdf.read_bytes() for word in (b"CreationDate", b"Producer", b"Matplotlib"))


def test_two_processes_write_the_same_bytes(tmp_path):
    code = (
        "import sys, numpy as np, pandas as pd\n"
        "from visdyn.reporting.figures import figure_parts, style\n"
        "steps = pd.DataFrame({'arm': 'supervised', 'chain': 0, 'step': range(9), 'loss': np.linspace(2, 1, 9)})\n"
        "style.save(figure_parts.training_curves(steps, 'arm'), 'x', sys.argv[1])\n"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    for suffix in ("png", "pdf", "json"):
        assert (tmp_path / "one" / f"x.{suffix}").read_bytes() == (tmp_path / "two" / f"x.{suffix}").read_bytes()
