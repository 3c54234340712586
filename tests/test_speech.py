"""The parts of a speech recogniser, each against what it must equal: alignment, norms, CTC, the beam, stages, noise."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isthmus.errors import InputError, UsageError
from isthmus.metrics.transcripts import character_edits, edit_distance, word_edits
from isthmus.speech import decoding
from isthmus.speech.alignment import align, common_steps, stride_of, valid
from isthmus.speech.beam import joint_beam
from isthmus.speech.blocks import MaskedNorm, TemporalBackEnd, positions
from isthmus.speech.decoding import DecodingOptions, read_lines
from isthmus.speech.heads import AttentionDecoder, CTCHead, attention_loss, ctc_loss, teacher_forcing
from isthmus.speech.join import ConcatJoin, GatedJoin
from isthmus.speech.model import SpeechRecogniser, SpeechShape
from isthmus.speech.noise import at_snr, at_speed, babble, check_disjoint, masked
from isthmus.speech.prefix_scores import PrefixScorer, PrefixStates, greedy
from isthmus.speech.times import ctc_alignment, timed_words
from isthmus.speech.vocabulary import Characters, Subwords, symbols_from
from isthmus.training.freezing import freeze, take_over

TINY = {"width": 16, "depth": 1, "heads": 2, "dropout": 0.1}


def test_alignment_loses_no_frame_at_any_pair_of_lengths():
    strides = {"audio": stride_of(50, 25), "video": stride_of(25.0, 25)}
    rng = np.random.default_rng(0)
    drawn = rng.integers(1, 401, (300, 2)).tolist()
    lengths = [*drawn, *([2 * v + d, v] for v in (1, 2, 40, 79, 80, 81) for d in (-1, 0, 1, 3) if 2 * v + d > 0)]
    for least in (0, 80):
        for audio, video in lengths:
            frames = {"audio": torch.tensor([audio]), "video": torch.tensor([video])}
            steps = common_steps(frames, strides, least)
            assert int(steps) == max(video, math.ceil(audio / 2), least)
            for name, count in (("audio", audio), ("video", video)):
                held = align(torch.arange(1.0, count + 1)[None, :, None], frames[name], strides[name], steps)[0, :, 0]
                assert len(held) == strides[name] * int(steps)
                spare = len(held) - count  # the frames in order, the first and the last repeated around them
                whole = [1.0] * (spare // 2) + [*range(1, count + 1)] + [float(count)] * (spare - spare // 2)
                assert held.tolist() == whole


def test_alignment_of_a_batch_is_that_of_each_alone_with_zeros_behind():
    states, frames = torch.randn(3, 9, 4), torch.tensor([9, 3, 6])
    steps = common_steps({"x": frames, "y": torch.tensor([2, 5, 1])}, {"x": 2, "y": 1})
    assert steps.tolist() == [5, 5, 3]
    found = align(states, frames, 2, steps)
    for row in range(3):
        count = 2 * int(steps[row])
        alone = align(states[row : row + 1, : frames[row]], frames[row : row + 1], 2, steps[row : row + 1])
        assert torch.equal(found[row, :count], alone[0]) and not found[row, count:].any()
    with pytest.raises(UsageError, match="30 Hz are no whole multiple of 25 Hz"):
        stride_of(30, 25)


def test_masked_norm_is_over_time_and_channels_and_ignores_padding():
    x, norm = torch.randn(2, 7, 5) * 3 + 1, MaskedNorm()
    mask = valid(torch.tensor([7, 4]), 7)
    found = norm(x, mask)
    part = x[1, :4]
    wanted = (part - part.mean()) / torch.sqrt(part.var(correction=0) + 1e-5)
    torch.testing.assert_close(found[1, :4], wanted)
    noisy = torch.where(mask[..., None], x, torch.full_like(x, 1e4))
    torch.testing.assert_close(norm(noisy, mask), found)
    assert not found[1, 4:].any()


def test_positions_have_no_last_one():
    long = positions(5_000, 8, torch.zeros(1))
    assert torch.equal(long[:10], positions(10, 8, torch.zeros(1))) and torch.isfinite(long).all()
    torch.testing.assert_close(long[3, :2], torch.tensor([math.sin(3), math.cos(3)]))
    assert positions(3, 7, torch.zeros(1)).shape == (3, 7)


def test_a_line_is_recognised_alike_alone_and_in_a_batch():
    torch.manual_seed(0)
    shape = SpeechShape(symbols=6, audio=(5, 50.0), video=(3, 25.0), **TINY)
    model = SpeechRecogniser(shape).eval()
    torch.nn.init.normal_(model.join.gate.weight)
    states = {"audio": torch.randn(2, 20, 5), "video": torch.randn(2, 10, 3)}
    frames = {"audio": torch.tensor([20, 9]), "video": torch.tensor([10, 5])}
    joined, steps = model(states, frames)
    prefix = torch.tensor([[5, 1, 2], [5, 3, 0]])
    log_probs, said = model.ctc(joined, steps), model.decoder(prefix, joined, steps)
    alone = {"audio": states["audio"][1:, :9], "video": states["video"][1:, :5]}
    one, count = model(alone, {"audio": torch.tensor([9]), "video": torch.tensor([5])})
    assert count.tolist() == [5] and steps.tolist() == [10, 5]
    torch.testing.assert_close(one[0], joined[1, :5], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.ctc(one, count)[0], log_probs[1, :5], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.decoder(prefix[1:, :2], one, count)[0], said[1, :2], atol=1e-5, rtol=1e-4)


def readings(symbols: int, steps: int) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Every alignment of `steps` steps, by the transcript that it reads."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in itertools.product(range(symbols), repeat=steps):
        text = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)
        found.setdefault(text, []).append(path)
    return found


@pytest.mark.parametrize(("symbols", "steps"), [(3, 6), (4, 5)])
def test_prefix_scores_equal_the_sum_over_all_alignments(symbols, steps):
    torch.manual_seed(symbols)
    log_probs = torch.randn(1, steps, symbols, dtype=torch.float64).log_softmax(-1)
    there = readings(symbols, steps)
    total = {
        text: torch.stack([log_probs[0, range(steps), list(path)].sum() for path in paths]).logsumexp(0)
        for text, paths in there.items()
    }
    log_probs = F.pad(log_probs, (0, 1), value=-torch.inf)  # the symbol of the ends, which CTC never says
    scorer = PrefixScorer(log_probs, torch.tensor([steps]))
    waiting: list[tuple[tuple[int, ...], PrefixStates]] = [((), scorer.empty())]
    seen = 0
    while waiting:
        prefix, states = waiting.pop()
        score, spoken, blank = scorer.extend(states)
        ended = total.get(prefix, torch.tensor(-torch.inf))
        torch.testing.assert_close(score[0, -1], ended.to(score.dtype), check_dtype=False)
        assert score[0, 0] == -torch.inf
        for symbol in range(1, symbols):
            longer = (*prefix, symbol)
            held = [value for text, value in total.items() if text[: len(longer)] == longer]
            wanted = torch.stack(held).logsumexp(0) if held else torch.tensor(-torch.inf, dtype=torch.float64)
            torch.testing.assert_close(score[0, symbol], wanted)
            seen += 1
            if held and len(longer) < 5:
                last = torch.tensor([symbol])
                waiting.append((longer, PrefixStates(spoken[:, :, symbol], blank[:, :, symbol], last)))
    assert seen > 50


def test_the_score_of_a_whole_line_is_that_of_ctc_in_torch():
    torch.manual_seed(0)
    log_probs, steps = torch.randn(3, 12, 6).log_softmax(-1), torch.tensor([12, 7, 9])
    lines = [[1, 2, 2, 3], [4, 1], [3, 3, 3]]
    scorer = PrefixScorer(log_probs, steps)
    for row, line in enumerate(lines):
        states = scorer.empty()
        for symbol in line:
            _, spoken, blank = scorer.extend(states)
            states = PrefixStates(spoken[:, :, symbol], blank[:, :, symbol], torch.full((3,), symbol))
        target, lengths = torch.tensor([line]), torch.tensor([len(line)])
        wanted = -F.ctc_loss(
            log_probs[row : row + 1].transpose(0, 1), target, steps[row : row + 1], lengths, reduction="sum"
        )
        torch.testing.assert_close(scorer.extend(states)[0][row, -1], wanted, atol=1e-4, rtol=1e-5)


class Bigrams:
    """A decoder whose next symbol depends on the last one and on the utterance."""

    def __init__(self, symbols: int, seed: int = 0) -> None:
        self.table = torch.randn(symbols, symbols, generator=torch.Generator().manual_seed(seed))

    def __call__(self, prefix: torch.Tensor, memory: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        found = self.table[prefix] + memory[:, :1, :1]
        found = found + torch.arange(found.shape[-1]) * memory[:, :1, 1:2]
        found[..., 0] = -torch.inf
        return found.log_softmax(-1)


def exhaustive(log_probs, memory, steps, decoder, weight, bonus):
    """The best line of one utterance, every one of up to its steps looked at; CTC by torch."""
    symbols, count = log_probs.shape[-1], int(steps)
    best = (-math.inf, ())
    for length in range(count + 1):
        for line in itertools.product(range(1, symbols - 1), repeat=length):
            target = torch.tensor([line], dtype=torch.long).reshape(1, -1)
            ctc = -F.ctc_loss(
                log_probs[:, :count].transpose(0, 1), target, steps, torch.tensor([length]), reduction="sum"
            )
            prefix = torch.tensor([[symbols - 1, *line]])
            follows = torch.tensor([[*line, symbols - 1]])
            said = decoder(prefix, memory, steps).gather(-1, follows[..., None]).sum()
            if not math.isfinite(ctc) and weight:
                continue
            score = (weight * float(ctc) if weight else 0.0) + (1 - weight) * float(said) + bonus * length
            best = max(best, (score, line))
    return best


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("bonus", [0.0, 0.7, -0.7])
def test_a_wide_beam_finds_what_looking_at_every_line_finds(weight, bonus):
    torch.manual_seed(5)
    log_probs, memory = torch.randn(3, 5, 4).mul(1.5).log_softmax(-1), torch.randn(3, 5, 2)
    steps, decoder = torch.tensor([5, 3, 4]), Bigrams(4)
    found = joint_beam(log_probs, memory, steps, decoder, beam=64, ctc_weight=weight, bonus=bonus)
    for row in range(3):
        one = slice(row, row + 1)
        score, line = exhaustive(log_probs[one], memory[one], steps[one], decoder, weight, bonus)
        assert tuple(found[row][0].symbols) == line and found[row][0].score == pytest.approx(score, abs=1e-4)
        alone = joint_beam(log_probs[one, : steps[row]], memory[one], steps[one], decoder, beam=64, ctc_weight=weight,
                           bonus=bonus)  # fmt: skip
        assert alone[0][0].symbols == found[row][0].symbols
        narrow = joint_beam(log_probs, memory, steps, decoder, beam=2, ctc_weight=weight, bonus=bonus)
        assert narrow[row][0].score <= found[row][0].score + 1e-5


def test_lines_with_many_symbols_are_read_a_few_at_once_and_alike(monkeypatch):
    torch.manual_seed(0)
    network = SpeechRecogniser(SpeechShape(30, audio=(6, 50.0), **TINY)).eval()
    states, frames = {"audio": torch.randn(5, 24, 6)}, {"audio": torch.tensor([24, 10, 20, 7, 16])}
    whole = read_lines(network, states, frames, DecodingOptions(3, 0.5))
    asked, search = [], decoding.joint_beam
    monkeypatch.setattr(
        decoding, "joint_beam", lambda *given, **how: asked.append(len(given[0])) or search(*given, **how)
    )
    monkeypatch.setattr(decoding, "BEAM_BYTES", 2 * decoding.COPIES * 4 * 12 * 30 * 3)
    assert [one.symbols for one in read_lines(network, states, frames, DecodingOptions(3, 0.5))] == [
        one.symbols for one in whole
    ]
    assert asked == [2, 2, 1]


def test_greedy_joins_repeats_and_leaves_blanks_out():
    log_probs = F.one_hot(torch.tensor([[1, 1, 0, 1, 2, 2, 3, 2], [2, 0, 0, 1, 1, 1, 1, 1]]), 4).float()
    assert greedy(log_probs, torch.tensor([8, 4])) == [[1, 1, 2, 2], [2, 1]]


def test_losses_equal_torch_and_ignore_padding():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6)
    targets = torch.tensor([[1, 2, 3, 4], [2, 2, 0, 0]])
    prefix, follows = teacher_forcing(targets, 6)
    assert prefix.tolist() == [[5, 1, 2, 3, 4], [5, 2, 2, 0, 0]]
    assert follows.tolist() == [[1, 2, 3, 4, 5], [2, 2, 5, 0, 0]]
    wanted = F.cross_entropy(logits.flatten(0, 1), follows.flatten(), ignore_index=0, label_smoothing=0.01)
    torch.testing.assert_close(attention_loss(logits.log_softmax(-1), follows), wanted)
    log_probs, steps, lengths = torch.randn(2, 9, 6).log_softmax(-1), torch.tensor([9, 6]), torch.tensor([4, 2])
    plain = F.ctc_loss(log_probs.transpose(0, 1), targets, steps, lengths)
    torch.testing.assert_close(ctc_loss(log_probs, steps, targets, lengths, uniform=0), plain)
    kl = [F.kl_div(log_probs[row, :n], torch.full((n, 6), 1 / 6), reduction="sum") for row, n in enumerate([9, 6])]
    both = 0.99 * plain + 0.01 * sum(kl) / 15
    torch.testing.assert_close(ctc_loss(log_probs, steps, targets, lengths), both)


def stages(join: str) -> tuple[SpeechRecogniser, SpeechRecogniser, SpeechRecogniser]:
    torch.manual_seed(0)
    audio = SpeechRecogniser(SpeechShape(6, audio=(5, 50.0), **TINY))
    video = SpeechRecogniser(SpeechShape(6, video=(3, 25.0), **TINY))
    return audio, video, SpeechRecogniser(SpeechShape(6, audio=(5, 50.0), video=(3, 25.0), join=join, **TINY))


def hand_over(audio: SpeechRecogniser, video: SpeechRecogniser, both: SpeechRecogniser) -> None:
    """As the recipes' last stage begins."""
    parts = {"back_ends.audio": audio, "back_ends.video": video, "ctc": audio, "decoder": audio}
    take_over(both, {part: one.get_submodule(part).state_dict() for part, one in parts.items()})
    freeze(both, ["join.*", "ctc.*", "decoder.*"])


