"""Every pattern takes the worst texts that are known for it within a document's limit of processor time."""

import pytest

from data_utils.readers.limits import limit_seconds

patterns = pytest.importorskip("benchmarks.faults_patterns")


@pytest.mark.parametrize("function", patterns.WORST)
def test_the_worst_texts_stay_within_the_limit(function):
    for parts in patterns.WORST[function]:
        with limit_seconds(20):
            function(patterns.make_text(parts, 100_000))
