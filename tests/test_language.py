"""Language models that see: parts against naive twins, trained by the command, asked, saved, refused with a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import isthmus as ist
from isthmus.cli import main
from isthmus.data.pairs import pairs_from_lists
from isthmus.embedding import embed
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.captions import judged
from isthmus.fusion.language import (
    CausalLanguage,
    ChatPrompts,
    LanguageManagers,
    LanguageNetwork,
    LanguagePlan,
    load_language,
    packed,
)
from isthmus.fusion.language.network import Sight
from isthmus.fusion.language.packing import left_padded
from isthmus.models.language_model import VisionLanguageModel
from isthmus.training.language.messages import read_messages
from isthmus.training.run import Run
from tiny_encoders import save_bert, save_network, save_processor
from toy_language import TEMPLATE, language_store, save_language

QUICK = ["optim.batch=6", "optim.epochs=2", "optim.precision=float32", "stop.restore_best=false"]
TURNS = (["what colour is the dog"], ["is a cat in the park", "red", "what is the colour"], ["describe"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    language_store(folder)
    save_language(folder / "lm")
    return folder


@pytest.fixture
def language(here: Path) -> CausalLanguage:
    return load_language(f"hf:{here / 'lm'}")


def plan(**changes: object) -> LanguagePlan:
    shape = {"widths": [8, 8, 8], "fed": [2], "tokens": 4, "patches": [4, 4, 4], "prefix": 1, "hidden": 32}
    return LanguagePlan(**{**shape, **changes})  # type: ignore[arg-type]


def prompts(language: CausalLanguage, tokens: int = 4) -> ChatPrompts:
    return ChatPrompts(language.tokenizer, tokens, language.context, name=language.record["uri"])


def seen(network: LanguageNetwork, count: int) -> Sight:
    generator = torch.Generator().manual_seed(0)
    return network.see([torch.randn(count, 4, 8, generator=generator) for _ in range(3)])


def managed(language: CausalLanguage, every: int = 1) -> LanguageNetwork:
    torch.manual_seed(1)
    return LanguageNetwork(plan(managed=[0, 1, 2], before=[*range(0, 2, every)]), language.network).eval()


def test_packed_rows_give_what_each_prompt_gives_alone(language: CausalLanguage) -> None:
    network, asking = managed(language), prompts(language)
    assert network.managers is not None
    for gate in network.managers.gates.values():
        torch.nn.init.normal_(gate)
    said = [asking(turns, "a red dog") for turns in TURNS]
    sight = seen(network, len(said))
    alone = []
    for k, one in enumerate(said):
        rows = packed([one], 0)
        places = (rows.labels.flatten() >= 0).nonzero()[:, 0]
        assert len(places) == 4  # three words and the end
        alone.append(network.logits(rows, sight.take(torch.tensor([k])), places))
    for room in (0, 40, 1000):
        rows = packed(said, room)
        assert len(rows.ids) == {0: 3, 40: 2, 1000: 1}[room]
        labels = rows.labels.flatten()
        places = (labels >= 0).nonzero()[:, 0]
        found, owner = network.logits(rows, sight, places), rows.owner.flatten()[places]
        for k, one in enumerate(alone):
            torch.testing.assert_close(found[owner == k], one, atol=2e-5, rtol=1e-4)


def test_managers_start_as_if_they_were_not_there_and_gradients_reach_them(language: CausalLanguage) -> None:
    torch.manual_seed(1)
    plain = LanguageNetwork(plan(), language.network).eval()
    network = managed(language)
    network.projector.load_state_dict(plain.projector.state_dict())
    rows = packed([prompts(language)(turns, "red") for turns in TURNS], 64)
    places = (rows.labels.flatten() >= 0).nonzero()[:, 0]
    logits = network.logits(rows, seen(network, 3), places)
    assert torch.equal(logits, plain.logits(rows, seen(plain, 3), places))
    logits.log_softmax(-1)[:, 0].sum().backward()
    assert network.managers is not None
    for gate in network.managers.gates.values():
        assert gate.grad is not None and bool(gate.grad.abs().sum(1).gt(0).all())


def test_managers_have_the_published_number_of_parameters() -> None:
    managers = LanguageManagers(13, 896, range(0, 24, 4), fed=12)
    assert sum(one.numel() for one in managers.parameters()) == 80_640


def test_managers_add_what_they_say_before_their_decoder_layer(language: CausalLanguage) -> None:
    """Against the decoder written out, layer by layer."""
    network = managed(language)
    assert network.managers is not None
    for gate in network.managers.gates.values():
        torch.nn.init.normal_(gate)
    one = prompts(language)(TURNS[0], "red")
    rows, sight = packed([one], 0), seen(network, 1)
    assert sight.managed is not None
    hidden = network.embedded(rows.ids, rows.slots, sight)
    body = language.network.model
    rotary = body.rotary_emb(hidden, rows.positions)
    projected = [network.projector(norm(layer)) for norm, layer in zip(network.norms, _layers(1), strict=True)]
    for place, layer in enumerate(body.layers):
        gates, used = network.managers.gates[str(place)], range(3 if place else 2)
        added = sum(gates[k] * (projected[k] + network.managers.embedding[k]) for k in used)
        hidden = hidden.clone()
        hidden[0, one.slots] += added[0]  # type: ignore[index]
        causal = torch.ones(len(one), len(one), dtype=torch.bool).tril()[None, None]
        hidden = layer(hidden, attention_mask=causal, position_ids=rows.positions, position_embeddings=rotary)
    expected = language.network.lm_head(body.norm(hidden))[0]
    found = network.logits(rows, sight, torch.arange(len(one)))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def _layers(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 4, 8, generator=generator) for _ in range(3)]


def test_generation_with_a_cache_says_what_greedy_steps_without_one_say(language: CausalLanguage) -> None:
    network, asking = managed(language), prompts(language)
    assert network.managers is not None
    for gate in network.managers.gates.values():
        torch.nn.init.normal_(gate, std=0.3)
    said = [asking(turns) for turns in TURNS]
    sight = seen(network, len(said))
    ids = network.generate(left_padded(said), sight, max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=0)
    for k, one in enumerate(said):
        step = one
        for token in ids[k].tolist():
            rows = packed([step], 0)
            logits = network.logits(rows, sight.take(torch.tensor([k])), torch.tensor([len(step) - 1]))
            assert int(logits.argmax()) == token
            if token == 1:
                break
            longer = torch.cat([step.ids, torch.tensor([token])])
            step = type(one)(longer, longer == asking.slot, len(longer))


@pytest.fixture(scope="module")
def trained(here: Path) -> Path:
    """A model of the command, by the recipe with managers."""
    changes = [
        part for one in [f"language.model=hf:{here / 'lm'}", "managers.every=1", *QUICK] for part in ("--set", one)
    ]
    told = ["train", str(here / "store"), "--recipe", "llava-manager", *changes, "--out", str(here / "model")]
    assert main([*told, "--dry-run"]) == 0
    assert main(told) == 0
    return here / "model"


def test_the_command_trains_and_asks(here: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(trained)]) == 0
    assert "language model hf:" in capsys.readouterr().out
    with pytest.raises(InputError, match="it is not for matching"):
        ist.evaluate(trained, "matching", here / "data")
    card = (trained / "README.md").read_text()
    assert "2 managers over 3 layers" in card and "<user> <image>\n{question} <end>" in card
    picture = str(here / "data" / "000.png")
    capsys.readouterr()
    assert main(["ask", str(trained), picture, "what colour is the dog", "--json", "-"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed[printed.index("{") :])
    assert set(found["probabilities"]) == {"red", "blue", "green"} and sum(
        found["probabilities"].values()
    ) == pytest.approx(1)
    assert main(["caption", str(trained), picture, picture]) == 0
    first, second = capsys.readouterr().out.strip().split("\n")
    assert first == second and first.startswith(picture)
    note = here / "data" / "note.png"
    note.write_text("no picture")
    assert main(["caption", str(trained), picture, str(note)]) == 3
    said = capsys.readouterr()
    assert said.out.startswith(first) and "note.png" in said.err and "not a JPEG" in said.err


def test_likelihoods_of_all_answers_at_once_are_those_of_each_alone(here: Path, trained: Path) -> None:
    model = VisionLanguageModel.from_pretrained(trained)
    pictures, asked = [here / "data" / f"00{k}.png" for k in range(2)], ["what colour is the dog", "describe"]
    answers = ["red", "a red dog", "two dogs in the park", "blue"]
    found = model.likelihoods(pictures, asked, answers)
    states = model.side("image", pictures)
    for row, question in enumerate(asked):
        for column, answer in enumerate(answers):
            rows = packed([model._prompts()([question], answer)], 0)
            labels = rows.labels.flatten()
            places = (labels >= 0).nonzero()[:, 0]
            logits = model.network.logits(rows, model.network.see(states.take(torch.tensor([row])).values), places)
            told = logits.log_softmax(-1).gather(1, labels[places][:, None]).sum()
            assert found[row, column] == pytest.approx(float(told), abs=1e-3)


def test_stages_train_the_projector_first_and_then_the_chosen_parts(here: Path, tmp_path: Path) -> None:
    changes = [f"language.model=hf:{here / 'lm'}", "language.unfreeze=1", *QUICK]
    model = ist.train(here / "store", recipe="llava", overrides=changes, out=tmp_path / "model")
    assert isinstance(model, VisionLanguageModel)
    assert [one["stage"] for one in model.summary["stages"]] == ["projector", "answers"]
    whole = load_language(f"hf:{here / 'lm'}").network.state_dict()
    now = model.network.language.state_dict()
    changed = {name.split(".layers.")[1][0] for name in whole if not torch.equal(whole[name], now[name])}
    assert changed == {"1"}
    again = ist.load_model(tmp_path / "model")
    picture = here / "data" / "000.png"
    np.testing.assert_array_equal(again.answer(picture, ["describe"]), model.answer(picture, ["describe"]))


def test_conversations_train_on_each_answer_after_all_that_was_said(here: Path, tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is the colour"}]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "is a dog in the park"},
        {"role": "assistant", "content": "two dogs"},
    ]
    llava = [{"from": "human", "value": "<image>\ndescribe"}, {"from": "gpt", "value": "a red dog"}]
    rows = [{"image": "000.png", "messages": said}, {"id": "001.png", "conversations": llava}, {"image": "x.png"}]
    file = tmp_path / "talks.json"
    file.write_text(json.dumps(rows))
    found = read_messages(file, {"000.png": 0, "001.png": 1})
    assert [(one.picture, one.turns, one.answer) for one in found] == [
        ("000.png", ("what is the colour",), "red"),
        ("000.png", ("what is the colour", "red", "is a dog in the park"), "two dogs"),
        ("001.png", ("describe",), "a red dog"),
    ]
    changes = [f"language.model=hf:{here / 'lm'}", f"data.messages={file}", "optim.batch=2", "optim.epochs=1"]
    model = ist.train(here / "store", recipe="llava-manager", overrides=changes)
    assert model.summary["pairs"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("picture.layers=[2, 7]", "holds no states of layer 7, only of 1, 2, 3"),
        ("picture.tokens=5", "5 is no square"),
        ("language.template=TEMPLATE", "no slot for a picture"),
        ("language.model=hf:PLAIN", "has no chat template"),
        ("language.model=hf:SHORT", "but hf:.* takes 12"),
        ("language.model=hf:VIT", "no causal language model"),
        ("managers.every=0", "managers.every = 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(here: Path, tmp_path: Path, change: str, message: str) -> None:
    (tmp_path / "blind.jinja").write_text("<user> hello <end> <assistant> ")
    save_language(tmp_path / "plain", template=None)
    save_language(tmp_path / "short", context=12)
    names = {"TEMPLATE": tmp_path / "blind.jinja", "PLAIN": tmp_path / "plain", "SHORT": tmp_path / "short"}
    for name, path in {**names, "VIT": here / "vit"}.items():
        change = change.replace(name, str(path))
    changes = [f"language.model=hf:{here / 'lm'}", "managers.layers=[1, 2]", "managers.every=1", change]
    with pytest.raises((InputError, UsageError), match=message):
        ist.train(here / "store", recipe="llava", overrides=changes)


def test_a_question_beyond_the_context_and_an_empty_one_are_refused(here: Path, trained: Path) -> None:
    model = VisionLanguageModel.from_pretrained(trained)
    picture = here / "data" / "000.png"
    with pytest.raises(InputError, match=r"tokens, 9 of them the picture's, but hf:.* takes 128"):
        model.say(picture, ["dog " * 200])
    with pytest.raises(UsageError, match="empty"):
        model.say(picture, [" "])
    assert TEMPLATE


NO_MANAGERS = ["managers.every=0"]
FORMS = {
    "one": [*NO_MANAGERS, "picture.layers=[2]"],
    "joined": [*NO_MANAGERS, "picture.layers=[1, 3]", "picture.cls=true"],
    "adapted": [*NO_MANAGERS, "language.lora=2", "language.unfreeze=1"],
    "managers": ["managers.every=1"],
    "pooled": [*NO_MANAGERS, "picture.tokens=4", "picture.projector=linear"],
}
STOCK = ("one", "joined", "adapted")
QUESTION = "what colour is the dog"


def exported(here: Path, out: Path, how: str) -> tuple[dict, str]:
    """The report of an export, and what the model says about the first picture."""
    told = [f"language.model=hf:{here / 'lm'}", *QUICK, *FORMS[how], "language.system=is a dog"]
    model: Any = ist.train(here / "store", recipe="llava-manager", overrides=told)
    if model.network.managers is not None:
        for gate in model.network.managers.gates.values():
            torch.nn.init.normal_(gate)
    found = ist.export(model, out, to="llava", allow_unknown_licence=True)
    return found, model.say(here / "data" / "000.png", [QUESTION])[0]


@pytest.mark.parametrize("how", ["joined", "managers"])
def test_an_exported_folder_gives_equal_logits(here: Path, tmp_path: Path, how: str) -> None:
    found, _ = exported(here, tmp_path / "out", how)
    assert found["differences"]["logits"] < 1e-5 and found["stock"] == (how in STOCK)
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("Needs `trust_remote_code=True`" in card) == (how not in STOCK)


OUTSIDE = """
import json, sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
picture, question, *folders = sys.argv[1:]
found = []
for folder in folders:
    options = {} if folder.endswith(("one", "joined", "adapted")) else {"trust_remote_code": True}
    model = AutoModelForImageTextToText.from_pretrained(folder, **options).eval()
    processor = AutoProcessor.from_pretrained(folder, **options)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    inputs = processor(images=Image.open(picture).convert("RGB"), return_tensors="pt",
                       text=processor.apply_chat_template(asked, add_generation_prompt=True))
    said = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    found.append(processor.decode(said[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip())
print(json.dumps(found))
assert not any(name.split(".")[0] == "isthmus" for name in sys.modules)
"""


@pytest.mark.slow
def test_exported_folders_say_the_same_in_a_process_without_isthmus(here: Path, tmp_path: Path) -> None:
    said = [exported(here, tmp_path / how, how)[1] for how in FORMS]
    command = [sys.executable, "-c", OUTSIDE, str(here / "data" / "000.png"), QUESTION]
    done = subprocess.run([*command, *(str(tmp_path / how) for how in FORMS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().split("\n")[-1]) == said


def test_what_llava_has_no_form_for_is_refused_with_the_reason(here: Path, tmp_path: Path) -> None:
    told = [f"language.model=hf:{here / 'lm'}", *QUICK, "picture.blind=true"]
    model = ist.train(here / "store", recipe="llava", overrides=told)
    with pytest.raises(UsageError, match="trained blind"):
        ist.export(model, tmp_path / "out", to="llava", allow_unknown_licence=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--to hf takes no language model"):
        ist.export(model, tmp_path / "out", to="hf")  # type: ignore[arg-type]
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_in_its_second_stage(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With jitter on the managers' weights: what is drawn is a function of the step."""
    told = [f"language.model=hf:{here / 'lm'}", "managers.every=1", *QUICK]
    ist.train(here / "store", recipe="llava", overrides=told, out=tmp_path / "whole")
    step, taken = Run.step, list[int]()

    def mortal(self: Run) -> int:
        taken.append(1)
        if len(taken) == 8:  # of 2 × 6
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Run, "step", mortal)
    with pytest.raises(KeyboardInterrupt):
        ist.train(here / "store", recipe="llava", overrides=told, out=tmp_path / "cut", checkpoint_seconds=0)
    monkeypatch.undo()
    ist.train(here / "store", recipe="llava", overrides=told, out=tmp_path / "cut")
    whole, cut = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_tokens_go_through_a_trained_head_that_belongs_to_their_layer(here: Path, tmp_path: Path) -> None:
    vit, pairs = here / "vit", here / "data" / "questions.jsonl"
    save_bert(tmp_path / "bert")
    text = f"hf:{tmp_path / 'bert'}?max_tokens=8&pool=tokens"
    embed(pairs, [f"hf:{vit}?pool=cls+patches", f"hf:{vit}?pool=states"], text, out=tmp_path / "store")
    chosen = ["head.width=16", "optim.epochs=1", "optim.batch=8"]
    named = {"image": f"hf:{vit}?pool=cls+patches", "out": tmp_path / "aligned"}
    dual = ist.train(tmp_path / "store", recipe="freeze-align", overrides=chosen, **named)  # type: ignore[arg-type]
    told = [f"language.model=hf:{here / 'lm'}", f"picture.head={tmp_path / 'aligned'}", "managers.every=0", *QUICK]
    ist.train(tmp_path / "store", recipe="llava-manager", overrides=told, out=tmp_path / "model")
    model = VisionLanguageModel.from_pretrained(tmp_path / "model")
    picture = here / "data" / "000.png"
    states = model.encoders_of("image")[0].states([Image.open(picture).convert("RGB")], [None]).values
    assert isinstance(states, torch.Tensor)
    expected = dual.image_projector.cpu().dense(states[:, 0, 1:], states[:, 0, 0])
    torch.testing.assert_close(model.side("image", [picture]).values[0], expected)
    with pytest.raises(UsageError, match="through a head of isthmus"):
        ist.export(model, tmp_path / "out", to="llava", allow_unknown_licence=True)
    with pytest.raises(UsageError, match="belongs to one layer of one encoder"):
        ist.train(here / "store", recipe="llava-manager", overrides=told)


def test_stages_of_a_cnn_stand_side_by_side_and_are_managed_by_projectors_of_their_own(
    here: Path, tmp_path: Path
) -> None:
    config = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    cnn = save_processor(save_network(tmp_path / "cnn", "ResNet", config), crop=64)
    embed(here / "data" / "questions.jsonl", f"hf:{cnn}?layer=1,2&pool=states", out=tmp_path / "store")
    told = [
        f"language.model=hf:{here / 'lm'}",
        "picture.layers=[1, 2]",
        "picture.tokens=16",
        "managers.every=1",
        *QUICK,
    ]
    model = ist.train(tmp_path / "store", recipe="llava-manager", overrides=told, out=tmp_path / "model")
    assert isinstance(model, VisionLanguageModel)
    assert (model.network.plan.widths, model.network.plan.tokens) == ([8, 12], 16)
    assert model.network.plan.patches == [256, 64] and len(model.network.manager_projectors) == 2
    again, picture = ist.load_model(tmp_path / "model"), here / "data" / "000.png"
    np.testing.assert_array_equal(again.answer(picture, ["describe"]), model.answer(picture, ["describe"]))


def test_a_store_of_pooled_features_is_refused(here: Path, tmp_path: Path) -> None:
    embed(here / "data" / "questions.jsonl", f"hf:{here / 'vit'}", out=tmp_path / "store")
    with pytest.raises(UsageError, match="holds no states of image encoders: embed with layer"):
        ist.train(tmp_path / "store", recipe="llava", overrides=[f"language.model=hf:{here / 'lm'}"])


def test_captions_that_are_the_data_s_own_find_their_pictures_and_others_do_not() -> None:
    class Letters:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.eye(26, dtype=np.float32)[[ord(text[0]) - 97 for text in texts]]

    captions = ["a cat", "blue dog.", "cherry", "dots"]
    pairs = pairs_from_lists([f"{k}.png" for k in range(4)], [[one] for one in captions], ids=list("0123"))
    written = dict(zip("0123", ["a cat.", "blue dog", "cherry", "xx"], strict=True))
    found = judged(written, pairs, Letters(), 0, 0)["metrics"]  # type: ignore[arg-type]
    assert found["text_retrieval_recall@1"] == 0.75 and found["exact_match"] == 0.75


def test_questions_are_answered_by_likelihood_and_by_what_is_said(here: Path, trained: Path) -> None:
    model = VisionLanguageModel.from_pretrained(trained)
    found = ist.evaluate(model, "vqa", here / "data" / "questions.jsonl", bootstrap=20)
    rows = [json.loads(line) for line in (here / "data" / "questions.jsonl").read_text().splitlines()]
    asked, pictures = [row["question"] for row in rows], [here / "data" / row["image"] for row in rows]
    likeliest = [model.answers[k] for k in model.answer(pictures, asked).argmax(1)]
    for name, given in (("accuracy", likeliest), ("generated_accuracy", model.say(pictures, asked))):
        assert found["metrics"][name] == np.mean([one == row["answer"] for one, row in zip(given, rows, strict=True)])
    assert "{question}" in found["prompt"] and "greedy" in found["decoding"]
