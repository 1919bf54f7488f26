"""Write the matrix as a page."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence

from matrix.records import Depth, Row
from matrix.truth import Truth


def refused_rightly(row: Row, truth: Truth) -> bool:
    """Whether a network was refused where the truth allows it, for a reason that names why.

    Either it is not read at all, or it is read and no depth may be cut.
    """
    reasons = [depth.refusal for depth in row.depths] if row.depths else [row.reason]
    return (
        bool(truth.refusal)
        and not row.disagreements
        and all(any(word in reason for word in truth.refusal) for reason in reasons)
    )


def is_right(row: Row) -> bool:
    """Whether a network was captured, in agreement with the truth, and its graph is the network."""
    return (
        row.outcome == "captured"
        and row.untouched
        and not row.disagreements
        and not row.graph_failures
    )


def every_depth_works(row: Row, truth: Truth) -> bool:
    """Whether each depth that is legal by the truth was built and passed every check."""
    working = {d.keep_levels for d in row.depths if not d.refusal and not d.failures}
    return row.outcome == "captured" and working >= set(truth.legal)


def page(
    rows: Sequence[Row],
    missing: Sequence[str],
    truths: Mapping[str, Truth],
    machine: Mapping[str, str],
    recovered: Sequence[Mapping[str, str]],
) -> str:
    """Return the whole page as Markdown.

    Args:
        rows: One for each network that was measured.
        missing: Names of the networks that were not.
        truths: The truth about each, by name.
        machine: What it ran on: label and value.
        recovered: Network, levels kept and outcome of each recovery.
    """
    parts = [
        "# The matrix: other people's networks",
        _INTRODUCTION,
        "## In short",
        *_summary(rows, missing, truths),
        "## Every network",
        _LEGEND,
        _table(
            ("network", "captured", "stages right", "depths built", "MACs left", "s", "note"),
            [_network(row, truths[row.name]) for row in rows],
        ),
        "## Where it disagrees with the truth",
        *_disagreements(rows, truths),
        "## Refused depths",
        _REFUSED,
        _table(("network", "levels kept", "reason"), list(_refusals(rows))),
        "## Recovered, saved and loaded",
        *_recovered(recovered),
        "## Multiply-accumulates by three counters",
        _COUNTERS,
        _table(
            ("network", "weightscope", "FlopCounterMode", "fvcore"),
            [_counted(row) for row in rows if row.macs[0]],
        ),
        "## Parameters that no output depends on",
        _table(
            ("network", "parameters", "dead"),
            [
                (r.name, f"{r.parameters[0]:,}", f"{r.parameters[1]:,}")
                for r in rows
                if r.parameters[1]
            ],
        ),
        "## What it ran on",
        "\n".join(f"- {label}: {value}" for label, value in machine.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _recovered(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    failed = [row for row in rows if row["outcome"] != "recovered"]
    yield (
        f"{len(rows) - len(failed)} of {len(rows)} networks, those of [the other page]"
        "(matrix_reading.md) among them, were cut to their fewest levels, recovered for two steps"
        " on a batch of their own inputs, saved and loaded, and answered the same afterwards"
        " (`python -m matrix.recovering`; two steps teach nothing, and what a recovery regains is"
        " [another question](studies/pareto/index.md)). Rows keep the commit that they ran at."
    )
    if failed:
        yield _table(("network", "what happened"), [(r["network"], r["outcome"]) for r in failed])


def reading_page(
    rows: Sequence[Row],
    missing: Sequence[str],
    truths: Mapping[str, Truth],
    held_back: Mapping[str, Collection[str]],
    again: Mapping[str, Mapping[str, str]],
) -> str:
    """The page of the networks that are read, and built without numbers only.

    Args:
        rows: One for each network that was read.
        missing: Names of the networks that were not.
        truths: The truth about each, by name.
        held_back: Names of those that were read only when some work was done, by a label.
        again: What some of those were read as later, by name.
    """
    summary = []
    for label, names in held_back.items():
        kept = [row for row in rows if row.name in names]
        later = [again[name]["outcome"] for name in names if name in again]
        good = sum(map(RIGHT.__contains__, later))
        since = f" Read again later: {good} of {len(later)}." if later else ""
        summary += [f"{line}{since}" for line in _read_rightly(kept, truths, f"{label}: ") if kept]
    later = [kept["outcome"] for kept in again.values()]
    good = sum(map(RIGHT.__contains__, later))
    summary.append(
        f"- Of all that were held back {len(later)} were read again: {good}"
        f" ({_percent(good, len(later))}) rightly read or rightly refused. They are held back no"
        " longer then: the reader was mended on what they showed."
    )
    apart = {name for names in held_back.values() for name in names}
    others = [row for row in rows if row.name not in apart]
    summary += _read_rightly(others, truths, "The others, which the reader was mended on: ")
    timed = [row.seconds for row in rows if row.outcome == "captured"]
    if timed:
        summary.append(
            f"- Structure and costs: median {statistics.median(timed):.1f} s of processor time a"
            f" network on one thread, longest {max(timed):.1f} s."
        )
    if missing:
        summary.append(f"- Not read yet: {', '.join(missing)}.")
    table = [
        (
            row.name,
            outcome(row, truths[row.name]),
            again.get(row.name, {}).get("outcome", ""),
            f"{sum(not d.refusal and not d.failures for d in row.depths)} /"
            f" {len(truths[row.name].legal)}",
            "" if row.seconds != row.seconds else f"{row.seconds:.1f}",
            row.commit,
        )
        for row in rows
    ]
    parts = [
        "# The second hundred",
        _READING,
        "## In short",
        "\n".join(summary),
        "## Where it disagrees with the truth",
        *_disagreements(rows, truths),
        "## Every network",
        _table(
            ("network", "outcome", "again", "depths built without numbers", "s", "commit"), table
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _read_rightly(rows: Sequence[Row], truths: Mapping[str, Truth], what: str) -> list[str]:
    """How many of some networks are read rightly, and built."""
    right = [row for row in rows if is_right(row)]
    refused = [row for row in rows if refused_rightly(row, truths[row.name])]
    good = len({row.name for row in (*right, *refused)})
    cuttable = [row for row in rows if row.outcome == "captured" and truths[row.name].legal]
    working = sum(every_depth_works(row, truths[row.name]) for row in cuttable)
    return [
        f"- {what}{len(rows)} networks; {good} ({_percent(good, len(rows))}) rightly read or"
        f" rightly refused ({len(refused)} of them refused). {len(cuttable)} can be cut; every"
        f" legal depth of {working} ({_percent(working, len(cuttable))}) is built without numbers.",
    ]


RIGHT = ("right", "rightly refused")


def outcome(row: Row, truth: Truth) -> str:
    """What came of a network, in a word or two; `RIGHT` are those that are."""
    if refused_rightly(row, truth):
        return "rightly refused"
    if is_right(row):
        return "right"
    return "wrong" if row.outcome == "captured" else row.outcome


_READING = """\
This page is written by `make reading`; do not edit it. It holds the networks of the
[matrix](matrix.md) and those that go beyond it: other kinds, written by hand as their papers
describe them (`matrix/kinds.py`), more networks of the libraries (`matrix/more.py`), and 395 in
twenty-one lists that were read only when the work on the reader was done (`matrix/held_back.py`,
`matrix/held_back_again.py`, `matrix/held_back_third.py`, `matrix/held_back_fourth.py`,
`matrix/held_back_fifth.py`, `matrix/held_back_sixth.py`, `matrix/held_back_seventh.py`,
`matrix/held_back_eighth.py`, `matrix/held_back_ninth.py`, `matrix/held_back_tenth.py`,
`matrix/held_back_eleventh.py`, `matrix/held_back_twelfth.py`, `matrix/held_back_thirteenth.py`,
`matrix/held_back_fourteenth.py`, `matrix/held_back_fifteenth.py`, `matrix/held_back_sixteenth.py`,
`matrix/held_back_seventeenth.py`, `matrix/held_back_eighteenth.py`,
`matrix/held_back_nineteenth.py`, `matrix/held_back_twentieth.py`,
`matrix/held_back_twentyfirst.py`); these stand here as they were first read. What is right about
each was written down and committed before it was first read. Each was read with nothing but the
model, except those whose layout must be seen on an example; its graph was run beside it in both
modes, at two batch sizes and two image sizes, and had to give the same outputs bit by bit; every
legal depth was built and counted on tensors without numbers. Here nothing is trained, saved and
loaded; the matrix does that. *s* is processor seconds, on a machine with other work on the same
cores; *commit* is the one that a network was read on; *again* is what a network that was held back
is read as later (`matrix/again.csv`).

