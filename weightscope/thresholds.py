"""Every number that a verdict hangs on.

``docs/decisions/thresholds.md`` says where each comes from, ``tests/test_thresholds.py`` tries each
from both sides.
"""

from math import log

# Data: what was measured on batches

MINIMUM_SKILL = 0.05
"""F1, IoU and other shares must exceed the best constant by this much before a network counts as
skilled, and a recalibrated loss must explain this share of the constant's: random features of an
untrained one have a little skill too. A loss as it is needs no such floor, since an untrained
network is worse than the best constant."""

RESOLUTION = 2e-6
"""Share of the loss at even odds below which a skill is rounding: float32 resolves 1.2e-7 of a
number, and a logit of 16 is subtracted from itself in a loss of classes. Nothing is learned from
targets that a constant answers so well."""

CONFIDENCE = 0.95
"""Coverage of every interval of a drop."""

SURE = 0.999
"""Confidence with which a network must beat the best trivial answer to count as skilled: all
verdicts hang on that one decision."""

MINIMUM_IMAGES = 10
"""Images below which nothing is decided. Without knowing how quality is distributed over images, n
of them that all agree are surer than ``1 - 2^-n`` of nothing (the sign test), and 2^-10 is the
first below 1 - `SURE`. Whatever a bootstrap of fewer claims rests on a normal distribution that
so few cannot show."""

NEGLIGIBLE_LOSS = 0.05
"""Share of the network's skill whose loss is the border between used and unused."""

LOSS_THAT_COUNTS = 0.1
"""The same by a recalibrated loss, from which on a stage is used: between the two a metric may
forgive what the loss sees (5 to 8 % of the loss were 1 to 3 % of the F1 on the networks of the
evidence study that may choose). Also the share of its own skill from which on one class or channel
of a mean over these keeps a stage from being unused."""

SPEAKS_FOR_A_CUT = 0.25
"""Utilization by the user's images or labelled data, of what a cut removes together, below which
the cut comes first though it is not sure. Suggested by the networks of the evidence study before
index 416, and kept after 128 others had judged it."""

NEGLIGIBLE_IMPORTANCE = 0.15
"""Share of the largest stage's Taylor importance that is the border between used and unused."""

# Response: how the output changes when a level is replaced by its mean

SILENT = 0.08
"""Below it a response is none. Of 609 cuts of the evidence study (index 104 to 351) 183 lie below
by the model alone, one of which is used; below 0.1 sixteen more, two of which are, and a claim that
a level does nothing must be right more often (``docs/decisions/response.md``)."""

RESPONDS = 0.35
"""Above it a response of decisions is one: of 429 cuts 180 are called used, ten of which are idle,
all of them among the first 212; at 0.3 it is 196 and fifteen."""

RESPONDS_IN_NUMBERS = 0.25
"""The same of outputs that are numbers: 100 cuts of 284, one of them idle."""

RESPONSE_BORDER = 0.158
"""Response that speaks for neither side: of a network that errs as little as it can, a level that
responds so is worth 5 % of the skill. Proposals are ordered by it."""

RESOLVED = 0.2
"""Share of what sure decisions between two classes would tell that the probabilities must tell of
each two before a level without a response is called unused. Small networks, 5 to 120 steps, had at
most 0.16 of all classes together, trained ones of the evidence study at least 0.21, but for two;
of the two classes told apart least, where a level is needed later, at most 0.13
(``docs/decisions/response.md``)."""

FREQUENT = 0.01
"""Mean probability that a class must have on the images to be asked whether it is told apart: of
one that these hardly contain a few positions tell nothing. On networks of the evidence study 0.003
and 0.03 ask the same pairs, but for one network."""

CONSTANT = 0.01
"""Standard deviation of an output, as a share of the root mean square of its channels' means, below
which it hardly varies: that of networks that a rate of 1e-2 made answer everything alike."""

RAREST_DECISION = 1e-3
"""Share of the positions below which the rarer decisions are too few to tell anything."""

AGREES = 0.8
"""Lin's concordance above which an output of as many channels at fewer positions says what the
first one says there. Of three small networks that were trained with deep supervision the auxiliary
heads have 0.9 to 0.97 on their own images; depth, borders, distance and brightness beside a mask at
most 0.14, the signed distance 0.76."""

CERTAIN = 0.3
"""Certainty (0 at equal probabilities, 1 at none but one) above which outputs are decisions. On the
networks of the evidence study that may choose, regressions read as logits have at most 0.24,
classifiers at least 0.33, except one that was hardly trained."""

BARE = 0.25
"""Share of the positions below zero in all of several channels above which each channel may decide
for itself, as labels do that are found together: both readings must agree then. Of the 20 networks
of exclusive classes of the evidence study 18 have at most 0.13 on their own images, two that Lion
trained 0.37 and 0.96; networks of two labels with empty background have 0.74. Of a single channel
that follows its input above which that may be a segmentation, whose background is on that side."""

FOLLOWS = 0.8
"""Correlation with the input, channel by channel, above which an output restores its input and is
no decision: certainty cannot tell where images are in large units."""

LARGEST_LOGIT = 200.0
"""Root mean square above which outputs are numbers in large units, no logits: a probability of
1 - e^-200 is none that training reaches; classifiers of the evidence study have at most 112 on
synthetic images, but for one of 258, which a second look at lower contrasts reads as what it is."""

FOLLOWING = 0.1
"""Share of the mean square of the answers that must be their variance between images at one
position; below it synthetic images hardly reach the network, and "unused" needs a second look at a
higher contrast."""

