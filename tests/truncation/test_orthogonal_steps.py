"""Steps that are orthogonal matrices: what a cut of several levels is taught with."""

import copy
from unittest import mock

import pytest
import torch
from toys import Plain, assessment, image

from weightscope.cost import count_costs
from weightscope.graph import read_structure
from weightscope.truncation import course, propose, whole
from weightscope.truncation.steps import SCALE, Orthogonal


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (40, 5), (1, 12)])
def test_a_step_of_a_weight_has_singular_values_near_one(shape):
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = Orthogonal([weight], lr=0.5)
    weight.grad = torch.randn(shape)
    optimizer.step()
    matrix = weight.detach().flatten(1)
    lengths = torch.linalg.svdvals(matrix) / (0.5 * SCALE * max(matrix.shape) ** 0.5)
    assert 0.6 < float(lengths.min()) <= float(lengths.max()) < 1.3


def test_vectors_take_the_steps_of_adam():
    gradient = torch.randn(5, generator=torch.Generator().manual_seed(1))
    ends = []
    for kind in (torch.optim.Adam, Orthogonal):
        bias, weight = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(2, 2))
        optimizer = kind([weight, bias], lr=0.1)
        for _ in range(3):
            bias.grad, weight.grad = gradient.clone(), torch.ones(2, 2)
            optimizer.step()
        ends.append(bias.detach())
    assert torch.allclose(*ends, rtol=1e-6)


def test_a_recovery_that_is_read_again_goes_on_with_the_same_momentum():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (4,))]
    whole = Orthogonal(weights, lr=0.1)

    def walk(optimizer, number):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.full_like(parameter, number)
            parameter.grad.flatten()[0] = 1.0
        optimizer.step()

    walk(whole, 2.0)
    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    again = Orthogonal(copies)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    walk(whole, 3.0)
    walk(again, 3.0)
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))


@pytest.fixture(scope="module")
def proposed():
    """A structure and its proposals; a recovery leaves both as they are."""
    model = Plain().eval()
    structure = read_structure(model, image(2, 1, 32, 32))
    return structure, propose(structure, assessment(), count_costs(model, structure.inputs))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("keep", "thin", "kind"), [
    (1, False, Orthogonal), (2, False, torch.optim.Adam), (1, True, Orthogonal),
    (2, True, Orthogonal), (3, True, Orthogonal),
])  # fmt: skip
def test_all_but_one_removed_level_alone_is_recovered_with_them(proposed, keep, thin, kind):
    structure, found = proposed
    cut = [p for p in found if p.keep_levels == keep]
    variant = cut[0].build() if cut else whole(structure)
    variant = variant.thin(0.7) if thin else variant
    taken = []

    class Watched(course.Course):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            taken.append(type(self.optimizer))

    with mock.patch("weightscope.truncation.recovery.Course", Watched):
        variant.recover(torch.randn(8, 1, 32, 32), steps=1, progress=False)
    assert taken == [kind]