Of all 395 networks held back, 252 were right or rightly refused at first reading (64 %).

The twenty-first goes on with that draw of published networks, the next 38 names for its twenty. It
came out at 60 %: 12 (36 to 81 % with 95 % confidence), all of them read rightly, and eleven cut at
every legal depth. One was refused: for UNETR++, made for volumes of one size, no example was found.
Of seven that were read wrongly, five differ in roles alone, or nearly so: our definitions could be
read in two ways where a network goes deeper a second time (3D-ESPNet, a part of U-FNO), of an
output that other outputs are made from (ResUNet-a), and were not kept to in one truth (BANet). Of
U-FNO the axes were also taken for others, of FSNet strips of an image that become channels made a
level, LSM was held to one size, and the last layer of U-DeepONet was called decoder. Mended since:
numpy's grids follow the image (LSM), axes are told from what is padded before a first linear layer
(U-FNO), tiles that no kernel sees make no level (FSNet), flat volumes are tried (UNETR++), and the
two depths of a U-net of clips that could not be counted without numbers are. The definitions say
now what they left open; by them the truths of 3D-ESPNet, U-FNO, ResUNet-a, BANet and U-DeepONet
were corrected, which changes nothing in the figure above.

The twentieth holds no classes of packages but twenty published networks, written by hand: the first
that can be used of 215 names in an order that a seed drew. It came out at 35 %: 7 (15 to 59 % with
95 % confidence), all cut at every legal depth. Four were refused wrongly: nnFormer, whose number of
images is counted by its windows at the one size that it takes; H-DenseUNet, for which no example
was found; XPDNet, whose measurements are complex, and GTCRN, whose bands are made by a linear
layer, were called networks of one level. Of nine that were read wrongly, the levels of a network on
three sizes of one image (ZoomNet), of a 3-D autoencoder, of two for time series (MICN, Informer)
and of a U-Net before another one (KinD) were others; of MAU, MIRNet, DiffIR and MINet some layers
had another role than we had written down, which the definitions leave open in part. No reading
ended in a raw error. What was mended since stands under *again*.

