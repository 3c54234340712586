"""Does a speech encoder that never saw a text help? BEST-RQ, trained here, against the same network untrained.

    python benchmarks/self_supervised.py train DEMO OUT [--minutes 45]    # DEMO: out of `isthmus demo speech`
    python benchmarks/self_supervised.py rows DEMO OUT [--seeds 3]        # recognisers; stopped, it goes on

`speech_study.py --render` writes its section of docs/speech.md.

BEST-RQ (Chiu et al., ICML 2022, arXiv 2202.01855): stretches of the spectrum are hidden behind noise, and the network
says which of 1,024 random codes is nearest to a random projection of what was hidden; neither is trained. Here: a
network of the shape of Whisper's encoder with 4 layers of 192, on prompts of four languages and the training lines of
the demo without their texts. Recognisers (CTC over learned weights of all layers) then learn from a tenth, three tenths
and all of the demo's training lines, with the encoder frozen, as many steps each. Characters that are wrong (CER), on
the demo's test lines without noise. Packaged Whisper, which was supervised on transcripts, stands beside.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperModel

import isthmus as ist
from isthmus.data import audio
from isthmus.data.audio import RATE
from isthmus.embedding import embed
from isthmus.encoders.speech import _mel_filters, log_mel
from isthmus.metrics.transcripts import character_edits
from isthmus_demo.talking.lines import recordings
from line_errors import interval, rate

RESULTS = Path(__file__).parent / "results" / "self_supervised.json"
LANGUAGES = ("es", "fr", "it", "ru")
WINDOW = 4  # seconds
MELS, WIDTH, DEPTH = 80, 192, 4
CODES, CODE_WIDTH = 1024, 16
STARTS, SPAN = 0.04, 10  # of tokens a stretch begins at; how many tokens it hides
BATCH, RATE_OF_LEARNING, WARMUP = 32, 1e-3, 200
SHARES = {"10": 0.1, "30": 0.3, "100": 1.0}
STEPS = 700  # of a recogniser, whatever it learns from
FRONTS = ("untrained", "BEST-RQ", "Whisper tiny (supervised)")
SECTION = """BEST-RQ learns for {minutes:.0f} minutes (threads: {threads}; {steps:,} steps) from
{minutes of sound:.0f} minutes of prompts in other languages and the training lines without their texts: of what is
hidden it then names {last:.0%} of the codes right, after the first hundred steps {first:.0%}. A recogniser over its
frozen layers against one over the same network untrained, on the demo's test lines without noise; CER in percent, 95 %
intervals by line (`benchmarks/self_supervised.py`)."""
RECIPE = """
description = "a recogniser over learned weights of all layers"
objective = "speech"

[speech]
width = 96
depth = 1
heads = 4
front = "saum"
layers = 0
small = true

[losses]
ctc = 1.0

[decoding]
beam = 0
ctc_weight = 1.0

[optim]
name = "adamw"
lr = 1e-3
weight_decay = 0.01
warmup = 0.1
batch = 16
clip = 1.0

