"""Queries and tokens: with the batch second, among each other, at several levels, with classes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, nn

import weightscope as ws
from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan


class Pixels(nn.Module):
    """Features at full, half and a quarter of the resolution, and those that come back up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.c = nn.Conv2d(8, 8, 3, 2, 1)
        self.d, self.e = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(16, 8, 3, 1, 1)

    def down(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.a(x).relu()
        b = self.b(a).relu()
        return a, b, self.c(b).relu()

    def up(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        y = self.d(torch.cat([F.interpolate(c, size=b.shape[2:]), b], 1)).relu()
        return self.e(torch.cat([F.interpolate(y, size=a.shape[2:]), a], 1)).relu()


class BatchSecond(Pixels):
    """Queries (number, batch, channels), as attention in torch takes them by default."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.say = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 8)
        self.ask = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.down(x)
        tokens = c.flatten(2).permute(2, 0, 1)
        said = self.queries[:, None].repeat(1, len(x), 1)
        said = said + self.ask(said, tokens, tokens, need_weights=False)[0]
        return torch.einsum("qbc,bchw->bqhw", self.say(said), self.up(a, b, c))


class TurnedAtOnce(BatchSecond):
    """The same, with the batch first as soon as the queries have asked."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.down(x)
        tokens = c.flatten(2).permute(2, 0, 1)
        said = self.queries[:, None].repeat(1, len(x), 1)
        said = self.ask(said, tokens, tokens)[0].transpose(0, 1)
        return self.say(said) @ self.up(a, b, c).flatten(2)


class Stacked(BatchSecond):
    """Each layer's queries lie in a stack, from which masks and classes are made."""

    def __init__(self) -> None:
        super().__init__()
        self.then, self.classes = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b, c = self.down(x)
        tokens = c.flatten(2).permute(2, 0, 1)
        said = self.queries[:, None].repeat(1, len(x), 1)
        first = self.ask(said, tokens, tokens)[0]
        both = torch.stack([first, self.then(first, tokens, tokens)[0]]).transpose(1, 2)
        masks = self.say(both[-1]) @ self.up(a, b, c).flatten(2)
        return {"masks": masks, "classes": self.classes(both)}


class TokensBetween(Pixels):
    """Tokens (number, batch, channels) at each level, that go down and come up as such."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.deep, self.out = nn.Linear(8, 8), nn.Linear(32, 8), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.fine(self.a(x).flatten(2).permute(2, 0, 1)).relu()
        height, width = x.shape[2:]
        grid = tokens.reshape(height // 2, 2, width // 2, 2, len(x), 8)
        deep = self.deep(grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 1)).relu()
        again = deep.reshape(height // 2, 1, width // 2, 1, len(x), 8)
        again = again.expand(-1, 2, -1, 2, -1, -1).reshape(height * width, len(x), 8)
        y = self.out(torch.cat([tokens, again], 2))
        return y.permute(1, 2, 0).reshape(len(x), 2, height, width)


class AmongTokens(Pixels):
    """Queries join the tokens of the deepest level, and are taken from among them again."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.say = nn.Parameter(torch.randn(4, 8)), nn.Linear(8, 8)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.down(x)
        tokens = torch.cat([self.queries.expand(len(x), -1, -1), c.flatten(2).mT], 1)
        said, tokens = self.mix(tokens).split([4, tokens.shape[1] - 4], 1)
        y = self.up(a, b, tokens.mT.reshape(c.shape))
        return torch.einsum("bqc,bchw->bqhw", self.say(said), y)


class SlicedFromTokens(AmongTokens):
    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.down(x)
        tokens = self.mix(torch.cat([self.queries.expand(len(x), -1, -1), c.flatten(2).mT], 1))
        y = self.up(a, b, tokens[:, 4:].mT.reshape(c.shape))
        return torch.einsum("bqc,bchw->bqhw", self.say(tokens[:, :4]), y)


class SomeOfThem(AmongTokens):
    """Masks are made of some queries, and classes of the same."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b, c = self.down(x)
        tokens = self.mix(torch.cat([self.queries.expand(len(x), -1, -1), c.flatten(2).mT], 1))
        y, some = self.up(a, b, tokens[:, 4:].mT.reshape(c.shape)), tokens[:, :2]
        masks = torch.einsum("bqc,bchw->bqhw", self.say(some), y)
        return {"masks": masks, "classes": self.classes(some)}


class AtTwoLevels(Pixels):
    """Queries ask the deepest level, then a finer one, where a mask says where to look."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.say = nn.Parameter(torch.randn(4, 8)), nn.Linear(8, 8)
        self.first = nn.MultiheadAttention(8, 2, batch_first=True)
        self.then = nn.MultiheadAttention(8, 2, batch_first=True)
        self.classes = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b, c = self.down(x)
        y, tokens = self.up(a, b, c), c.flatten(2).mT
        said = self.queries.expand(len(x), -1, -1)
        said = said + self.first(said, tokens, tokens)[0]
        masks = torch.einsum("bqc,bchw->bqhw", self.say(said), y)
        away = F.interpolate(masks, size=b.shape[2:]).flatten(2).sigmoid() < 0.01
        tokens = b.flatten(2).mT
        asked, _ = self.then(said, tokens, tokens, attn_mask=away.repeat_interleave(2, 0))
        said = said + asked
        masks = torch.einsum("bqc,bchw->bqhw", self.say(said), y)
        return {"classes": self.classes(said), "masks": masks}


class FromFineToCoarse(Pixels):
    """Queries ask a fine level, then the deepest; a norm lies before each."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.queries, self.say = nn.Parameter(torch.randn(4, 8)), nn.Linear(8, 8)
        self.first, self.then = (
            nn.MultiheadAttention(8, 2, batch_first=batch_first) for _ in range(2)
        )
        self.before, self.between = nn.LayerNorm(8), nn.LayerNorm(8)
        self.order = (0, 1, 2) if batch_first else (1, 0, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.down(x)
        fine, coarse = (y.flatten(2).mT.permute(self.order) for y in (b, c))
        said = self.queries.expand(len(x), -1, -1).permute(self.order)
        said = said + self.first(self.before(said), fine, fine)[0]
        said = said + self.then(self.between(said), coarse, coarse)[0]
        said = self.say(said.permute(self.order))
        return torch.einsum("bqc,bchw->bqhw", said, self.up(a, b, c))


@pytest.mark.sample(1)
@pytest.mark.parametrize("batch_first", [True, False])
def test_an_attention_lies_at_one_level_with_what_only_asks_there(batch_first: bool) -> None:
    model = FromFineToCoarse(batch_first=batch_first).eval()
    structure = read_structure(model, torch.rand(1, 1, 32, 32))
    stages = places(structure)
    assert stages["first"] == stages["first.out_proj"] == "encoder 1"
    assert {stages[name] for name in ("between", "then", "then.out_proj")} == {"bottleneck"}
    call = torch.rand(2, 1, 48, 32)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=2))
        assert variant.module.eval()(call).shape == model(call).shape
        assert verify(variant, sizes=[call], export=False).failures == ()


class Slots(Pixels):
    """What each query says is laid out as a map of its own, in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 8))
        self.ask = nn.MultiheadAttention(8, 2, batch_first=True)
        self.enlarge, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, b, c = self.down(x)
        tokens = c.flatten(2).mT
        said = self.ask(self.queries.expand(len(x), -1, -1), tokens, tokens)[0]
        maps = said.reshape(-1, 8, 1, 1).expand(-1, -1, *b.shape[2:])
        y = self.d(torch.cat([maps, b.repeat_interleave(3, 0)], 1)).relu()
        return self.out(self.enlarge(y)).unflatten(0, (-1, 3)).sum(1)


