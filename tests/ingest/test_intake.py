"""Which rejections a person gets to see."""

from ingest.intake import QUIET_MS, SAMPLE_CHARACTERS, RejectionSampler
from ingest.parser import Rejection


def bad(kind: str = "bad_price", frame: bytes = b'{"p":"abc"}') -> Rejection:
    return Rejection(kind, "not a plain decimal", frame)


def test_the_first_of_each_kind_is_said() -> None:
    sampler = RejectionSampler()
    assert sampler.sentence(bad(), 0.0) == ('rejected a message, bad_price: not a plain decimal: \'{"p":"abc"}\'')
    assert sampler.sentence(bad("bad_qty"), 1.0).startswith("rejected a message, bad_qty: ")


def test_then_one_in_ten_seconds_with_the_number_of_the_others() -> None:
    sampler = RejectionSampler()
    assert sampler.sentence(bad(), 0.0)
    assert [sampler.sentence(bad(), float(each)) for each in range(1, 8)] == [""] * 7
    assert "(and 7 more of this kind since the last one shown)" in sampler.sentence(bad(), QUIET_MS)
    assert sampler.sentence(bad(), QUIET_MS + 1) == ""
    assert "more" not in sampler.sentence(bad("other"), QUIET_MS + 1)


def test_a_clock_that_was_set_back_does_not_silence_it() -> None:
    sampler = RejectionSampler()
    assert sampler.sentence(bad(), 1e9)
    assert sampler.sentence(bad(), 0.0)


def test_samples_are_short_and_harmless() -> None:
    sentence = RejectionSampler().sentence(bad(frame=b"\x1b[31m\n\xff\x00" * 10_000), 0.0)
    assert len(sentence) < SAMPLE_CHARACTERS + 100
    assert sentence.isprintable()