[stop]
restore_best = true
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "rows"))
    parser.add_argument("demo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "train":
        train(given.demo, given.out, given.minutes)
    else:
        rows(given.demo, given.out, given.seeds)


# --- the encoder ------------------------------------------------------------------------------------------------------


def spectra(demo: Path) -> tuple[Tensor, Tensor]:
    """Log-mel windows float32 [n, mels, 100 · WINDOW] of all that is heard without its text, silence behind each
    recording; which of their tokens are of a recording, bool [n, 50 · WINDOW].
    """
    waves = [wave for language in LANGUAGES for _, wave in recordings(language)]
    waves += [audio.decode((demo / "pack" / row["audio"]).read_bytes()) for row in lines(demo, "train")]
    size, filters, mels, spoken = WINDOW * RATE, _mel_filters(MELS, 400), list[Tensor](), list[Tensor]()
    for wave in map(torch.from_numpy, waves):
        pieces = F.pad(wave, (0, -len(wave) % size)).view(-1, size)
        inside = (torch.arange(pieces.numel()) < len(wave)).view(-1, size)[:, :: RATE // 50]
        heard = pieces.abs().amax(1) > 1e-3
        if heard.any():
            mels.append(log_mel(pieces[heard], filters))
            spoken.append(inside[heard])
    return torch.cat(mels), torch.cat(spoken)


def new_network() -> WhisperModel:
    """Random weights, the same each time; its decoder is not used."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8, "vocab_size": 8}
    small |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    shape: dict[str, Any] = {"d_model": WIDTH, "encoder_layers": DEPTH, "encoder_attention_heads": 4}
    shape |= {"encoder_ffn_dim": 4 * WIDTH, "num_mel_bins": MELS, "max_source_positions": 50 * WINDOW}
    return WhisperModel(WhisperConfig(**shape, **small, max_target_positions=4))


def save(network: WhisperModel, folder: Path) -> None:
    network.save_pretrained(folder)
    told = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": MELS, "sampling_rate": RATE}
    told |= {"n_fft": 400, "hop_length": 160, "chunk_length": WINDOW}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


class RandomCodes(nn.Module):
    """Of a spectrum [n, mels, 2 · T], the code that is nearest to a random projection of each pair of frames [n, T]."""

    mean: Tensor
    spread: Tensor
    projection: Tensor
    codes: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(0)
        projection = torch.empty(2 * MELS, CODE_WIDTH)
        nn.init.xavier_uniform_(projection, generator=made)
        codes = F.normalize(torch.randn(CODES, CODE_WIDTH, generator=made), dim=1)
        for name, value in (("mean", mean), ("spread", spread), ("projection", projection), ("codes", codes)):
            self.register_buffer(name, value)

    def forward(self, mel: Tensor) -> Tensor:
        pairs = ((mel - self.mean) / self.spread).transpose(1, 2).unflatten(1, (-1, 2)).flatten(2)
        return (F.normalize(pairs @ self.projection, dim=-1) @ self.codes.T).argmax(-1)


def hidden(count: int, tokens: int) -> Tensor:
    """Which tokens are hidden, bool [count, tokens]: stretches of `SPAN`."""
    starts = (torch.rand(count, 1, tokens) < STARTS).float()
    return F.max_pool1d(F.pad(starts, (SPAN - 1, 0)), SPAN, stride=1)[:, 0] > 0


def train(demo: Path, out: Path, minutes: float) -> None:
    """Write OUT/untrained and OUT/best-rq, encoders that `hf:` loads, and what the training gave."""
    (mel, spoken), network = spectra(demo), new_network()
    save(network, out / "untrained")
    frames = mel.transpose(1, 2)[spoken.repeat_interleave(2, 1)]
    centre, spread = frames.mean(0)[:, None], frames.std(0)[:, None]
    codes, head = RandomCodes(centre, spread), nn.Linear(WIDTH, CODES)
    encoder = network.encoder.train()
    parameters = [one for one in (*encoder.parameters(), *head.parameters()) if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE_OF_LEARNING, weight_decay=0.01, betas=(0.9, 0.98))
    torch.manual_seed(1)
    began, step, said, curve = time.monotonic(), 0, list[tuple[float, float]](), list[dict[str, float]]()
    while (spent := (time.monotonic() - began) / (60 * minutes)) < 1:
        eased = min(1.0, (step + 1) / WARMUP) * max(0.02, 1 - spent)  # falls with the time that is left
        optimizer.param_groups[0]["lr"] = eased * RATE_OF_LEARNING
        some = torch.randint(len(mel), (BATCH,))
        heard, covered = mel[some], hidden(BATCH, spoken.shape[1]) & spoken[some]
        noise = centre + 0.1 * spread * torch.randn_like(heard)
        tokens = encoder(torch.where(covered.repeat_interleave(2, 1)[:, None], noise, heard)).last_hidden_state
        logits, wanted = head(tokens[covered]), codes(heard)[covered]
        loss = F.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        said.append((float(loss.detach()), float((logits.argmax(1) == wanted).float().mean())))
        if step % 100 == 0:
            found = np.mean(said[-100:], axis=0)
            curve.append({"step": step, "loss": float(found[0]), "right": float(found[1])})
            print(curve[-1], f"{spent:.0%}", flush=True)
    save(network.eval(), out / "best-rq")
    told = {"minutes of sound": int(spoken.sum()) / 50 / 60, "minutes": minutes, "steps": step, "curve": curve}
    told["threads"] = torch.get_num_threads()
    (out / "training.json").write_text(json.dumps(told))


# --- what recognisers make of it --------------------------------------------------------------------------------------


def lines(demo: Path, split: str) -> Iterator[dict[str, Any]]:
    """Rows of the demo's lines of a split; each sound once."""
    table = "test" if split == "test" else "lines"
    seen = set()
    for row in map(json.loads, (demo / "pack" / f"{table}.jsonl").read_text().splitlines()):
        if row["split"] == split and row["audio"] not in seen:
            seen.add(row["audio"])
            yield row


def rows(demo: Path, out: Path, seeds: int) -> None:
    """Train what is missing, and keep [edits, characters] of each test line."""
    table, recipe = demo / "pack" / "heard.jsonl", out / "recogniser.toml"
    kept = [{**row, "video": None} for split in ("train", "val", "test") for row in lines(demo, split)]
    table.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in kept))
    recipe.write_text(RECIPE)
    uris = [f"hf:{(out / name).resolve()}?seconds={WINDOW}" for name in ("untrained", "best-rq")]
    uris.append(f"wheel:whisper-tiny-en?seconds={WINDOW}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    results["training"] = json.loads((out / "training.json").read_text())
    for front, uri in zip(FRONTS, uris, strict=True):
        store = out / f"store-{FRONTS.index(front)}"
        embed(table, encoders=[f"{uri}&layer=*&pool=states"], out=store)
        ids = [row["id"] for row in lines(demo, "train")]
        for name, share in SHARES.items():
            for seed in range(seeds):
                if (key := f"{front}/{name}/{seed}") not in results["rows"]:
                    some = np.random.default_rng(seed).permutation(ids)[: round(share * len(ids))].tolist()
                    results["rows"][key] = measured(store, demo, recipe, some, seed)
                    RESULTS.write_text(json.dumps(results) + "\n")
                    print(key, len(some), f"{100 * rate(results['rows'][key]):.1f}", flush=True)


def measured(store: Path, demo: Path, recipe: Path, ids: list[str], seed: int) -> list[list[int]]:
    """[edits, characters] of each test line, of a recogniser that has learned from these lines."""
    epochs = STEPS / -(-len(ids) // 16)
    told = [f"optim.epochs={epochs:.0f}", f"stop.every={epochs / 10:.1f}"]
    model: Any = ist.train(store, recipe=str(recipe), overrides=told, only=ids, seed=seed)
    found: Any = ist.evaluate(
        model, "speech", str(demo / "pack" / "heard.jsonl"), split="test", snr=("clean",), modality=("a",), bootstrap=0
    )
    said = found[0] if isinstance(found, list) else found
    edits = character_edits(*([one[name] for one in said["transcripts"]] for name in ("reference", "found")))
    return np.stack([edits.edits, edits.lengths], 1).tolist()


def runs_of(known: dict[str, Any], front: str, share: str) -> list[Any]:
    """Seed by seed."""
    return [known[key] for key in sorted(known) if key.rpartition("/")[0] == f"{front}/{share}"]


def section() -> str:
    """What it gave, as a section of docs/speech.md; nothing before it was run."""
    if not RESULTS.exists():
        return ""
    results = json.loads(RESULTS.read_text())
    told, known = results["training"], results["rows"]
    first, last = told["curve"][0]["right"], told["curve"][-1]["right"]
    lines = ["", "## A speech encoder that never saw text", "", SECTION.format(first=first, last=last, **told), ""]
    lines += [
        f"| encoder | {' | '.join(f'{name} % of the lines' for name in SHARES)} |",
        "|---" * (1 + len(SHARES)) + "|",
    ]
    for front in FRONTS:
        cells = []
        for name in SHARES:
            runs = runs_of(known, front, name)
            cells.append(f"{interval(runs)}, {len(runs)} seed{'s'[: len(runs) - 1]}" if runs else "")
        lines.append(f"| {front} | {' | '.join(cells)} |")
    for name in SHARES:
        ours, theirs = (runs_of(known, front, name) for front in FRONTS[1::-1])
        if ours and len(ours) == len(theirs):
            lines += ["", f"With {name} %, BEST-RQ minus untrained: {interval(ours, theirs)} points."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