The nineteenth goes on with the same draw: the next 114 names for its twenty, 94 of them skipped,
which leaves 27 of the 402. It came out at 55 %: 11 (32 to 77 % with 95 % confidence), eight of them
read rightly and cut at every legal depth, three rightly refused. Six were read wrongly without a
refusal. Of two codecs of images whose rate can be set (compressai), a layer that works on every
number of a map lay two levels too high, since the channels were counted as positions.
HunyuanVideo's autoencoder of clips was read at one number of frames, and its frames were counted as
that number has them, one more than what strides divide. DeepDenoiser pads where a side is even, was
read at even sizes, and refuses the one size that it is made for, as it says. Of Xcodec, which drops
layers by chance in training, and of StarFlow, which cannot train, levels, layers and cuts were
right; modules that are never called were not called dead, and our comparison asked StarFlow to
train. Three were refused wrongly. Two autoencoders of clips (Kandinsky 6, KVAE) write what each
convolution makes of the first frames and of the others into one tensor: that was taken for a crop
in every layer, so that their sizes came out as nothing. A codec of sound (MMAudio) takes samples
without an axis of channels, and asks for `layout="NL"`, since its first layer sees a spectrogram.
Mended since: both codecs of images, MMAudio, Xcodec and StarFlow are right. Channels beside
features of each number are no positions, samples of which spectra are made are told from tables,
and where training drops layers by chance, or is not made, it is told what no forward reads. The two
autoencoders that were refused are read: what is written into a part of a tensor is no crop. They
are held to the example's number of frames, as HunyuanVideo's is, and say so; by our rules frames
make no level then, which our truth has as free, and most of their depths, or all, are refused. With
an example of its size DeepDenoiser is read, and every depth of it can be cut.

The eighteenth goes on with the same draw: the next 93 names for its twenty, 73 of them skipped. It
came out at 70 %: 14 (46 to 88 % with 95 % confidence), 13 of them read rightly and cut at every
legal depth, one rightly refused. Five were read wrongly without a refusal. DETR gives every query a
mask of its own, in a batch as many times as large, and these copies were counted as positions: its
mask head was placed a level too high, and no depth could be cut. Of a variational autoencoder whose
decoder is a U-net that is called twice, on noise beside what is encoded (ConsistencyDecoderVAE),
the U-net was taken for one block of full resolution; it was read at one size alone, and its
variants do not run without numbers, since the schedule of its noise looks numbers up. CLIPSeg,
whose forward takes the root of the number of tokens for a side, had everything right and is held to
one size. SegGPT lays the image below another one, which our truth counts as an image twice as high;
it got a level for the tokens of one half. The fifth is a U-net on spectrograms that it makes of
samples (DCUNet): our truth wanted it refused, as one before was; it was read, its levels those of
time, and every depth built, which is of more use. Refused wrongly: AuraSR's generator, which names
an argument ``mod``, as a function of torch that traces it names one of its own. Mended since: DETR,
AuraSR and ConsistencyDecoderVAE are right. Copies of an image in the batch are no positions, and
the bottleneck makes several images of one; a U-net that is handed an enlarged code keeps its
levels, draws that name no generator keep sizes free, and what is looked up among constants is one.
SegGPT is read as one image twice as high with its tokens at a sixteenth, as our rules have it where
a network holds at one size, which our truth had overlooked; it differs in that. CLIPSeg is held to
the size of our example, at which it does not resize its positions, and says so; with an example of
another size it is read for all squares of multiples of 32. DCUNet's levels are those of its
spectrogram now, along frequencies and times, as MoisesLight's are, which our truth has refused.

