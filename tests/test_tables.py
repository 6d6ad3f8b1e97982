import tables


def test_an_estimate_has_no_minus_before_a_zero_and_no_interval_of_one_video():
    def text(mean, bounds, decimals):
        return tables.estimate_text({"mean": mean, "confidence_95": bounds}, decimals)

    assert text(-0.001, [-0.2, 0.004], 2) == "0.00 [-0.20, 0.00]"
    assert text(1.26, None, 1) == "1.3"
    assert text(None, None, 1) == "undefined"


def test_a_table_is_aligned():
    assert tables.markdown([["", "a"], ["long", "b"]]) == (
        "|      | a |\n| ---- | - |\n| long | b |\n")
