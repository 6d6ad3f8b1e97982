"""Numbers and words in tables: Markdown for files and terminals."""


def estimate_text(estimate, decimals):
    """A mean and its interval: "2.30 [1.95, 2.66]"; the mean alone where there is one video.

    estimate: as of intervals.estimate. Where the metric is undefined throughout, "undefined".
    """
    if estimate["mean"] is None:
        return "undefined"
    numbers = [estimate["mean"], *(estimate["confidence_95"] or [])]
    mean, *bounds = (f"{round(number, decimals) + 0.0:.{decimals}f}" for number in numbers)  # No "-0.0".
    return f"{mean} [{', '.join(bounds)}]" if bounds else mean


def markdown(lines):
    """Rows of words, the first of which are heads, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in lines)
