"""The readable part of a job's evidence: one HTML page that prints well, with nothing loaded from anywhere.

Headings follow ISO/IEC 24029-2 on formal methods for the robustness of neural networks: domain, criterion, method, real
against computer arithmetic; then confidence, results and limits.
"""

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from ._charts import Point, step_chart
from .rounding import rounded_down_text
from .types import CertificateRecord, Job, JobSummary, Model

STYLE = """
:root { color-scheme: light; } body { font: 11pt/1.5 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0
1rem;
color: #1a1a1a; background: #fff; } h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin-top:
2rem;
border-bottom: 1px solid #999; } table { border-collapse: collapse; width: 100%; font: 9.5pt/1.4 sans-serif; }
th, td { text-align: left; padding: .2rem .5rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } code { font-size: 8.5pt; overflow-wrap:
anywhere; }
.formula { margin: .8rem 2rem; } figure { margin: 1.5rem 0; break-inside: avoid; } figcaption { font-size: 9.5pt; }
svg { width: 100%; height: auto; font-family: sans-serif; } .grid { stroke: #ddd; } .tick { font-size: 11px;
text-anchor: middle; fill: #333; } .name { font-size: 12px; text-anchor: middle; fill: #1a1a1a; }
.line { fill: none; stroke: #1b4f8a; stroke-width: 2; } .band { fill: #1b4f8a; fill-opacity: .15; }
@page { margin: 18mm; } @media print { body { margin: 0; max-width: none; font-size: 10pt; }
h2 { break-after: avoid; } table, figure { break-inside: auto; } tr { break-inside: avoid; } }
"""

ROWS = 12
"""Radii in the table of certified accuracy. Chosen: fits a page; the curve has all of them."""