def test_the_gated_join_begins_as_the_audio_model_exactly_and_concat_does_not():
    states = {"audio": torch.randn(2, 12, 5), "video": torch.randn(2, 6, 3)}
    frames = {"audio": torch.tensor([12, 8]), "video": torch.tensor([6, 4])}
    for join, same in (("gated", True), ("concat", False)):
        audio, video, both = stages(join)
        hand_over(audio, video, both)
        with torch.no_grad():
            heard, steps = audio.eval()({"audio": states["audio"]}, {"audio": frames["audio"]})
            joined, _ = both.eval()(states, frames)
            assert torch.equal(joined, heard) == same
            assert torch.equal(both.ctc(joined, steps), audio.ctc(heard, steps)) == same
        if same:
            both.join(heard, heard, steps).sum().backward()
            assert both.join.gate.weight.grad.abs().sum() > 0  # so vision can come in
        deaf, _ = both({"audio": states["audio"]}, frames)
        assert deaf.shape == joined.shape


def test_video_is_dropped_for_a_share_of_the_lines_in_training_alone():
    torch.manual_seed(0)
    join = ConcatJoin(16, 1, 2, dropout=0.0, drop=0.2)
    audio, video, steps = torch.zeros(400, 2, 16), torch.randn(400, 2, 16), torch.full((400,), 2)
    without = join.eval()(audio, None, steps)
    dropped = (join.train()(audio, video, steps) - without).abs().amax((1, 2)) < 1e-5
    assert 0.12 < dropped.float().mean() < 0.28
    assert not ((join.eval()(audio, video, steps) - without).abs().amax((1, 2)) < 1e-5).any()
    assert GatedJoin(16, 1, 2).concat.drop == 0.2


