"""Recurrent layers between an encoder and a decoder: one operator each, at any length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.cost import count_costs
from weightscope.errors import StructureError
from weightscope.graph import read_structure, rebuild
from weightscope.receptive_field import receptive_fields
from weightscope.statistics import measure_model
from weightscope.truncation import propose
from weightscope.utilization import assess

STAGES = {
    "enc0": "encoder 0",
    "enc1": "encoder 1",
    "enc2": "bottleneck",
    "rnn": "bottleneck",
    "up1": "decoder 1",
    "up0": "decoder 0",
    "out": "head",
}


class Waveform(nn.Module):
    """A recurrent layer reads the deepest positions one after the other."""

    def __init__(self, kind: Any = nn.LSTM, states: bool = False, **settings: Any) -> None:
        super().__init__()
        self.states, self.batch_first = states, settings.get("batch_first", False)
        width = 8 // (2 if settings.get("bidirectional") else 1)
        self.enc0 = nn.Conv1d(1, 4, 5, padding=2)
        self.enc1 = nn.Conv1d(4, 8, 4, 2, 1)
        self.enc2 = nn.Conv1d(8, 8, 4, 2, 1)
        self.rnn = kind(8, width, **settings)
        self.up1 = nn.ConvTranspose1d(8, 8, 4, 2, 1)
        self.up0 = nn.ConvTranspose1d(8, 4, 4, 2, 1)
        self.out = nn.Conv1d(4, 1, 1)

    def recur(self, steps: Tensor) -> tuple[Tensor, Any]:
        return self.rnn(steps)

    def forward(self, x: Tensor) -> Any:
        top = self.enc0(x).relu()
        middle = self.enc1(top).relu()
        deep = self.enc2(middle).relu()
        there, back = ((0, 2, 1), (0, 2, 1)) if self.batch_first else ((2, 0, 1), (1, 2, 0))
        made, states = self.recur(deep.permute(there))
        made = self.up1(made.permute(back)).relu() + middle
        made = self.out(self.up0(made).relu() + top)
        return (made, states) if self.states else made


class Functional(Waveform):
    """The same, which calls the function with the layer's weights."""

    def recur(self, steps: Tensor) -> tuple[Tensor, Any]:
        start = torch.zeros(1, steps.shape[1], 8)
        weights = list(self.rnn.parameters())
        return torch.gru(steps, start, weights, True, 1, 0.0, self.training, False, False)