def report_html(
    job: Job, summary: JobSummary, model: Model, records: Sequence[CertificateRecord], manifest: dict[str, Any]
) -> str:
    """The page.

    Args:
        job, summary, model: as the service answers about them.
        records: the images that have a certificate or an abstention, at least one.
        manifest: digests, versions and who signed.
    """
    first = records[0]
    parts = [
        f"<h1>Evidence of robustness: {escape(model.name)} on {summary.images:,} images</h1>",
        _headline(summary, records),
        _section("Domain", _domain(job, model, records)),
        _section("Criterion", _criterion(first)),
        _section("Method", _method(first, records)),
        _section("Real against computer arithmetic", _arithmetic(first)),
        _section("Confidence", _confidence(summary, first)),
        _section("Results", _results(summary, records)),
        _section("Limits", LIMITS),
        _section("Digests and versions", _digests(manifest)),
    ]
    title = escape(f"Evidence of {job.id}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n'


def _section(name: str, content: str) -> str:
    return f"<h2>{name}</h2>\n{content}"


def _headline(summary: JobSummary, records: Sequence[CertificateRecord]) -> str:
    certified = sum(not record.abstained for record in records)
    sentence = f"{certified:,} of {summary.images:,} images have a certified radius, {summary.abstained:,} abstain"
    if summary.incorrect:
        sentence += f" ({summary.incorrect:,} of them stopped because another class than the true one was chosen)"
    failed = f", and {summary.errored:,} could not be certified" if summary.errored else ""
    return f"<p>{sentence}{failed}. {escape(summary.statement or '')}</p>"


def _domain(job: Job, model: Model, records: Sequence[CertificateRecord]) -> str:
    stated = job.input.model_dump(exclude_none=True)
    where = escape(", ".join(f"{name} {value}" for name, value in stated.items()))
    channels, height, width = model.input_shape
    notes = Counter(record.preprocessing.note for record in records if record.preprocessing)
    done = sum(record.preprocessing is not None for record in records)
    changed = (
        f"<p>{done:,} of the pictures were changed before the network got them; the field <code>preprocessing</code> "
        f"of each certificate says how. {_note(notes)}</p>"
        if done
        else "<p>The network got every picture as it was decoded.</p>"
    )
    return (
        f"<p>Images of the input <code>{where}</code>, SHA-256 "
        f"<code>{escape(job.input_sha256 or 'not recorded')}</code>. "
        f"Each is a point <var>x</var> of [0, 1]<sup>{channels} &times; {height} &times; {width}</sup>: the pixels "
        "that the network gets, divided by 255. The domain of each certificate is the open L2 ball around its image, "
        "{ <var>x</var> + <var>&delta;</var> : &#8214;<var>&delta;</var>&#8214;<sub>2</sub> &lt; <var>R</var> }, where "
        f"<var>R</var> is the certified radius.</p>{changed}"
    )


def _note(notes: "Counter[str | None]") -> str:
    said = next((note for note, _ in notes.most_common() if note), None)
    return escape(said) if said else ""


def _criterion(first: CertificateRecord) -> str:
    return (
        "<p>The smoothed classifier <var>g</var> gives the same class for every input in the ball. It answers with the "
        "class that the base network <var>f</var> gives most often under Gaussian noise:</p>"
        '<p class="formula"><var>g</var>(<var>x</var>) = argmax<sub><var>c</var></sub> P( <var>f</var>(<var>x</var> + '
        f"<var>&epsilon;</var>) = <var>c</var> ), &nbsp; <var>&epsilon;</var> ~ N(0, <var>&sigma;</var><sup>2</sup> "
        "I), "
        f"&nbsp; <var>&sigma;</var> = {first.sigma:g}.</p>"
        "<p>The criterion is stability of the answer. Whether the answer is right is another question; it is counted "
        "below where true classes are known.</p>"
    )


def _method(first: CertificateRecord, records: Sequence[CertificateRecord]) -> str:
    bounds = Counter(record.bound for record in records if record.n)
    stopped = (
        "<p>An image whose chosen class is not its true one was stopped there, without other copies: it counts as "
        "wrong, whatever they would have shown.</p>"
        if any(record.stop_reason == "incorrect" for record in records)
        else ""
    )
    used = ", ".join(f"<code>{escape(str(bound))}</code> for {count:,}" for bound, count in bounds.items())
    drawn = sum(record.n + record.n0 for record in records)
    return (
        f"<p>Randomized smoothing (Cohen et al. 2019). {first.n0:,} noisy copies of an image choose a class "
        "<var>c</var>; "
        f"up to {first.n_max:,} others, drawn independently, are counted for it. From the counts follows a lower "
        "confidence bound <var>p</var> on P( <var>f</var>(<var>x</var> + <var>&epsilon;</var>) = <var>c</var> ), and "
        "the "
        'radius, where the bound is above one half:</p><p class="formula"><var>R</var> = <var>&sigma;</var> '
        "&Phi;<sup>&minus;1</sup>(<var>p</var>), &nbsp; rounded down.</p>"
        f"<p>Bounds used: {used}. <code>two_class</code> also bounds the runner-up and adds half of the difference "
        "of the two "
        f"quantiles. {drawn:,} noisy copies were classified in all.</p>{stopped}"
    )


def _arithmetic(first: CertificateRecord) -> str:
    noise = (
        "Noise is drawn as whole steps of the 8-bit grid from a table whose distance from the Gaussian is a stated "
        "number "
        f"(at most {first.noise_error:.3g} in total variation for an image), taken off the bound; so floating point "
        "cannot "
        "leak the image through low bits."
        if first.noise == "grid"
        else "Noise is drawn in floating point, as published; its distance from the Gaussian is not bounded."
    )
    kernels = escape(first.versions.get("kernels", "not recorded"))
    return (
        f"<p>The certified function is the network as it was computed: in <code>{escape(first.precision)}</code>, by "
        "the "
        f"kernels <code>{kernels}</code>. No claim is made about the network in real numbers. {noise} Bounds and "
        "radii are "
        "computed in float64 and rounded down to six digits.</p>"
    )


def _confidence(summary: JobSummary, first: CertificateRecord) -> str:
    joint = escape(summary.statement or "")
    return (
        f"<p>Each certificate by itself is false with probability at most <var>&alpha;</var> = {first.alpha:g} over "
        "the "
        "noise, which was drawn after the image was fixed. An abstention claims nothing.</p>"
        f"<p>For all of them together: {joint}</p>"
        '<p class="formula">P( Bin(<var>m</var>, <var>&alpha;</var>) &gt; <var>k</var> ) &le; <var>&rho;</var>, &nbsp; '
        f"<var>m</var> = {summary.images:,}, <var>k</var> = {summary.max_false or 0:,}, <var>&rho;</var> = "
        f"{summary.rho or first.alpha:g}.</p>"
        f"<p>Intervals of accuracies are exact binomial ones at {summary.confidence:.0%}, each by itself.</p>"
    )


def _results(summary: JobSummary, records: Sequence[CertificateRecord]) -> str:
    radii = sorted((0.0 if record.abstained else record.radius) for record in records)
    top = max([*radii, *(row.radius for row in summary.certified_accuracy if row.value > 0), 1e-6]) * 1.05
    share = [Point(0.0, sum(radius > 0 for radius in radii) / len(radii))]
    share += [Point(radius, (len(radii) - i - 1) / len(radii)) for i, radius in enumerate(radii) if radius > 0]
    parts = [
        _figure(
            step_chart(share, x_name="radius", y_name="share of images", x_top=top),
            "Share of all images with a certified radius above the one on the axis"
            + ("; those that were stopped have none." if summary.incorrect else "."),
        )
    ]
    rows = [row for row in summary.certified_accuracy if row.radius <= top]
    if rows:
        curve = [Point(row.radius, row.value, row.low, row.high) for row in rows]
        parts.insert(
            0,
            _figure(
                step_chart(curve, x_name="radius", y_name="certified accuracy", x_top=top),
                f"Certified accuracy over {summary.labelled:,} images with a true class, and its intervals.",
            ),
        )
        shown = rows[:: max(1, -(-len(rows) // ROWS))]
        cells = "".join(
            f'<tr><td class="n">{row.radius:g}</td><td class="n">{row.value:.1%}</td>'
            f'<td class="n">{row.low:.1%} to {row.high:.1%}</td></tr>'
            for row in shown
        )
        head = '<tr><th class="n">radius</th><th class="n">certified accuracy</th><th class="n">interval</th></tr>'
        parts.append(f"<table>{head}{cells}</table>")
    lower = sorted(record.p_lower for record in records if record.n)
    ecdf = [Point(0.0, 0.0), *(Point(p, (i + 1) / len(lower)) for i, p in enumerate(lower))]
    parts.append(
        _figure(
            step_chart(
                ecdf, x_name="lower bound on the probability of the answer", y_name="share of images", x_top=1.0
            ),
            "Distribution of the lower bounds over images that have one. It says more than an average radius, which "
            "hard images that are given up do not lower.",
        )
    )
    if summary.acr is not None:
        parts.append(f"<p>Average certified radius (ACR): {rounded_down_text(summary.acr, 3)}.</p>")
    if summary.labels:
        parts.append(f"<p>{escape(summary.labels)}</p>")
    return "\n".join(parts)


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


LIMITS = """<ul>
<li>Robustness is not correctness: a certificate says that the answer is stable, not that it is right.</li>
<li>It is about the smoothed classifier at the stated noise level, not about the base network by itself.</li>
<li>It covers changes of the pixels that are small in L2. It says nothing of rotations, other pictures or other
cameras.</li>
<li>The statement is about these images. Nothing follows for images that were not certified, but for the accuracies,
whose
intervals hold for the population that the images are a random sample of.</li>
<li>Whoever signed vouches for the votes. With the model and the images anyone can draw every vote again
(<code>spacte verify --replay</code>).</li>
</ul>"""


def _digests(manifest: dict[str, Any]) -> str:
    rows = {
        "job": manifest["job"],
        "model": f"{manifest['model']['name']}, {manifest['model']['version']}",
        "input, SHA-256": manifest["input_sha256"] or "not recorded",
        "signed by": manifest["keyid"] or "nobody: the service has no signing keys",
        "made": manifest["created_at"],
        **{f"{name}, SHA-256": digest for name, digest in manifest["files"].items()},
        **{f"version of {name}": version for name, version in manifest["versions"].items()},
    }
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(str(v))}</code></td></tr>" for name, v in rows.items()
    )
    return f"<table>{cells}</table>"