DOMINATED = 0.5
"""Share of the variance of numbers that one position in a hundred holds, above which a verdict
needs a second look at lower contrasts: an exponential at the end makes a few positions outweigh the
rest. Of 26 trained regressions of the evidence study 25 have at most 0.38, one whose answers
overshoot 0.97; depths in metres by an exponential 0.7."""

SATURATED = 0.99
"""Certainty above which the answers are saturated, and "unused" needs a second look at a lower
contrast."""

# History: how far the weights went while one watched

WALK_BORDER = 0.7
"""Live movement, as a share of the noise walk, at which history without saliency ranks a stage in
the middle."""

SALIENT_BORDER = 0.4
"""The same by history with saliency: live movement times the root of its share."""

AS_RECORDED = 0.1
"""A kernel whose movement or shrinkage differs from the recorded one by a larger share was changed
after the training."""

# Weights: how far they are from their initialisation

MARGIN = 2.0
"""Half-width of an interval, in standard errors."""

PRECISE = 0.05
"""A stage counts for the typical movement where its mean square is known to this share of the
initial one."""

UNTOUCHED = 1e-4
"""A stage whose movement since a known start is below this share of its initial spread has not
moved: the rounding of weights that only decay moves them less far."""

SPILL = 0.5
"""Share of the weights expected of a wider rule below which those beyond an edge are few: a wider
rule has all of them, normal movement a seventh."""

SPILLED_KERNELS = 2
"""Kernels with a few weights beyond the edge of their rule that prove training."""

UNRELATED = 1e-6
"""Chance with which draws that have nothing to do with each other correlate as much: a kernel that
exceeds it by less does not descend from the start that was given. A network has a hundred kernels,
and one that seems to have moved would count as trained."""

CRITICAL_KS = 2.2253
"""P(sqrt(n) KS > 2.2253) = 0.0001 under the null (Kolmogorov's limit distribution); a network has a
hundred kernels, and none of them should be called changed by chance."""

EDGE_SURELY = log(10_000.0)
"""Expected weights near an edge that are never all missing (one time in ten thousand)."""

SPREAD_SURELY = 4.0
"""Standard errors that the variance of weights is never away from that of their rule."""

TELLING = {"uniform": 2_000, "truncated normal": 12_000}
"""Weights from which on the KS distance tells a normal sample from a bounded one of its spread."""

DRAWN_SCALES = 0.02
"""DCGAN, pix2pix and CycleGAN draw the scales of norm layers from N(1, 0.02^2): the one initialiser
in common use that does not start them constant."""

DRAWN_WITH_KERNELS = 2.0
"""Factor within which the typical spread of a network's kernels must be of 0.02 for its norms to
count as perhaps drawn, shifts as well: the few generators (of GANs) that do that draw all kernels
from N(0, 0.02^2), and a training that doubles their spread has moved the scales as well."""

DRAWN_AROUND_ZERO = 0.25
"""Mean of the scales of a norm layer below which they may have been drawn like every other
parameter, N(0, 0.02^2) for example, and of its shifts above which they may; training leaves them
on the other side, or shows in the kernels."""

NEVER_DRAWN = 1e-7
"""So improbable a sum of squares that none of a thousand drawn scales has it in a thousand
networks; the same for the means of filters."""

FAINT_SHIFT = 0.1
"""Share of a kernel's spread by which its filters moved as a whole, below which a network is hardly
trained. Small networks after 3 Adam steps of 3e-3 have at most 0.10, after 30 at most 0.18
(``docs/decisions/response.md``). It depends more on the rate than on the steps: none says that
there were many."""

FAINT_DISPERSION, CLEAR_DISPERSION = 1.5, 3.0
"""The same for the dispersion of the filters' energies, 1 by chance: at most 1.2 after 3 steps.
Above the second a network is not hardly trained: six more had at most 3.0 after 30 steps of 3e-3,
and at most 2.5 after 5 of 1e-2 but for one."""

FAINT_NORMS = 0.02
"""The same for the movement of norm scales and shifts: 0.007 after 3 steps, 0.016 after 10."""

FRESH_VALUES = 24
"""A trained value is a possible draw in one case of two: 2^-24 for all of these."""

UNTOLD = 0.01
"""Share of the weights, a head for example, in whose stages nothing need tell that a network is
untrained to the last bit, if everything else does."""

# The rule that a network began with

LEFT = 0.5
"""Weights are explained together when more than this share of them follows no rule any more."""

FILLING = 500
"""Weights from which on a sample that fills the edges of a rule exactly was drawn by it."""

FEWEST_KERNELS = 4
"""Kernels whose spreads are needed to find a rule."""

SMALLEST_KERNEL = 500
"""Kernels with fewer weights know their own spread too badly."""

SPLIT = 2.0
"""Parts of a network have rules of their own where that explains them this much better."""

ALIKE = 0.1
"""Rules whose misfit is larger than the best one's by no more than this would do as well."""

SURELY_NARROWER = 4.0
"""Standard errors by which a kernel is surely narrower than a rule."""

SHAPE_COST = 0.1
"""What a gap of 1 in kurtosis (of 2 at most) costs, where a spread that is wrong by a factor of e
costs 1."""

DECAY_COST = 0.1
"""What a shrinkage to nothing costs on the same scale."""

SHAPE_SEEN = 0.5
"""The share of a bounded rule's kurtosis that must be left for its decay to be believed."""

# Structure and proposals

LEVEL_RATIO = 1.5
"""Two levels differ by at least this ratio in their number of positions."""

SAVES_TOO_LITTLE = 0.01
"""A depth that saves a smaller share of both parameters and MACs than this is refused."""