def shapes_of(made: Any) -> Any:
    if isinstance(made, Tensor):
        return made.shape
    return {name: value.shape for name, value in made.items()}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "kind",
    [
        *(BatchSecond, TurnedAtOnce, Stacked, TokensBetween),
        *(AmongTokens, SlicedFromTokens, SomeOfThem, AtTwoLevels, Slots),
    ],
)
def test_every_depth_is_cut(kind: type[Pixels]) -> None:
    model = kind().eval()
    analysis = ws.analyze(model, example_inputs=torch.rand(1, 1, 32, 32), response=False)
    levels = len(analysis.structure.reductions)
    assert levels == (2 if kind is TokensBetween else 3)
    assert [cut.keep_levels for cut in analysis.structure.cuts] == [*range(1, levels)]
    call = torch.rand(2, 1, 48, 32)
    for proposal in analysis.proposals:
        variant = proposal.build(width=2)
        assert verify(variant, sizes=[call], export=False).failures == ()
        assert shapes_of(variant.module(call)) == shapes_of(model(call))
        assert variant.dropped_outputs == ()


def test_queries_that_asked_at_two_levels_lie_at_the_shallower() -> None:
    structure = read_structure(AtTwoLevels().eval(), torch.rand(1, 1, 32, 32))
    stages = places(structure)
    assert stages["first.out_proj"] == "bottleneck"
    assert stages["then.out_proj"] == "decoder 1"


