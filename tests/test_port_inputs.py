"""Other inputs than the reference's are other preprocessing, unless rounding explains them."""

import numpy as np
import pytest

from npu_parity.verdict.port_inputs import INPUTS, differences

OWN = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
ROUNDING = np.abs(OWN).max() * np.finfo(np.float32).eps
WRONG = "preprocessing is not the same"


def test_the_same_inputs():
    assert differences(OWN, OWN.copy()) == ([], [])
    assert differences((OWN, OWN), (OWN, np.asfortranarray(OWN))) == ([], [])


@pytest.mark.parametrize(("roundings", "allowed"), [(0.9 * INPUTS, True), (1.1 * INPUTS, False)])
def test_a_few_roundings_are_a_note(roundings, allowed):
    theirs = OWN.astype(np.float64)
    theirs[1, 2, 3, 0] -= roundings * ROUNDING
    wrong, notes = differences(OWN, theirs)
    assert (len(wrong), len(notes)) == ((0, 1) if allowed else (1, 0))
    text = f"inputs differ by up to {roundings * ROUNDING:.3g}"
    assert (notes or wrong)[0].startswith(text)
    assert (notes or wrong)[0].endswith("as rounding makes them" if allowed else WRONG)


def test_other_channels_in_one_of_two_arrays():
    wrong, notes = differences((OWN, OWN), (OWN, OWN[:, ::-1]))
    assert len(wrong) == 1 and wrong[0].endswith(WRONG) and notes == []


def test_the_imaginary_part_counts():
    own = OWN + 1j * OWN[::-1]
    assert differences(own, own.conj())[0][0].endswith(WRONG)
    assert differences(own, own * (1 + 2**-24 * 1j))[0] == []


def test_other_shapes_and_numbers_of_arrays():
    assert differences(OWN, OWN[:, :, :3]) == (
        ["inputs have shape (2, 3, 3, 4) where the reference has (2, 3, 4, 4)"],
        [],
    )
    assert differences((OWN, OWN), OWN) == (
        ["1 input tensors where the reference has 2"],
        [],
    )