def test_the_join_learns_from_video_alone_too_and_gives_way_to_it_as_far_as_it_is_told():
    torch.manual_seed(0)
    join = GatedJoin(16, 1, 2, dropout=0.0, drop=0.0, mute=0.3)
    audio, video, steps = torch.randn(1, 2, 16).expand(400, 2, 16), torch.randn(1, 2, 16), torch.full((400,), 2)
    muted = (join.train()(audio, video.expand(400, 2, 16), steps) == 0).all(-1).all(-1)  # at first nothing is seen
    assert 0.2 < muted.float().mean() < 0.4
    assert torch.equal(join(audio, None, steps), audio)  # nor is a line muted that has no video
    join.trust.bias.data.fill_(20.0)
    torch.testing.assert_close(join.eval()(audio[:1], video, steps[:1]), join.video(video))


def test_heads_and_back_ends_are_of_the_published_shape():
    head, end = CTCHead(512, 40), TemporalBackEnd(1024, 512, 2, depth=1)
    assert [(one.in_features, one.out_features) for one in head.maps] == [(512, 512), (512, 256), (256, 256), (256, 40)]
    assert end.reduce.kernel_size == end.reduce.stride == (2,) and end.encoder.layers[0].linear1.out_features == 2048
    assert AttentionDecoder(16, 40, 1, 2)(torch.tensor([[39]]), torch.zeros(1, 3, 16), torch.tensor([3])).shape == (
        1,
        1,
        40,
    )


