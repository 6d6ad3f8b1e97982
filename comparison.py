"""The tables of plot.py: the means of every curve, and by how much each is better than the first."""

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
        text += (f"\nBy how much each is better than {labels[0]}, on the same videos. Two differ where "
                 f"the 95% interval of their paired difference excludes 0.\n\n{markdown(compared)}")
    for name in METRICS:
        found = {curve.conventions[name] for curve in curves if name in curve.conventions}
        if len(found) > 1:
            text += f"{METRICS[name].label} is of {len(found)} conventions here, which do not compare.\n"
    return text


def all_rows(curves, labels, spans=()):
    """Yields the rows of both tables as one table, with the labels as its first row."""
    yield ["", *labels]
    yield from table_rows(curves, spans)
    for name, *cells in difference_rows(curves, labels, spans)[1:]:
        yield [f"{name}, better than {labels[0]} by", "", *cells]


def table_rows(curves, spans=()):
    """Yields the rows of the table: a name, then a cell a curve, empty where it has no such thing.

    spans: predicted frames (first, last) whose means have rows, too.
    """
    shapes = [next(iter(curve.scores.values())).shape if curve.scores else None for curve in curves]
    if any(len(curve.results) > 1 for curve in curves):
        yield ["Seeds", *(str(len(curve.results)) for curve in curves)]
    if any(shapes):
        for axis, name in enumerate(["Examples", "Samples of each", "Frames predicted"]):
            yield [name, *(str(shape[axis]) if shape else "" for shape in shapes)]
        yield ["Frames of context", *(str(curve.context or "") for curve in curves)]
    several = sorted({shape[1] for shape in shapes if shape and shape[1] > 1})
    for name, metric in METRICS.items():
        having = [name in curve.scores for curve in curves]
        if not any(having):
            continue

        def row(words, values, metric=metric):
            return [f"{metric.heading}, {words}", *(
                "" if value is None else estimate_text(
                    estimate(defined_mean(value, -1), limits=metric.limits), metric.decimals)
                for value in values)]

        yield row("mean", [curve.of(name) if has else None
                           for curve, has in zip(curves, having, strict=True)])
        if any(has and len(curve.results) > 1 for curve, has in zip(curves, having, strict=True)):
            yield [f"{metric.heading}, mean of each seed", *(
                seeds_text(curve.of(name), metric.decimals) if has else ""
                for curve, has in zip(curves, having, strict=True))]
        for first, last in spans:
            yield row(f"frames +{first} to +{last}", [
                curve.of(name)[..., first - 1:last] if has and shape[2] >= last else None
                for curve, has, shape in zip(curves, having, shapes, strict=True)])
        for samples in several:
            yield row(f"best of {samples}", [
                curve.of(name, best=True) if has and shape[1] == samples else None
                for curve, has, shape in zip(curves, having, shapes, strict=True)])
        for predictor, words in TRIVIAL.items():
            found = [curve.trivial.get(name, {}).get(predictor) for curve in curves]
            if any(values is not None for values in found):
                yield row(words, found)
    if any(curve.fvd for curve in curves):
        yield ["FVD ↓ (videos, frames of each)", *(map(fvd_text, curves))]
    for level in range(max(curve.settings["levels"] for curve in curves)):
        row = [kl_text(curve, f"avg_kl_prior_posterior__level_{level}") for curve in curves]
        if any(row):
            yield [f"KL of level {level} in validation (nats per frame)", *row]
    if any(curve.training for curve in curves):
        yield ["Steps trained", *(str(curve.training[-1]["step"]) if curve.training else ""
                                  for curve in curves)]


def seeds_text(values, decimals):
    """The means of every seed's scores [R, N, T]."""
    means = defined_mean(defined_mean(values, -1), -1)
    return ", ".join(f"{mean:.{decimals}f}" for mean in means)


def difference_rows(curves, labels, spans=()):
    """Rows of by how much the other curves are better than the first, metric by metric.

    Two curves are compared on the same videos after the same context alone. They differ where the
    interval of their paired difference excludes 0, and the cell says so.
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
    """By how much a curve is better than the first over some frames; "" where their videos differ."""
    one, other = (each.of(metric.name)[..., part] for each in (curve, first))
    if one.shape[1:] != other.shape[1:] or not one.size:
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
    """The FVD of every seed, and of how many videos and frames."""
    if not all(result.fvd for result in curve.results):
        return ""
    distances = ", ".join(f"{result.fvd['fvd']:.1f}" for result in curve.results)
    return "{} ({fvd_num_videos}, {fvd_num_frames})".format(distances, **curve.fvd)
