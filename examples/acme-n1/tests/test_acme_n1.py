"""The Acme N1 is found where anychip looks for chips, and its spec and box read strictly."""

from anychip.core import discover


def test_the_chip_is_found_by_its_entry_point():
    chip = discover().chip("acme-n1")
    assert chip.spec.vendor == "Acme"
    assert chip.spec.main_memory.name == "hbm"
    assert set(chip.targets) == {"twin"}


def test_the_box_comes_with_the_chip():
    (box,) = discover().systems("acme-n1")
    assert box.name == "acme-n1-box"
    assert box.counts == (1, 2, 4, 8)