The seventeenth goes on with the draw of the sixteenth: the next 100 names for its twenty, 80 of
them skipped. It came out at 50 %: 10 (27 to 73 % with 95 % confidence), half of them rightly
refused. Six were read wrongly without a refusal, four refused wrongly. Seven are networks of two
frames or of clips. GMFlow and RAPIDFlow take their images inside of a dictionary, hold them to one
size, and were run at another, since sizes were not held there: an error of ours was told as one of
the network. Of NeuFlow2, which halves its frames before the first convolution, the axes were
mistaken for those of a volume, as were those of a clip that is joined with masks (ProPainter's
completion of flow), and those of one with as many frames as channels (I2VGen-XL, whose levels were
right, but for frames, which our truth counts as a third side). LiteFlowNet3 looks at 81 places of a
map by laying it 81 times into the batch, which made levels in no order. A U-net of a diffusion
model (DiffUNet) was read at one image a batch, because its forward spreads one noise level over the
batch. Mochi's autoencoder, which normalises eight frames at a time, got three levels too many; of
one for sound that appends tokens and cuts them off (SAME) the way up was not seen; and of Videomt
two layers that end a way to the masks were called head, where our truth says decoder. Mended since:
DiffUNet and LiteFlowNet3 are right; of NeuFlow2, RAPIDFlow, I2VGen-XL, GMFlow and the completion of
flow levels and layers are, and what differs is that they are held to one size or number of frames,
and say so, that frames are no third side, and that depths of the last two are refused.

The sixteenth is of another universe: what users of large libraries take. It was drawn by a rule
from the names of all classes of networks of 25 libraries (402 names, of which 68 were drawn for its
twenty, and 48 skipped, for reasons that are counted at the head of its file). It came out at 60 %:
12 (36 to 81 % with 95 % confidence). Six were read wrongly without a refusal. Of three autoencoders
of clips the levels were those of no size: LTX-2's takes 8 k + 1 frames, and was counted at other
numbers; those of Wan and of MiniMax-H3 take a clip in pieces of four and of 17 frames, one after
the other, by a loop, and were read at one size only, besides. IRR-PWC, both ways and with
occlusions, got a level more between any two. Of two networks of Real-CUGAN, U-nets in a row, the
second kept levels of its own, where our truth lays it at the level that it leaves for a moment; its
``forward`` is called by name there, which is not seen as a call of a module. One was refused
wrongly: a SwinUNETR with long convolutions (HyenaNDUNETR), whose grid of places grows in the
forward with the image. The reading of one, of a codec that quantises one position after the other
(compressai), was stopped after more than nine minutes and counts as wrong. IRR-PWC's had been
stopped once, beside other work of ours on the same core, and stands here as it was read to its end.
What was right: ten can be cut, and of one of the ten (ZoeDepth) one of five depths was not built;
of EoMT no depth may be cut, and none was; a network that reads values was refused. Mended since:
LTX-2's clips.

The lists up to the thirteenth were chosen to be ever more unusual. The fifteenth was drawn by a
rule, as the fourteenth, and from the same list of packages, less what that had drawn: at random
from those whose names or lines speak of such networks. 301 were drawn for its twenty, and 281
skipped, for reasons that are counted at the head of its file. It came out at 80 %: 16 (56 to 94 %
with 95 % confidence), all of them read rightly and cut at every legal depth. Three were read
wrongly without a refusal: a U-net whose maps attend to all maps before them, pooled to their size
(rectified-flow-pytorch), was read at one size alone, and 33 layers behind such pools, with one
before a pool, were placed at the level of the map that is pooled, or raised; of a picker of seismic
waves, which takes one station as an image one pixel high, four norms behind samples made of
channels were placed a level too deep (PhaseNet); and of an encoder whose last stages are called
and not used 42 layers had no place, where our truth calls them dead (cellseg-models-pytorch).
Refused wrongly: a generator that takes a number of a step and a code of noise, both required,
because no example of them was guessed. This one was first tried with less memory than a reading
needs, by our mistake, and stands here as it was read with all of it; the three that were read
wrongly were read twice, too, and came out the same. Mended since: all four. Pools to the size of
another map follow every size, a reshape shows samples made of channels also in one row, what is
dead stays so whatever its norms do in training, and a step is known by a word of its name.

The fourteenth was drawn by such a rule first, at random from packages whose names or lines speak of
such networks: 157 were drawn for its twenty, and 137 skipped, for reasons that are counted at the
head of its file. It came out at 75 %: 15 (51 to 91 % with 95 % confidence), all of them read
rightly and cut at every legal depth. One was read wrongly without a word: of an image that becomes
a vector, and that a volume of more positions than the image has (fusion-threed), which our truth
wants refused, seven levels were found, the first above the image's own. Refused wrongly: a U-net of
Stable Diffusion that takes the words of a text and a code of the time, both required, because no
example of them was guessed; and a network whose synchronised norms hold a lock, because no deep
copy of it can be made (our truth wants it refused too, since it has no decoder). A codec of complex
samples without channels was refused for our trial's mistake: it gave such samples without their
layout, which the refusal asks for (`layout="NL"`), and with it the codec is read rightly. The
reading of one was stopped after five minutes with 17 GB in use: in it every value of a line attends
to every other, and the guessed volumes were as large as they are for others. Mended since: volumes
of a vector are refused, what attention takes beside the image is guessed by the width of its keys,
and a copy has locks of its own. Guesses that take much memory come last since, or are none; the
network of 17 GB is read with 1.4, at one size, and not rightly at others.