class OfPoints(Pixels):
    """A mask for each of some points that are given beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.say = nn.Linear(2, 8)

    def forward(self, x: Tensor, points: Tensor) -> Tensor:
        features = self.up(*self.down(x))
        said = [self.say(points[:, i])[:, :, None, None] for i in range(points.shape[1])]
        return torch.stack([(features * one).sum(1) for one in said], 1)


class OfMeanPoints(OfPoints):
    """The same of the mean of all points, which may be any number."""

    def forward(self, x: Tensor, points: Tensor) -> Tensor:
        return super().forward(x, points.mean(1, keepdim=True))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("kind", "held"), [(OfPoints, True), (OfMeanPoints, False)])
def test_another_number_of_points_is_refused_where_the_graph_holds_one(
    kind: type[OfPoints], held: bool
) -> None:
    model = kind().eval()
    call = torch.rand(1, 1, 32, 32), torch.rand(1, 3, 2)
    analysis = ws.analyze(model, example_inputs=call, response=False)
    said = "read with points 3 long along axis 1 only"
    assert any(said in note for note in analysis.structure.notes) == held
    variant = analysis.proposals[0].build(width=2)
    assert variant.module(*call).shape == model(*call).shape
    more = torch.rand(2, 1, 48, 32), torch.rand(2, 5, 2)
    if held:
        with pytest.raises(InputError, match=r"points is 5 long along axis 1.*read at 3"):
            variant.module(*more)
    else:
        assert variant.module(*more).shape == model(*more).shape


class OfSignals(nn.Module):
    """Queries of a signal, with the batch second."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv1d(1, 8, 3, 1, 1), nn.Conv1d(8, 8, 3, 2, 1)
        self.queries, self.up = nn.Parameter(torch.randn(4, 8)), nn.Conv1d(16, 8, 3, 1, 1)
        self.ask, self.say = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = self.deep(top).relu()
        tokens = deep.permute(2, 0, 1)
        said = self.ask(self.queries[:, None].repeat(1, len(x), 1), tokens, tokens)[0]
        y = self.up(torch.cat([F.interpolate(deep, size=x.shape[2]), top], 1)).relu()
        return torch.einsum("qbc,bcl->bql", self.say(said), y)


def test_a_batch_that_lies_second_is_no_length_of_a_signal() -> None:
    model = OfSignals().eval()
    structure = read_structure(model, torch.rand(1, 1, 64))
    (cut,) = structure.cuts
    assert sorted(site.layout for site in cut.exits) == ["channels_first", "vector"]
    variant = build(structure, make_plan(structure, cut, width=2))
    call = torch.rand(3, 1, 40)
    assert variant.module(call).shape == model(call).shape


class FewerKeys(nn.Module):
    """Attention over keys of patches, written into the forward of the whole network."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.stem, self.down = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, 2, 1)
        self.patches, self.norm = nn.Conv2d(8, 8, 2, 2), nn.LayerNorm(8)
        self.ask, self.keys = nn.Linear(8, 8), nn.Linear(8, 16)
        self.deep, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def attended(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        fewer = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        keys, values = self.keys(fewer).chunk(2, -1)
        if self.fused:
            made = F.scaled_dot_product_attention(self.ask(tokens), keys, values)
        else:
            made = (self.ask(tokens) @ keys.transpose(1, 2)).softmax(-1) @ values
        return (tokens + made).transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, image: Tensor) -> Tensor:
        top = self.attended(self.stem(image))
        deep = self.deep(self.down(top).relu()).relu()
        x = self.up(torch.cat([F.interpolate(deep, scale_factor=2.0), top], 1)).relu()
        return F.interpolate(self.head(x), scale_factor=4.0)


@pytest.mark.parametrize("fused", [False, True])
def test_keys_of_patches_lie_where_they_are_looked_up(fused: bool) -> None:
    torch.manual_seed(0)
    structure = read_structure(FewerKeys(fused).eval(), torch.rand(2, 3, 64, 96))
    assert structure.reductions == ((1, 1), (4, 4), (8, 8))
    stages = places(structure)
    at_one = {stages[name] for name in ("patches", "norm", "keys", "ask", "stem")}
    assert at_one == {"encoder 1"}
    assert stages["deep"] == "bottleneck"


class Codebook(nn.Module):
    """Takes the nearest of so many codes at each position, by ``torch.gather``."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Buffer(torch.randn(16, 8))
        self.top, self.deep = nn.Conv2d(3, 8, 4, 2, 1), nn.Conv2d(8, 8, 4, 2, 1)
        self.rise, self.out = nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.deep(self.top(x).relu())
        found = deep.flatten(2).transpose(1, 2)
        codes = self.codes.expand(len(x), -1, -1)
        nearest = torch.cdist(found, codes).argmin(-1)[..., None].expand(-1, -1, 8)
        taken = torch.gather(codes, 1, nearest).transpose(1, 2).reshape(deep.shape)
        return self.out(self.rise(taken).relu())


def test_codes_that_are_looked_up_lie_at_each_position() -> None:
    structure = read_structure(Codebook().eval(), torch.rand(2, 3, 32, 48))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    stages = places(structure)
    assert stages["deep"] == "bottleneck"
    assert stages["rise"] == "decoder 1"