NETWORKS = {
    "LSTM": Waveform,
    "LSTM, batch first": lambda: Waveform(batch_first=True),
    "LSTM, two layers": lambda: Waveform(num_layers=2, dropout=0.5),
    "LSTM, both ways": lambda: Waveform(bidirectional=True, batch_first=True),
    "LSTM, projected": lambda: Waveform(lambda *sizes: nn.LSTM(8, 16, proj_size=8)),
    "LSTM, states returned": lambda: Waveform(states=True, batch_first=True),
    "GRU": lambda: Waveform(nn.GRU, batch_first=True),
    "GRU, states returned": lambda: Waveform(nn.GRU, states=True, bidirectional=True),
    "RNN": lambda: Waveform(nn.RNN),
    "RNN of rectifiers": lambda: Waveform(nn.RNN, nonlinearity="relu"),
    "a function": lambda: Functional(nn.GRU),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_recurrent_layers_hold_at_any_length(name: str) -> None:
    net = NETWORKS[name]().eval()
    structure = read_structure(net)
    assert {layer: stage.name for layer, stage in structure.stage_of.items()} == STAGES
    assert structure.sizes == "symbolic"
    assert structure.reductions == ((1.0,), (2.0,), (4.0,))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(2, 1, 148)
    torch.testing.assert_close(rebuild(structure)(x), net(x), rtol=0, atol=0)
    seen = receptive_fields(structure)
    assert seen["encoder 1"] == (8,)
    assert seen["bottleneck"] == seen["decoder 0"] == (None,)


class Above(Functional):
    """Recurrent layers at the middle level, one of them a function; a cut leaves them in place."""

    def __init__(self) -> None:
        super().__init__(nn.GRU)
        self.both = nn.LSTM(8, 4, bidirectional=True, num_layers=2, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.enc1(self.enc0(x).relu()).relu()
        middle = self.recur(self.both(middle.permute(2, 0, 1))[0])[0].permute(1, 2, 0)
        return self.out(self.up0(self.up1(self.enc2(middle)).relu() + middle))


def test_what_is_kept_around_a_recurrent_layer_learns() -> None:
    structure = read_structure(Above().eval())
    assert structure.stage_of["both"].name == structure.stage_of["rnn"].name == "encoder 1"
    assessment = assess(structure, measure_model(structure.model))
    proposals = propose(structure, assessment, count_costs(structure.model, structure.inputs))
    (variant,) = (p.build() for p in proposals if p.keep_levels == 2)
    x = torch.randn(2, 1, 100)
    made = variant.module.train()(x)
    assert made.shape == x.shape
    made.sum().backward()
    assert variant.module.both.weight_hh_l1.grad is not None
    assert not torch.equal(made, variant.module(x))  # dropout between the layers
    assert torch.equal(variant.module.eval()(x), variant.module(x))


def test_a_recurrent_layer_costs_each_of_its_weights_once_a_step() -> None:
    net = Waveform(nn.GRU, bidirectional=True, num_layers=2)
    matrices = sum(p.numel() for p in net.rnn.parameters() if p.dim() == 2)
    costs = count_costs(net, torch.zeros(3, 1, 400))
    assert costs.layers["rnn"].macs == 3 * 100 * matrices
    assert costs.unsupported == {}


class Frames(nn.Module):
    """A spectrogram's frames, through linear and recurrent layers: nothing goes down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rnn, self.last = nn.Linear(32, 8), nn.LSTM(8, 8), nn.Linear(8, 32)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(3, 0, 1, 2)
        made = self.first(rows.reshape(-1, 32)).reshape(*rows.shape[:2], 8)
        made = self.last(self.rnn(made)[0].reshape(-1, 8))
        return made.reshape(rows.shape).permute(1, 2, 3, 0)


def test_frames_are_no_deeper_level() -> None:
    with pytest.raises(StructureError, match="one level"):
        read_structure(Frames(), torch.randn(2, 2, 16, 20))


class Packed(nn.Module):
    """Sequences of two lengths, packed: the recurrent layer is not made whole."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(rows)[0], batch_first=True)[0]


def test_packed_sequences_run_as_before() -> None:
    assert count_costs(Packed(), torch.zeros(2, 4, 1)).layers["rnn"].macs == 6 * (16 + 64)


class Speech(nn.Module):
    """Halves frequencies, folds what is left of them into channels for a recurrent layer, goes up.

    It takes any number of frames, and few numbers of frequencies.
    """

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.first, self.down = (nn.Conv2d(c, 2 * c + 2, (1, 3), (1, 2), (0, 1)) for c in (1, 4))
        self.rnn = nn.GRU(160, 160, batch_first=True)
        self.mix = nn.Linear(160, 160) if linear else nn.Identity()
        self.up, self.last = (
            nn.ConvTranspose2d(2 * c + 2, c, (1, 4), (1, 2), (0, 1)) for c in (4, 1)
        )
        self.out = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        deep = F.elu(self.down(F.elu(self.first(x))))
        folded = deep.transpose(1, 2).flatten(2)
        mixed = self.mix(self.rnn(folded)[0])
        deep = mixed.unflatten(2, (deep.shape[1], deep.shape[3])).transpose(1, 2)
        return self.out(F.elu(self.last(F.elu(self.up(deep)))))


@pytest.mark.sample(1)
@pytest.mark.parametrize("linear", [False, True])
def test_frequencies_folded_for_a_recurrent_layer_come_back_up(linear: bool) -> None:
    model = Speech(linear).eval()
    structure = read_structure(model)
    assert structure.inputs.args[0].shape[-1] == 64
    assert structure.reductions == ((1.0, 1.0), (1.0, 2.0), (1.0, 4.0))
    assert {layer: stage.name for layer, stage in structure.stage_of.items()} == {
        "first": "encoder 1",
        "down": "bottleneck",
        "rnn": "bottleneck",
        **({"mix": "bottleneck"} if linear else {}),
        "up": "decoder 1",
        "last": "decoder 0",
        "out": "head",
    }
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(2, 1, 24, 64)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)


class Described(nn.Module):
    """Weighs what it sees by what is said of it, in words (batch, length) of a vocabulary."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.words, self.read = nn.Embedding(9, 4), kind(4, 8, batch_first=True)
        self.top, self.deep = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        said = self.read(self.words(words))[0][:, -1, :, None, None]
        top = self.top(x).relu()
        deep = self.deep(F.max_pool2d(top, 2)).relu() * said
        return self.out(torch.cat([top, F.interpolate(deep, top.shape[2:])], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_words_that_a_recurrent_layer_reads_are_free(kind: type[nn.RNNBase]) -> None:
    model = Described(kind).eval()
    structure = read_structure(model, (torch.rand(1, 1, 16, 16), torch.tensor([[1, 5, 2]])))
    assert structure.reductions == ((1, 1), (2, 2))
    graph = rebuild(structure)
    for words in ([[1, 5, 2], [8, 0, 0]], [[3, 3, 3], [0, 1, 7]]):
        call = torch.rand(2, 1, 16, 24), torch.tensor(words)
        torch.testing.assert_close(graph(*call), model(*call))