Of the thirteen lists before the fourteenth, what was read wrongly at first and had not been read
again was read again too, so that nothing wrong is left out. Right since: a table that is resized by
factors follows every size (DepthAnythingV2), frames that lie side by side as channels are guessed
(video by threes), and three that earlier mends had made right. Of those that stay wrong, seven are
not the reader's fault. Our truth is at fault in six: a last layer that itself comes up is decoder
and head at once (the frame between, as in CleanUNet), layers that only training calls have no place
(audio-separator's network, whose training is seen now; of its kind in the thirteenth list the truth
says so), SpaceTimeUnet, whose frames our truth counts as a size, and NinaSR, BASNet and
imagen-pytorch's U-net as said below. AudioSeal raises by itself in our trial. With these seven it
was 207 of the 213, or 97 %.

Of all that were held back 205 were read once more on commit d0be32c7, and 196 of these were right
or rightly refused. Both goals for the time are missed: the median is 4.5 s of processor time (goal:
below 2 s) and the longest 43.2 s (goal: below 10 s); 37 of 195 take more than 10 s, and 40 less
than 2 s. They were read by forty in one process, so that few pay for the imports of torch, beside
other work: about four processes for each core, which makes processor time longer too. FFTformer was
wrong where it had been right: spectra of patches made a level that is none, which is mended since.
FFTformer and nd-vq-vae were read on a later commit.

The rest was read on commit 4abeb2b7: 50 networks, of which 48 were right and none wrong that had
been right. ezflow's FlowNetC took 53 s of processor time, the longest of all. One lacks a package
that it imports (k-diffusion); a codec of complex samples was refused for our trial's mistake again.
So 274 of the 275 are read once more, and 261 of these are right or rightly refused (95 %). Right
since are UNO, which resamples by factors that are rounded, at every size, and Uformer, whose maps
have sides that are the root of the number of their positions, at squares of all multiples of 32. Of
NCSN++ our truth is at fault: its layers convolve at the finer level and then stride by a filter,
and a layer lies where its weights are used. SpeechTokenizer is refused until it is called once, as
the refusal says; called once, it is read rightly and cut at both depths. nd-vq-vae takes another
way where half of a side of its clips is as large as its layers are wide, and is refused there: as
it attends along an axis of its images. It stays wrong, as do Funnel's numbered words.

The thirteenth, twenty networks (fifteen of packages that were new here), was written down when all
that is mended below was, and came out at 65 %: 13. Of two our truth is at fault: BASNet's second
U-net, which refines the mask of the first one, leaves its level for a moment, as those of a
U-2-Net do, and what one vector says of the time in imagen-pytorch's U-net is first used a level
below the top, which the definitions leave open. With these it is 15, or 75 %. Of three no structure
was found: a detector of spots maps over its images at the end (`torch.vmap`), which is refused; a
forecast of rain takes one frame after another out of its clips, and their axis was not seen; and of
a matting network that takes four images of 3, 2, 3 and 6 channels no example was guessed. Of two
written by hand depths that are legal were refused: one that weighs a season of images, because many
images become one below, and one whose planes give depths in the middle of the way up. Mended since:
both of these (positions that are repeated beside each other lie where they come up to, and frames
that become one are held to their number), and the clips, which cross a cut with their frames side
by side, held to their number too. The pyramid of the detector alone, which its refusal names now,
is read at every size and cut at every depth. Of the matting network an example is guessed now, and
it is read rightly: its own `train` standardises its weights, and reading it had changed them a
little.