@pytest.mark.parametrize("snr", [20.0, 5.0, 0.0, -10.0])
def test_noise_is_at_the_stated_ratio(snr):
    rng = np.random.default_rng(0)
    speech = rng.normal(0, 0.1, 8_000).astype(np.float32)
    voices = [rng.normal(0, 10.0**k, 3_000).astype(np.float32) for k in (-3, -1, 0)]
    noise = babble(voices, 8_000, 3, np.random.default_rng(7))
    again = babble(voices, 8_000, 3, np.random.default_rng(7))
    assert np.array_equal(noise, again) and not np.array_equal(
        noise, babble(voices, 8_000, 3, np.random.default_rng(8))
    )
    added = at_snr(speech, noise, snr) - speech
    assert 10 * np.log10(np.square(speech, dtype=float).sum() / np.square(added, dtype=float).sum()) == pytest.approx(
        snr, abs=0.01
    )


def test_what_has_no_ratio_and_voices_on_both_sides_are_refused():
    with pytest.raises(InputError, match="the noise is silent"):
        at_snr(np.ones(10, np.float32), np.zeros(10, np.float32), 0)
    with pytest.raises(InputError, match="the speech is silent"):
        at_snr(np.zeros(10, np.float32), np.ones(10, np.float32), 0)
    with pytest.raises(InputError, match="babble of 3 voices"):
        babble([np.ones(5)], 10, 3, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"1 voices of the noise are in the lines as well, such as 'b'"):
        check_disjoint(["a", "b"], ["b", "c"])


