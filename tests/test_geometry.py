"""Shapes and plans, with answers typed by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit import geometry

CONV = [  # x, weight, stride, padding, dilation, groups -> output shape
    ((1, 1, 5, 5), (1, 1, 3, 3), 1, 0, 1, 1, (1, 1, 3, 3)),
    ((8, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1, 1, (8, 64, 112, 112)),
    ((2, 6, 10, 7), (4, 3, 3, 2), (3, 2), (1, 0), (2, 1), 2, (2, 4, 3, 3)),
    ((2, 4, 10, 7), (4, 1, 3, 3), 1, "same", 2, 4, (2, 4, 10, 7)),
    ((2, 4, 10, 7), (4, 4, 4, 4), 3, "same", 1, 1, (2, 4, 4, 3)),
    ((2, 4, 10, 7), (4, 4, 4, 4), 1, "valid", 1, 1, (2, 4, 7, 4)),
    ((2, 4, 10, 7), (4, 4, 4, 4), 1, ((3, 0), (0, 1)), 1, 1, (2, 4, 10, 5)),
    ((0, 4, 10), (5, 4, 10), 1, 0, 1, 1, (0, 5, 1)),
    ((2, 4, 3, 4, 5), (5, 4, 3, 3, 3), 1, 1, 1, 1, (2, 5, 3, 4, 5)),
]


@pytest.mark.parametrize(("x", "weight", "stride", "padding", "dilation", "groups", "shape"), CONV)
def test_output_shapes(x, weight, stride, padding, dilation, groups, shape):
    plan = geometry.conv(len(x) - 2, x, weight, stride, padding, dilation, groups)
    assert plan.output_shape == shape


def test_same_puts_the_odd_one_after_and_same_lower_before():
    after = geometry.conv(1, (1, 1, 6), (1, 1, 4), 1, "same", 1, 1)
    before = geometry.conv(1, (1, 1, 6), (1, 1, 4), 1, "same_lower", 1, 1)
    assert (after.before, after.after) == ((1,), (2,))
    assert (before.before, before.after) == ((2,), (1,))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "floor", "ceil"),
    [
        (5, 2, 2, 0, 2, 3),
        (6, 3, 2, 0, 2, 3),
        (6, 2, 3, 1, 3, 3),
        (7, 3, 3, 1, 3, 3),
        (1, 1, 4, 0, 1, 1),
        (4, 2, 2, 0, 2, 2),
    ],
)
def test_ceil_mode_takes_a_last_window_that_begins_inside(size, kernel, stride, padding, floor, ceil):
    for mode, expected in ((False, floor), (True, ceil)):
        plan = geometry.pool("max_pool", 1, (1, 1, size), kernel, stride, padding, 1, mode)
        assert plan.output_size == (expected,)


def test_divisors_count_padding_or_not_but_never_what_hangs_over():
    plan = geometry.pool("avg_pool", 1, (1, 1, 6), 3, 2, 1, 1, True)  # windows at -1, 1, 3, 5 over 0..5, padded -1..6
    assert plan.output_size == (4,)
    assert geometry.pool_divisors(plan, True, None) == ((3, 3, 3, 2),)
    assert geometry.pool_divisors(plan, False, None) == ((2, 3, 3, 1),)
    assert geometry.pool_divisors(plan, True, 7) == ((7, 7, 7, 7),)


def test_divisors_of_dilated_windows_count_their_taps():
    plan = geometry.pool("lp_pool", 1, (1, 1, 8), 3, 3, 1, 2, True)  # taps at -1 1 3, 2 4 6, 5 7 9, the last beyond
    assert plan.output_size == (3,)
    assert geometry.pool_divisors(plan, True, None) == ((3, 3, 2),)
    assert geometry.pool_divisors(plan, False, None) == ((2, 3, 2),)


@given(
    *(st.integers(1, most) for most in (12, 5, 4, 3)), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.booleans()
)
def test_divisors_are_the_taps_of_each_window(size, kernel, stride, dilation, padding, count_include_pad):
    before, after = (min(pad, (dilation * (kernel - 1) + 1) // 2) for pad in padding)
    try:
        plan = geometry.pool("lp_pool", 1, (1, 1, size), kernel, stride, ((before, after),), dilation, True)
    except ValueError:
        return
    counted = range(-before, size + after) if count_include_pad else range(size)
    windows = [[o * stride - before + k * dilation for k in range(kernel)] for o in range(plan.output_size[0])]
    expected = tuple(sum(tap in counted for tap in window) for window in windows)
    assert geometry.pool_divisors(plan, count_include_pad, None) == (expected,)


def test_adaptive_windows_are_rounded_outwards():
    assert geometry.adaptive_windows(5, 3) == ((0, 1, 3), (2, 3, 2))
    assert geometry.adaptive_windows(3, 5) == ((0, 0, 1, 1, 2), (1, 2, 1, 2, 1))
    assert geometry.adaptive_windows(7, 1) == ((0,), (7,))


@given(n=st.integers(1, 30), m=st.integers(1, 30))
def test_the_windows_that_hold_an_element_are_those_of_the_plan_turned_round(n, m):
    plan = geometry.AdaptivePlan(1, 1, (n,), (m,))
    met = [sorted(zip(to, of, strict=True)) for (to,), (of,) in geometry.adaptive_taps(plan)]
    assert all(len({o for o, _ in each}) == len(each) for each in met)
    back = [(o, i) for (to,), (of,) in geometry.adaptive_taps(plan.turned()) for i, o in zip(to, of, strict=True)]
    assert sorted(itertools.chain(*met)) == sorted(back)
    assert {i for _, i in back} == set(range(n))


def test_adaptive_pooling_of_equal_windows_is_ordinary_pooling():
    plan = geometry.adaptive_pool("adaptive_avg_pool", 2, (2, 3, 8, 9), (4, None))
    assert plan == geometry.pool("avg_pool", 2, (2, 3, 8, 9), (2, 1), None, 0, 1, False)
    plan = geometry.adaptive_pool("adaptive_avg_pool", 2, (2, 3, 8, 9), 4)
    assert plan == (2, 3, (8, 9), (4, 4))
    assert geometry.adaptive_divisors(plan) == ((2, 2, 2, 2), (3, 3, 3, 3))
    assert geometry.lift(plan) == (2, 3, (1, 8, 9), (1, 4, 4))


def test_taps_of_a_padded_window():
    plan = geometry.conv(1, (1, 1, 4), (1, 1, 3), 2, 1, 1, 1)  # windows at -1, 1
    every = (slice(None), slice(None))
    assert list(geometry.taps(plan)) == [
        ((0,), (*every, slice(1, 2)), (*every, slice(1, 2, 2))),
        ((1,), (*every, slice(0, 2)), (*every, slice(0, 3, 2))),
        ((2,), (*every, slice(0, 2)), (*every, slice(1, 4, 2))),
    ]


def windows(plan):
    """All (output, tap, input) that meet along the only axis, counted out."""
    for o, k in itertools.product(range(plan.output_size[0]), range(plan.kernel_size[0])):
        i = o * plan.stride[0] - plan.before[0] + k * plan.dilation[0]
        if 0 <= i < plan.input_size[0]:
            yield o, k, i


small = st.integers(1, 5)


@given(
    size=st.integers(1, 12),
    kernel=small,
    stride=small,
    dilation=small,
    before=st.integers(0, 6),
    after=st.integers(0, 6),
)
def test_phases_and_taps_meet_what_windows_meet(size, kernel, stride, dilation, before, after):
    """All ways to go through a convolution hold every meeting of output, tap and input exactly once."""
    if size + before + after < dilation * (kernel - 1) + 1:
        return
    plan = geometry.conv(1, (1, 1, size), (1, 1, kernel), stride, ((before, after),), dilation, 1)
    expected = sorted(windows(plan))
    met = []
    for (k,), to, of in geometry.taps(plan):
        met += [(o, k, i) for o, i in zip(np.arange(plan.output_size[0])[to[2]], np.arange(size)[of[2]], strict=True)]
    assert sorted(met) == expected

    met, reached, zeros = [], [], False
    for phase in geometry.input_gradient(plan):
        inputs = np.arange(size)[phase.of[2]]
        if phase.plan is None:
            assert not reached  # zeros come first, and are everywhere
            zeros = True
        else:
            reached += list(inputs)
            ks = np.arange(kernel)[phase.kernel[2]]
            assert phase.plan.output_size == (len(inputs),)
            met += [(o, ks[k], inputs[q]) for q, k, o in windows(phase.plan)]
    assert len(reached) == len(set(reached))
    assert zeros == (len(reached) < size)
    assert sorted(met) == expected

    met = []
    for one in geometry.sections(plan):
        assert one.plan.before == one.plan.after == (0,)
        axes = (np.arange(plan.output_size[0]), one.of), (np.arange(kernel), one.kernel), (np.arange(size), one.taken)
        outputs, ks, inputs = (numbers[taken[2]] for numbers, taken in axes)
        assert len(inputs) == one.plan.input_size[0]
        met += [(outputs[o], ks[k], inputs[i]) for o, k, i in windows(one.plan)]
    alone = len({o for o, _, _ in expected}) < plan.output_size[0]  # a window that meets nothing
    assert sorted(met) == ([] if alone else expected)


def test_there_are_no_more_phases_than_taps():
    """However long the stride: one phase for each residue would be a million million."""
    plan = geometry.conv(2, (1, 1, 8, 8), (1, 1, 3, 3), 1_000_000, 0, 1, 1)
    assert len(geometry.input_gradient(plan)) == 1 + 9
    plan = geometry.conv(1, (1, 1, 1 << 20), (1, 1, 1 << 12), 1 << 12, 0, 1, 1)
    assert len(geometry.input_gradient(plan)) == 1 << 12


def test_plans_are_plain_and_cached():
    args = (2, (1, 3, 8, 8), (4, 3, 3, 3), (2, 2), "same", 1, 1)
    plan = geometry.conv(*args)
    assert plan is geometry.conv(2, (1, 3, 8, 8), (4, 3, 3, 3), 2, "same", (1, 1), 1)
    assert all(isinstance(field, int | tuple) for field in plan)
    numpy_ints = np.int64(2), "same", np.array([1, 1]).tolist(), np.uint8(1)
    assert plan is geometry.conv(2, (1, 3, 8, 8), (4, 3, 3, 3), *numpy_ints)
    with pytest.raises(AttributeError):
        plan.batch = 2
    with pytest.raises(TypeError, match=r"stride is 2\.0, but an int is needed"):
        geometry.conv(2, (1, 3, 8, 8), (4, 3, 3, 3), (2.0, 2), "same", 1, 1)


def test_plain_ints_are_parsed_once(monkeypatch):
    convolution, pooling = (
        (2, (1, 3, 8, 8), (4, 3, 3, 3), 1, 1, 1, 1),
        ("max_pool", 2, (1, 3, 8, 8), 2, None, 0, 1, False),
    )
    plans = geometry.conv(*convolution), geometry.pool(*pooling)
    monkeypatch.delattr(geometry, "per_axis")
    assert geometry.conv(*convolution) is plans[0]
    assert geometry.pool(*pooling) is plans[1]


@pytest.mark.parametrize("odd", [True, 1.0, (1, True), (True, 1), [1, 1.0]])
@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_what_equals_an_int_that_was_seen_is_still_no_int(name, odd):
    given = {"stride": 1, "padding": 1, "dilation": 1}
    for parameters in (given, given | {name: (1, 1)}):  # now they are known
        geometry.conv(2, (1, 3, 8, 8), (4, 3, 3, 3), **parameters, groups=1)
        geometry.pool("max_pool", 2, (1, 3, 8, 8), 3, **parameters, ceil_mode=False)
    with pytest.raises(TypeError, match=f"{name} is .*, but (an int is needed|needs an int)"):
        geometry.conv(2, (1, 3, 8, 8), (4, 3, 3, 3), **given | {name: odd}, groups=1)
    with pytest.raises(TypeError, match=f"{name} is .*, but (an int is needed|needs an int)"):
        geometry.pool("max_pool", 2, (1, 3, 8, 8), 3, **given | {name: odd}, ceil_mode=False)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
def test_parameters_beyond_all_memory_are_refused(name):
    for value in (geometry.LARGEST + 1, 1 << 63, 1 << 70):
        given = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, name: value}
        with pytest.raises(ValueError, match=f"{name} is {value}, but must be at most {geometry.LARGEST}"):
            geometry.conv(2, (1, 3, 8, 8), (4, 3, 3, 3), **given)


def test_lifting_puts_axes_in_front():
    plan = geometry.lift(geometry.conv(1, (1, 3, 8), (4, 3, 3), 2, 1, 1, 1))
    assert plan.input_size == (1, 1, 8)
    assert plan.kernel_size == (1, 1, 3)
    assert plan.before == (0, 0, 1)
    assert plan.output_size == (1, 1, 4)


@pytest.mark.parametrize(("axis", "ndim", "expected"), [(0, 1, 0), (-1, 3, 2), (2, 3, 2), (-3, 3, 0)])
def test_axes_count_from_both_ends(axis, ndim, expected):
    assert geometry.axis(axis, ndim) == expected


@pytest.mark.parametrize(
    ("solved", "expected"),
    [
        (lambda: geometry.batch_norm((5, 7), True), (5, 7, 1, 1)),
        (lambda: geometry.batch_norm((2, 3, 4, 5), False), (2, 3, 1, 20)),
        (lambda: geometry.batch_norm((0, 3, 4), False), (0, 3, 1, 4)),
        (lambda: geometry.group_norm((2, 6, 4, 5), 2), (2, 2, 3, 20)),
        (lambda: geometry.group_norm((2, 6), 6), (2, 6, 1, 1)),
        (lambda: geometry.layer_norm((2, 3, 4, 5), (4, 5)), (6, 1, 20, 1)),
        (lambda: geometry.layer_norm((5,), (5,)), (1, 1, 5, 1)),
    ],
)
def test_normalisation_sees_images_groups_channels_and_pixels(solved, expected):
    assert solved() == expected


def test_windows_as_what_they_hold():
    plan = geometry.pool("max_pool", 1, (1, 1, 7), 3, 2, 1, 1, False)
    assert geometry.windows(plan) == (((0, 1, 3, 5), (2, 3, 3, 2)),)
    assert geometry.held_by(plan) == (((0, 0, 1, 1, 2, 2, 3), (1, 2, 1, 2, 1, 2, 1)),)
    dilated = geometry.pool("max_pool", 1, (1, 1, 7), 3, 1, 2, 2, False)
    assert geometry.windows(dilated) == (((0, 1, 0, 1, 2, 3, 4), (2, 2, 3, 3, 3, 2, 2)),)
    adaptive = geometry.adaptive_pool("adaptive_avg_pool", 1, (1, 1, 5), 3)
    assert geometry.windows(adaptive) == (((0, 1, 3), (2, 3, 2)),)
    assert geometry.held_by(adaptive) == (((0, 0, 1, 1, 2), (1, 2, 1, 2, 1)),)
