"""The tables of plot.py: the means of every curve, and how much better each is than the first one."""

from evaluations import comparable
from intervals import defined_mean, estimate
from metrics import METRICS, TRIVIAL
from tables import estimate_text, markdown


def table(curves, labels, spans=()):
    """The means over frames, samples and examples, with their intervals, as Markdown."""
    text = markdown([["", *labels], *table_rows(curves, spans)])
    if any(curve.scores for curve in curves):
        over = "the seeds and the examples" if any(
            len(curve.results) > 1 for curve in curves) else "the examples"
        text += (f"\nMeans over the predicted frames and {over}; in brackets the 95% "
                 f"interval over {over}.\nThe best sample of an example is the one with the best "
                 f"mean over time, chosen for each metric.\n")
    compared = difference_rows(curves, labels, spans)
    if len(compared) > 1:
        text += (f"\nHow much better each is than {labels[0]}, on the same videos. Two differ if the "
                 f"95% interval of their paired difference excludes 0.\n\n{markdown(compared)}")
    for name in METRICS:
        found = {curve.conventions[name] for curve in curves if name in curve.conventions}
        if len(found) > 1:
            text += f"{METRICS[name].label} has {len(found)} conventions here, which do not compare.\n"
    return text


def all_rows(curves, labels, spans=()):
    """Yields the rows of both tables as one table, with the labels as its first row."""
    yield ["", *labels]
    yield from table_rows(curves, spans)
    for name, *cells in difference_rows(curves, labels, spans)[1:]:
        yield [f"{name}, better than {labels[0]} by", "", *cells]


def table_rows(curves, spans=()):
    """Yields the rows of the table: a name, then a cell for each curve, empty if it has no such value.

    spans: pairs (first, last) of predicted frames, whose means get rows of their own.
    """
    shapes = [next(iter(curve.scores.values())).shape if curve.scores else None for curve in curves]
    if any(len(curve.results) > 1 for curve in curves):
        yield ["Seeds", *(str(len(curve.results)) for curve in curves)]
    if any(shapes):
        for axis, name in enumerate(["Examples", "Samples of each", "Frames predicted"]):
            yield [name, *(str(shape[axis]) if shape else "" for shape in shapes)]
        yield ["Frames of context", *(str(curve.context or "") for curve in curves)]
    for name, metric in METRICS.items():
        if any(name in curve.scores for curve in curves):
            yield from metric_rows(metric, curves, spans)
    if any(curve.fvd for curve in curves):
        yield ["FVD ↓ (videos, frames of each)", *(map(fvd_text, curves))]
    for level in range(max(curve.settings["levels"] for curve in curves)):
        row = [kl_text(curve, f"avg_kl_prior_posterior__level_{level}") for curve in curves]
        if any(row):
            yield [f"KL of level {level} in validation (nats per frame)", *row]
    if any(curve.training for curve in curves):
        yield ["Steps trained", *(str(curve.training[-1]["step"]) if curve.training else ""
                                  for curve in curves)]


def metric_rows(metric, curves, spans):
    """Yields the rows of a metric: means over frames and spans, best samples, trivial predictors."""
    scores = [curve.of(metric.name) if metric.name in curve.scores else None for curve in curves]

    def row(words, values):
        return [f"{metric.heading}, {words}", *(
            "" if value is None else estimate_text(
                estimate(defined_mean(value, -1), limits=metric.limits), metric.decimals)
            for value in values)]

    yield row("mean", scores)
    if any(value is not None and len(value) > 1 for value in scores):
        yield [f"{metric.heading}, mean of each seed", *(
            "" if value is None else seeds_text(value, metric.decimals) for value in scores)]
    for first, last in spans:
        yield row(f"frames +{first} to +{last}", [
            value[..., first - 1:last] if value is not None and value.shape[-1] >= last else None
            for value in scores])
    drawn = [curve.scores[metric.name].shape[1] if metric.name in curve.scores else 1
             for curve in curves]
    for samples in sorted({count for count in drawn if count > 1}):
        yield row(f"best of {samples}", [curve.of(metric.name, best=True) if count == samples else None
                                         for curve, count in zip(curves, drawn, strict=True)])
    for predictor, words in TRIVIAL.items():
        found = [curve.trivial.get(metric.name, {}).get(predictor) for curve in curves]
        if any(values is not None for values in found):
            yield row(words, found)


def seeds_text(values, decimals):
    """The means of every seed's scores [R, N, T]."""
    means = defined_mean(defined_mean(values, -1), -1)
    return ", ".join(f"{mean:.{decimals}f}" for mean in means)


def difference_rows(curves, labels, spans=()):
    """Rows that tell how much better the other curves are than the first, metric by metric.

    Two curves compare only on the same videos after the same context. They differ if the interval of
    their paired difference excludes 0, and the cell says so.
    """
    rows = [["", *labels[1:]]]
    parts = {"mean": slice(None)} | {
        f"frames +{first} to +{last}": slice(first - 1, last) for first, last in spans}
    for name, metric in METRICS.items():
        together = next((group for group in comparable(curves, name) if 0 in group), [])
        for words, part in parts.items():
            cells = [difference_text(metric, curves[index], curves[0], part) if index in together else ""
                     for index in range(1, len(curves))]
            if any(cells):
                rows.append([f"{metric.heading}, {words}", *cells])
    return rows


def difference_text(metric, curve, first, part):
    """How much better a curve is than the first one over some frames; "" if their videos differ."""
    one, other = (each.of(metric.name)[..., part] for each in (curve, first))
    cut = part.stop is not None and curve.of(metric.name).shape[-1] < part.stop
    if one.shape[1:] != other.shape[1:] or not one.size or cut:
        return ""
    pair = [defined_mean(values, -1) for values in (one, other)]
    if metric.better == "lower":
        pair.reverse()
    found = estimate(*pair, limits=metric.limits)
    bounds = found["confidence_95"]
    differs = bounds and (bounds[0] > 0 or bounds[1] < 0)
    return estimate_text(found, metric.decimals) + (", differs" if differs else "")


def kl_text(curve, name):
    """A level's KL at the last validation of every seed."""
    logged = [[line[name] for line in result.training if line["split"] == "val" and name in line]
              for result in curve.results]
    return ", ".join(f"{values[-1]:.2f}" for values in logged if values)


def fvd_text(curve):
    """The FVD of every seed, and the numbers of videos and frames."""
    if not all(result.fvd for result in curve.results):
        return ""
    distances = ", ".join(f"{result.fvd['fvd']:.1f}" for result in curve.results)
    return "{} ({fvd_num_videos}, {fvd_num_frames})".format(distances, **curve.fvd)
