"""The page of a run: its figures in words and its pictures, which lie beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import jinja2
import numpy as np

from .. import __version__
from ..picture import NOTICE
from ..spec import PluginSpec
from ..wording import without_paths
from .metrics import METRICS, Estimate
from .scores import Results

KINDS = ("ROC curves", "Precision and recall", "Reliability", "Confusion")
DECIDED_BY = {
    "binary": "at the positive class's threshold",
    "multiclass": "for the most probable class",
    "multilabel": "each known label at its threshold",
}
WORDS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score",
    "ece": "Calibration error",
    "accuracy": "Accuracy",
}

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training of {{ spec.name }}</title>
<style>
body { margin: 0 auto; max-width: 1290px; padding: 24px 20px 40px; color: #1d2733; background: #ffffff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 32px 0 6px; }
.faint { color: #566273; }
.notice { padding: 10px 14px; border-left: 4px solid #b93a0b; background: #fff3e6; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0; overflow-wrap: normal; }
th, td { text-align: left; vertical-align: top; padding: 6px 12px 6px 0; border-bottom: 1px solid #d8dee6; }
small { display: block; font-weight: normal; color: #566273; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
th[scope="row"] { min-width: 130px; max-width: 240px; overflow-wrap: break-word; }
img { display: block; max-width: 100%; height: auto; margin: 12px 0; }
</style>
</head>
<body>
<h1>Training of {{ spec.name }}</h1>
<p class="faint">{{ spec.classes | length }} classes on the backbone {{ spec.backbone.id }}, written by AnyMC3D
{{ version }}. Probabilities are at the temperature {{ "%.3f" | format(spec.temperature) }}.</p>
<p class="notice">{{ notice }}</p>
{% if remarks %}
<ul>
{% for remark in remarks %}
<li>{{ remark }}</li>
{% endfor %}
</ul>
{% endif %}
{% for section in sections %}
<h2>Cases of &ldquo;{{ section.split }}&rdquo;</h2>
<p>{{ section.found.cases }} cases of {{ section.found.patients }} patients. In brackets: the 95 % interval from
{{ section.found.resamples }} resamples of the patients. Sensitivity, specificity, balanced accuracy, F1 and accuracy
are of each class against the rest at its threshold.</p>
<div class="wide">
<table>
<tr>
<th scope="col">Class</th>
{% for column in columns %}
<th scope="col">{{ column }}</th>
{% endfor %}
</tr>
{% for name, facts, figures in section.rows %}
<tr>
<th scope="row">{{ name }}<small>{{ facts }}</small></th>
{% for value, interval in figures %}
<td>{{ value }}<small>{{ interval }}</small></td>
{% endfor %}
</tr>
{% endfor %}
</table>
</div>
<p>Of the decisions, {{ decided_by }}: {{ section.overall }}.</p>
{% for note in section.found.notes %}
<p class="faint">{{ note }}</p>
{% endfor %}
{% for kind, path in section.pictures %}
<img src="{{ path }}" alt="{{ kind }} of {{ section.split }}">
{% endfor %}
{% endfor %}
{% if learning %}
<h2>How the training went</h2>
<img src="{{ learning }}" alt="Loss and validation score over the epochs">
{% endif %}
</body>
</html>
"""


def page_of(
    spec: PluginSpec,
    results: Mapping[str, Results],
    *,
    pictures: Mapping[str, Iterable[str]],
    remarks: Sequence[str],
    learning: str,
) -> str:
    """The page as HTML: for each split its results and pictures, paths in the order of `figures.draw_figures`.

    `remarks` are sentences about the run; `learning` is the path of the learning curves, or empty.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections = [
        {
            "split": split,
            "found": found,
            "rows": list(_rows(found)),
            "overall": ", ".join(f"{WORDS[name].lower()} {' '.join(_words(f))}" for name, f in found.overall.items()),
            "pictures": list(zip(KINDS, pictures[split], strict=True)),
        }
        for split, found in results.items()
    ]
    return environment.from_string(TEMPLATE).render(
        spec=spec,
        notice=NOTICE,
        version=__version__,
        remarks=[without_paths(remark) for remark in remarks],
        columns=[WORDS[name] for name in METRICS],
        decided_by=DECIDED_BY[spec.task_type],
        sections=sections,
        learning=learning,
    )


def _rows(found: Results) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Name, what it stands on, and the figures in words: of each class, then of their mean."""
    for c in found.classes:
        facts = f"{c.positives} positive of {c.cases} cases, threshold {c.threshold:.3f}"
        yield c.name, facts, [_words(c.metrics[name]) for name in METRICS]
    if len(found.classes) > 1:
        yield "Mean of the classes", "", [_words(found.macro[name]) for name in METRICS]


def _words(figure: Estimate) -> tuple[str, str]:
    """The figure, and its interval in brackets, where they are known."""
    if not np.isfinite(figure.value):
        return "unknown", ""
    return f"{figure.value:.3f}", f"({figure.low:.3f} to {figure.high:.3f})" if np.isfinite(figure.low) else ""