def test_speed_and_masks():
    pytest.importorskip("soxr", reason="needs the extra audio")
    wave = np.sin(2 * np.pi * 400 * np.arange(16_000) / 16_000).astype(np.float32)
    fast = at_speed(wave, 1.25)
    assert len(fast) == pytest.approx(12_800, abs=2)
    assert np.abs(np.fft.rfft(fast)).argmax() * 16_000 / len(fast) == pytest.approx(500, abs=2)
    states, lengths = torch.ones(3, 40, 64), torch.tensor([40, 20, 2])
    found = masked(states, lengths, torch.Generator().manual_seed(0))
    assert torch.equal(found, masked(states, lengths, torch.Generator().manual_seed(0)))
    steps = found.amax(2)
    assert all(steps[row, :length].sum() >= length / 2 for row, length in enumerate(lengths.tolist()))
    assert (found == 0).any(2).any(1).all() and not masked(states, lengths, torch.Generator(), spans=0, channels=0).eq(
        0
    ).any()


def test_error_rates_equal_those_of_jiwer():
    jiwer = pytest.importorskip("jiwer")
    rng = np.random.default_rng(0)
    words = ["a", "ab", "bad", "dab", "cab", "abba"]
    lines = [" ".join(rng.choice(words, rng.integers(1, 7))) for _ in range(80)]
    wanted, found = lines[:40], lines[40:]
    assert character_edits(wanted, found).rate == pytest.approx(jiwer.cer(wanted, found))
    assert word_edits(wanted, found).rate == pytest.approx(jiwer.wer(wanted, found))