The twelfth, twenty networks (thirteen of packages that were new here), was written down when all
that is mended below was, and came out at 50 %: 10. Wrongly refused: fastai's DynamicUnet, whose
images are a subclass of tensors, at every size, and MoisesLight without the reason that our truth
asks for (it works on a spectrogram that it makes itself). Three were read with an example that is
not theirs: volumes of 63 x 63 x 63 in the place of clips (diffusers' UNet3DConditionModel), images
of 518 x 518 at which DepthAnything does not resize its positions, and a context that may be left
out and was not (opensr's UNetModel). Of Funnel's numbered words, of token forms of Swin-Unet and of
patches that are cut out (StackDMPHN) levels are found that are none, as is one of fastseg's pooling
by a window of 49. Of smalldiffusion's Unet one legal depth is refused. Mended since: tensors that
are made objects of a class of one's own, what may be left out, one large window, padded maps with
about as many channels as positions a side, patches that are merged, and halves of halves, which
makes six of these right. MoisesLight was refused with the reason that our truth asks for, since
samples are guessed; now it is read on that spectrogram, and all four of its depths build.

The eleventh, ten networks of ten packages, came out at 60 %: 6. Of a U-net for thick slices, which
takes only sizes that are four more than multiples of eight, no example was guessed. Two that look
up codes were refused for an error of ours: buffers that training fills were counted as if they had
been there. One that asserts that its images lie between 0 and 1 is refused, with a remedy that asks
for a change of its code. Mended since: such buffers.

Mended since on several of the lists, and no longer held back: windows, patches and what is padded
to a multiple are followed at every size (FFTformer, SCUNet, U-nets of deepinv and aicsmlsegment),
as are pads by one where two maps differ (fastMRI), sizes in tensors (UNet2D, UNet3D, sleap-nn) and
a table that is resized at all sizes but its own (VitMatte); masks that a forward makes itself are
known (video-diffusion's Unet3D). A U-net that returns more where gradients are on was compared
with gradients, which was our comparison's mistake. What stays: images that have to be square
(Uformer), NCSN++, UNO and four of which no example is guessed or that have to be called first.
CPnet's vector and PWCNet's correlations, refused until then, cross a cut since.

The tenth, twenty networks of twenty packages, came out at 65 %: 13. Three were refused wrongly: of
ACSUNet, whose kernels of images work on volumes, and of OpenUnmix, which reads a spectrogram's
frames through linear layers, no example was guessed; a tokenizer of speech was refused for values
that only its start in training reads. Of TransUnet, whose tokens know one size, the deepest level
was not cut, because its images were taken for turned ones. Of a codec of images the lists of
parameters that give the likelihood of its codes had no place, which was our comparison's mistake.
Two of those that failed are faults of our truth or trial: NinaSR has gates at a sixteenth of the
resolution, which make levels where our truth has none, and AudioSeal keeps a message for as many
signals as it was first called with, so that it raises where we call it with others. Mended since,
and no longer held back: volumes are guessed where only norms and pools are of volumes, tokens laid
out at a fixed height are no turned images, a network whose first call is still to come is refused
with what helps, and frames of a spectrogram are no level of their own (with an example OpenUnmix is
rightly refused, and the tokenizer, once called, is read rightly). Of the twenty 16 are read rightly
now with nothing but the model, and OpenUnmix is rightly refused since bins are guessed.

The ninth, twenty networks of twenty packages, came out at 55 %: 11. Three of those that failed are
our truth's faults: CleanUNet and PatchGAN end with a layer that itself comes up, which the
definitions leave open, and empanada's lateral layers feed a path that goes up before it goes down
again, which makes them skips. With these it is 14, or 70 %. An encoder whose maps are taken by
hooks that the forward sets was read wrongly without a word: all its layers were placed at the top.
Demucs of denoiser and sleap-nn turn sizes into numbers and were read at one size; a conditional
U-net pads where sizes differ, and the sizes that take the other way were refused (where our truth
has its vector is open, too). SuDORMRF was refused for a list of numbers that it makes of a
constant, and of TNet, which unpools into constant places and calls one block at two levels, no
depth could be cut. Mended since, and no longer held back: what hooks take out of a module leaves
it, what pads, crops or resizes where sizes differ follows every size, numbers in tensors that are
made of numbers are read, and a cut leaves what takes only a shape from below. Of the twenty 18 were
read rightly then, and 19 are since recurrent layers are read whole (Demucs, at every length; so are
the Demucs of the fifth list and EnCodec of the sixth); sleap-nn is still read at one size.

The eighth, twenty networks of twenty packages, came out at 70 %: 14. A U-net for tissue was read
wrongly without a word: it pools its deepest maps once more, nothing uses that, and it was taken for
a level. Of three no example was guessed: one takes a vector as an argument that may be left out, as
its signature says and its forward does not; one takes clips with a time, which may be left out as
well; one reads volumes slice by slice at the top, and was tried with images alone. A U-net that
returns more where gradients are on was refused, and the remedy does not help who uses a package.
A restorer whose pools are as large as in its training was read at one size. Mended since, and no
longer held back: what no output depends on makes no level, arguments that may be left out are tried
where nothing runs without them, volumes that are taken slice by slice are guessed and read as
volumes (they can be cut where both sides are volumes), a forward that takes images and clips is
read on clips where these reach more of it, and one that asks for gradients is read without them.
Of the clips with a time (SpaceTimeUnet) an example is guessed since, which holds images: it takes
both, and its levels along the frames are not seen.

The seventh, ten networks of ten packages and seven written by hand, came out at 71 %: 12 of 17. It
was written as twenty; three of them were in the fifth list already, and do not count. USleep was
read wrongly without a word: its answer for a window of 256 samples was taken for a deeper level,
because the guessed length was 512; with an example of the length that it declares it is read
rightly. Of a network that makes the frame between two no layer is called head: its flows are sums
of what every scale adds, and its last layer is called decoder 1. A separator of vocals, whose
modules are called in a way of their own, was refused with a wrong reason (that it has one level). A
U-net of fastMRI, which pads odd sizes, refuses sizes that take the other way, as it says. Of a
network that takes five frames in 15 channels and a map of noise no example was guessed; with one it
is read rightly. Mended since, and no longer held back: a signal is read at the window that its
network declares.

The sixth, twenty networks of sixteen packages of which none was read here before, came out as the
fifth did: half. FlowNetS was read wrongly without a word: a pair of frames that its forward lays
side by side as channels was taken for a volume. iUNet, Uformer, EnCodec and PWCNet make numbers of
their sizes, or compute with them in more steps than are followed, and were read at one size; a
U-net of deepinv pads what does not divide, and was read as if it never did. Of UNO no example was
guessed (its layers are convolutions of flattened maps), the values of a mask that the forward of a
U-net for clips makes itself were refused, CPnet hands a vector back up past every cut, PWCNet
correlations, and of NCSN++ a filter that strides inside of a layer was placed a level too high.
That parameters of the network itself were called none where they are dead was our comparison's
mistake. Mended since, and no longer held back: frames side by side, numbers made of sizes (iUNet
and FlowNetS are right now, PWCNet follows its sizes), and sizes at which a forward takes another
way, which are refused where a rebuilt network took the way that was read, without a word.

The goal for networks held back is 93 %; none of the fifteen lists reached it. The fifth, twenty
networks of seven libraries of which none was read here before, came out worst: half. Three compute
with their sizes in more steps than are followed, or take the root of a number of tokens, and are
read at one size; two hold sizes in a tensor and crop by them; one builds classes around its
modules, and a copy ran the original's (nearly all of its layers were called dead); the kernels of
one have a backward of their own, which a change of the same day could not read with torch 2.14; of
two no example was guessed; and Demucs was read at the guessed length of 512 alone, with ratios of
that length. Mended since, and no longer held back: classes around modules, backward functions, the
guesses, sizes in tensors, which are read at the example's size, and the cuts of UNet2D, UNet3D and
XUnet (maps that shrink without padding, images as clips of one frame): all six depths build,
verify, save and load. What stays: Demucs makes its padded length a number (`int(length)`), so it is
read at one length; at 4,096 samples its ratios are 4, 16 and 65, at 16,384 they are 4, 16 and 64,
with all three depths legal. Uformer without the limit on arithmetic takes 43 s of processor time to
follow, and SCUNet was not done after two minutes: both stay at one size, and say so. So the first
four lists, written by those who knew what the reader can do, flattered it.

Read once more, on commit 5794d04, the 216 networks before are right or rightly refused but for
DPT, at a median of 1.5 s and 9.5 s at most. What failed of the fourth: DPT turns the number of its
tokens into the side of a square image, and was read at the guessed size; a network that fixes its
sizes is now read at the one that it declares, and a variant refuses others. Of the decoder of
frames our truth was wrong, and is corrected since: with one layer a block, its attention is never
called, and dead as it was read.

What failed of the third: an image and its mask in four channels, which are taken apart in the
forward, were not guessed; kernels of its own for each image (batch and channels in one axis) were
read as a level more; and a network that torch.fx made was read rightly and could not be cut. All
three were mended afterwards.

Mended afterwards, of the first twenty: MedNeXt (a transposed head that does not stride), Restormer
(pixels made channels by a reshape), "coarse to fine" (U-nets in a row of unequal depth). Of the
second twenty: the convolutional LSTM (frames taken one by one), Oobleck (old-style normalisation
of weights hid the first layer), stochastic depth (a forward that does more in train mode says so
now) and the channels and the cut of "complex numbers". "State space" was wrong itself: its sums
overflowed, and outputs that are no numbers cannot be compared; its structure was read rightly, and
it now sums logarithms."""

_INTRODUCTION = """\
This page is written by `make matrix`; do not edit it. Each network is built by its own library with
small random weights and handed to weightscope with nothing but the model (SwinUNETR, whose forward
turns sizes into numbers, with an example of one size); it is cut at every depth that is legal, and
what comes out is run. What its levels, stages and legal depths should be was written by hand from
each library's source before weightscope was first run on it (`matrix/truth.py`; later corrections
say why in their commits). A network counts as right only if every single weighted layer has the
right role and level, every dead parameter is found, and every depth is legal or refused as it
should be. More networks, of many more kinds, are read and built without numbers only:
[the second hundred](matrix_reading.md)."""

_LEGEND = """\
*captured*: a graph of the network's own modules was read, and gives its outputs bit by bit in train
and eval mode at two batch sizes and, unless it is made for one size, two spatial sizes. *depths
built*: built and working / legal by the
truth; working means forward in train and eval at other batch and spatial sizes with the original's
output shapes, a gradient for every parameter, kept tensors bit-equal under their old names,
predicted parameters, MACs and activation bytes equal to the counted ones, a deep copy, and, at one
depth of each network, `save`, `load` and `torch.export`. What is built runs at the sizes of the
matrix, not at the guessed one. *MACs left*: of the original, at the
shallowest and at the deepest working cut (levels kept), with the default bottleneck. *s*: processor
seconds for reading the structure and counting the costs."""

_REFUSED = """\
A depth is refused where the prediction itself would be removed or nothing leads back to what is
kept. (A depth that can be cut but would save too little with the default bottleneck is built here
with the one that only pools.)"""

_COUNTERS = """\
For two images of a small size. PyTorch's FlopCounterMode counts two FLOPs a multiply-accumulate and
is halved here; fused attention, for which it has no rule on the CPU, is taken apart for it. fvcore
traces the network: it leaves out what no output depends on and fused attention, and where it does
not run, it cannot trace it. In brackets: the share of weightscope's figure."""


def _summary(rows: Sequence[Row], missing: Sequence[str], truths: Mapping[str, Truth]) -> list[str]:
    right = sum(map(is_right, rows))
    refused = [row.name for row in rows if refused_rightly(row, truths[row.name])]
    cuttable = [row for row in rows if truths[row.name].legal and row.name not in refused]
    working = sum(every_depth_works(row, truths[row.name]) for row in cuttable)
    timed = [row.seconds for row in rows if row.outcome == "captured"]
    wall = [row.wall_seconds for row in rows if row.outcome == "captured"]
    legal = sum(len(truths[row.name].legal) for row in cuttable)
    built = sum(not depth.refusal and not depth.failures for row in rows for depth in row.depths)
    lines = [
        f"- {len(rows)} networks; {right} ({_percent(right, len(rows))}) captured with the right "
        f"stages.",
        f"- Refused as a whole, as the truth allows: {', '.join(refused) or 'none'}.",
        f"- {len(cuttable)} networks can be cut; every legal depth of {working} "
        f"({_percent(working, len(cuttable))}) builds and runs; {built} of {legal} depths in all.",
    ]
    if missing:
        lines.append(f"- Not measured yet: {', '.join(missing)}.")
    if timed:
        lines.append(
            f"- Structure and costs: median {statistics.median(timed):.1f} s of processor time a "
            f"network on one thread, longest {max(timed):.1f} s (median on the clock "
            f"{statistics.median(wall):.1f} s)."
        )
    return ["\n".join(lines)]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def _network(row: Row, truth: Truth) -> tuple[str, ...]:
    if refused_rightly(row, truth):
        reason = row.reason or row.depths[0].refusal
        return (row.name, "refused", "rightly refused", "none", "", "", reason)
    if row.outcome != "captured":
        return (row.name, row.outcome, "no", f"0 / {len(truth.legal)}", "", "", row.reason)
    working = [depth for depth in row.depths if not depth.refusal and not depth.failures]
    return (
        row.name,
        "no" if row.graph_failures else "yes",
        "no" if row.disagreements else "yes",
        f"{len(working)} / {len(truth.legal)}",
        _range(working),
        f"{row.seconds:.1f}",
        _note(row),
    )


def _range(depths: Sequence[Depth]) -> str:
    if not depths:
        return ""
    ends = [depths[0]] if len(depths) == 1 else [depths[0], depths[-1]]
    return ", ".join(f"{depth.macs:.0%} ({depth.keep_levels})" for depth in ends)


def _note(row: Row) -> str:
    notes = []
    if not row.untouched:
        notes.append("the original was changed")
    notes += row.graph_failures[:1]
    for depth in row.depths:
        notes += [f"{depth.keep_levels} levels: {text}" for text in depth.failures[:1]]
    refused = [str(depth.keep_levels) for depth in row.depths if depth.refusal]
    if refused:
        notes.append(f"refused: {', '.join(refused)}")
    return "; ".join(notes)


def _disagreements(rows: Sequence[Row], truths: Mapping[str, Truth]) -> list[str]:
    parts = []
    for row in rows:
        if refused_rightly(row, truths[row.name]):
            continue
        found = [*row.disagreements, *row.graph_failures]
        found += [
            f"levels kept {depth.keep_levels}: {text}"
            for depth in row.depths
            for text in depth.failures
        ]
        if row.outcome != "captured":
            found.append(f"{row.outcome}: {row.reason}")
        if found:
            parts.append(f"**{_cell(row.name)}**\n\n" + "\n".join(f"- {_cell(t)}" for t in found))
    return parts or ["Nowhere."]


def _refusals(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [
        (row.name, str(depth.keep_levels), depth.refusal)
        for row in rows
        for depth in row.depths
        if depth.refusal
    ]


def _counted(row: Row) -> tuple[str, ...]:
    ours, *others = row.macs
    return (
        row.name,
        f"{ours:,}",
        *(f"{other:,} ({other / ours:.3f})" if other else "does not run" for other in others),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Keep a value in its table cell, and markup in it as text."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
