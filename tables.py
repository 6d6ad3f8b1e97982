"""Numbers and words in tables: Markdown for files and terminals."""


def estimate_text(estimate, decimals):
    """A mean and its interval: "2.30 [1.95, 2.66]". One video has no interval.

    estimate: from intervals.estimate. Without a mean the text is "undefined".
    """
    if estimate["mean"] is None:
        return "undefined"
    numbers = [estimate["mean"], *(estimate["confidence_95"] or [])]
    mean, *bounds = (f"{round(number, decimals) + 0.0:.{decimals}f}" for number in numbers)  # No "-0.0".
    return f"{mean} [{', '.join(bounds)}]" if bounds else mean


def markdown(lines):
    """Rows of words as a Markdown table. The first row holds the heads."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in lines)