def test_edits_are_counted_by_line_and_an_empty_reference_has_no_rate():
    found = character_edits(["kitten", "abc", ""], ["sitting", "abc", "xy"])
    assert (
        found.edits.tolist() == [3, 0, 2] and found.lengths.tolist() == [6, 3, 0] and found.rate == pytest.approx(5 / 9)
    )
    assert edit_distance("", "") == 0 and word_edits(["one two"], [""]).rate == 1.0
    with pytest.raises(InputError, match="empty"):
        word_edits([" "], ["a"])
    with pytest.raises(InputError, match="1 references but 2"):
        word_edits(["a"], ["a", "b"])


def test_characters_are_symbols_and_an_unknown_one_is_named():
    known = Characters.of(["a cab", "it’s  bad!"], spelling="spoken")
    assert known.characters == " 'ABCDIST" and known.symbols == 11
    rows = known.encode(["A bad  cat", "sad"])
    assert rows.shape == (2, 9) and not rows[1, 3:].any() and int(rows.max()) < known.symbols - 1
    assert [known.decode(row) for row in rows.tolist()] == ["A BAD CAT", "SAD"]
    with pytest.raises(InputError, match=r"'cab 7': the character '7' is none of the 9"):
        known.encode(["cab 7"])
    with pytest.raises(InputError, match="no characters"):
        Characters.of([" "])


@pytest.mark.slow
def test_a_recogniser_learns_to_spell_what_it_hears():
    torch.manual_seed(0)
    rng, known = np.random.default_rng(0), Characters("abc ")
    lines = ["".join(rng.choice([*"abc"], rng.integers(2, 5))) for _ in range(64)]
    sound, length = torch.randn(5, 12), 6  # six frames at 50 Hz for each character

    def heard(texts):
        rows = [sound[known.encode([text])[0]].repeat_interleave(length, 0) for text in texts]
        frames = torch.tensor([len(row) for row in rows])
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"audio": states + 0.1 * torch.randn_like(states)}, {"audio": frames}

    model = SpeechRecogniser(SpeechShape(known.symbols, audio=(12, 50.0), **{**TINY, "width": 32, "dropout": 0.0}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    targets = known.encode(lines)
    prefix, follows = teacher_forcing(targets, known.symbols)
    for _ in range(120):
        joined, steps = model(*heard(lines))
        ctc = ctc_loss(model.ctc(joined, steps), steps, targets, (targets > 0).sum(1))
        loss = 0.5 * ctc + 0.5 * attention_loss(model.decoder(prefix, joined, steps), follows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = ["cabba", "bac", "ca", "accab"]
    with torch.no_grad():
        joined, steps = model.eval()(*heard(unseen))
        log_probs = model.ctc(joined, steps)
        found = joint_beam(log_probs, joined, steps, model.decoder, ctc_weight=0.5)
    beam = [known.decode(one[0].symbols) for one in found]
    assert character_edits(unseen, [known.decode(line) for line in greedy(log_probs, steps)]).rate <= 0.2
    assert character_edits(unseen, beam).rate <= 0.2


def test_an_alignment_is_the_likeliest_path_that_reads_the_line():
    rng = np.random.default_rng(0)
    for line in ([1, 2], [1, 1], [2, 1, 2], [3]):
        log_probs = np.log(rng.dirichlet(np.ones(4), 6))
        paths = readings(4, 6)[tuple(line)]
        best = max(paths, key=lambda path: log_probs[range(6), path].sum())
        runs = [
            (symbol, list(places)) for symbol, places in itertools.groupby(range(6), key=lambda t: best[t]) if symbol
        ]
        assert ctc_alignment(log_probs, line) == [(places[0], places[-1]) for _, places in runs]
    assert ctc_alignment(log_probs[:1], [1, 2]) is None and ctc_alignment(log_probs[:2], [1, 1]) is None
    assert ctc_alignment(log_probs, []) == []


def test_words_have_the_times_of_their_symbols():
    known = Characters("ab ")
    path = [0, 1, 1, 2, 0, 3, 0, 2, 2, 0]  # "ab b"
    log_probs = np.log(np.full((10, 5), 0.01) + np.eye(5)[path])
    words = timed_words(log_probs, [1, 2, 3, 2], known, steps_hz=25, start=2.0)
    assert [(one.text, round(one.start, 2), round(one.end, 2)) for one in words] == [
        ("ab", 2.04, 2.16),
        ("b", 2.28, 2.36),
    ]


def test_words_of_a_line_that_is_padded_to_the_fewest_steps_keep_their_times():
    network = SpeechRecogniser(SpeechShape(5, audio=(6, 50.0), **TINY, least=80)).eval()
    (line,) = read_lines(network, {"audio": torch.randn(1, 50, 6)}, {"audio": torch.tensor([50])}, DecodingOptions(0))
    assert len(line.log_probs) == 80 and (line.before, line.own) == (27.5, 25.0)
    for first, begins, ends in ((38, 0.42, 0.46), (3, 0.0, 0.04), (79, 0.96, 1.0)):  # the line has one second
        log_probs = np.log(np.full((80, 5), 0.01) + np.eye(5)[np.where(np.arange(80) == first, 1, 0)])
        (word,) = timed_words(log_probs, [1], Characters("ab "), 25, before=line.before, own=line.own)
        assert (round(word.start, 3), round(word.end, 3)) == (begins, ends)


def test_pieces_of_words_are_symbols_that_come_back_from_a_file():
    texts = ["the cat sat on the mat", "the hat of the cat", "that is the cat"]
    known = Subwords.of(texts, 24, spelling="spoken")
    rows = known.encode(texts)
    assert known.symbols <= 26 and rows.shape[1] < max(map(len, texts)) and int(rows.max()) < known.symbols - 1
    again = symbols_from(json.loads(json.dumps(known.to_dict())))
    assert [again.decode(row) for row in rows.tolist()] == [one.upper() for one in texts]
    assert symbols_from(Characters("ab").to_dict()) == Characters("ab")
    with pytest.raises(InputError, match="none of the"):
        known.encode(["jazz"])
    with pytest.raises(ValueError, match="tokenizer"):
        symbols_from({"kind": "subwords", "tokenizer": {"a": 1}, "spelling": "spoken"})
