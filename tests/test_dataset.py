"""What is read of a dataset: every window, every record, and whether it is the one that prepare.py wrote."""

import contextlib
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import plumbing.dataset
from configurable import UsageError
from conftest import mistake, small
from lab.needles import needles
from model import GPT, GPTConfig
from plumbing.dataset import Split
from plumbing.run import read_metrics
from train import batch, evaluate, train


def test_a_large_split_stays_on_disk_and_trains_the_same(go, monkeypatch):
    memory = go("a")
    monkeypatch.setattr(plumbing.dataset, "IN_MEMORY", 10)
    assert go("b") == memory


@pytest.fixture
def records():
    """(the folder of a dataset of records, what its meta.json says of them)."""
    folder = needles(n_needles=2, n_queries=2, length=48, n_contexts=40, n_val_contexts=11)
    return folder, json.loads((folder / "meta.json").read_text())["record"]


def test_of_a_record_only_its_answers_count(records):
    folder, record = records
    tokens = torch.from_numpy(np.fromfile(folder / "train.bin", np.uint8).astype(np.int32))
    whole = {bytes(r.to(torch.uint8).tolist()) for r in tokens.view(-1, 48)}
    for step in range(20):
        x, y = batch(Split(tokens, 48, record), 3, 1, step)
        for a, b in zip(x, y, strict=True):
            text = bytes(a.tolist())
            assert text in whole  # a window is a record
            counted = [i for i, target in enumerate(b.tolist()) if target >= 0]
            assert bytes(b[counted].tolist()) == text[-9:-6] + text[-3:]  # of ...?AB123?CD456
            assert counted == [i - 1 for i in record["scored"]]


def test_the_loss_of_records_is_the_mean_over_all_answers(records):
    folder, record = records
    tokens = torch.from_numpy(np.fromfile(folder / "val.bin", np.uint8).astype(np.int32))
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(block_size=48, n_layer=1, n_head=2, n_embd=8)).eval()
    with torch.no_grad():
        p = gpt(tokens.view(-1, 48).long()).log_softmax(-1)
    answers = [-p[r, i - 1, tokens[48 * r + i]].item() for r in range(11) for i in record["scored"]]
    for batch_size in (1, 4, 11, 16):
        loss = evaluate(gpt, gpt, Split(tokens, 48, record), batch_size, None, contextlib.nullcontext())
        assert loss == pytest.approx(np.mean(answers), rel=1e-5)


def test_records_are_trained_on(records):
    options = {"dataset": "needles", "max_iters": 4, "eval_interval": 2, "out_dir": "out/run"}
    train(small(block_size=48), **options)
    assert [row["step"] for row in read_metrics("out/run/metrics.jsonl")] == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError) as error:
        train(small(block_size=32), **options)
    assert str(error.value) == "data/needles consists of records of 48 tokens: block_size=32 must be 48"
    with pytest.raises(UsageError) as error:
        train(small(block_size=48), **options, eval_tokens=47)
    assert str(error.value) == "eval_tokens=47: must be at least 48, the length of a record of data/needles"


def test_bits_a_byte_compare_across_tokenizers(go, corpus):
    row = go()[-1]
    assert row["val_bits_per_byte"] == pytest.approx(row["val_loss"] / math.log(2))  # a byte a token
    other = Path(shutil.copytree(corpus, "data/two"))
    meta = json.loads((other / "meta.json").read_text())
    meta["val"]["bytes"] *= 4
    (other / "meta.json").write_text(json.dumps(meta))
    row = go("b", dataset="two")[-1]
    assert row["val_bits_per_byte"] == pytest.approx(row["val_loss"] / math.log(2) / 4)


def test_a_dataset_may_be_named_by_its_folder(go, corpus):
    shutil.copytree(corpus, "data/hamlet")
    assert go("a", dataset="hamlet") == go("b", dataset="data/hamlet") == go("c", dataset="data/hamlet/")
    shutil.copytree(corpus, "hamlet2")
    assert mistake(go, "d", dataset="hamlet2").startswith("no dataset data/hamlet2")


def test_a_missing_dataset_offers_the_nearest(go, corpus):
    shutil.copytree(corpus, "data/hamlet")
    message = mistake(go, dataset="hamlt")
    assert message == "no dataset data/hamlt (did you mean hamlet?): there is hamlet; python prepare.py makes one"


def test_a_damaged_dataset_is_explained(go, corpus):
    folder = Path(shutil.copytree(corpus, "data/bad"))
    (folder / "val.bin").write_bytes((folder / "val.bin").read_bytes()[:-2])
    assert mistake(go, dataset="bad").startswith("data/bad is damaged (ValueError: val.bin has ")
    folder = Path(shutil.copytree(corpus, "data/wild"))
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"vocab_size": ord("w")}))
    assert "train.bin has token 119, vocab_size is 119" in mistake(go, dataset="wild")
    (folder / "meta.json").write_text("{")
    assert mistake(go, dataset="wild").startswith("data/wild is damaged (JSONDecodeError")


def test_a_text_shorter_than_a_window_is_explained(corpus):
    message = mistake(train, small(block_size=100_000), dataset=str(corpus))
    assert "tokens to train on: too few for block_size=100000" in message


def test_a_token_beyond_the_vocabulary_is_refused_where_it_is_read_from_disk(go, corpus, monkeypatch):
    folder = Path(shutil.copytree(corpus, "data/copy"))
    monkeypatch.setattr(plumbing.dataset, "IN_MEMORY", 10)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"vocab_size": 100}))
    assert re.match(r"the data have token 1\d\d, vocab_size is 100: prepare them again", mistake(go, dataset="copy"))


def test_what_has_nothing_to_validate_on_is_refused(go, corpus, records):
    for folder, least in ((Path(shutil.copytree(corpus, "data/copy")), 2), (records[0], 48)):
        meta = json.loads((folder / "meta.json").read_text())
        content = (folder / "val.bin").read_bytes()[: least - 1]
        (folder / "val.bin").write_bytes(content)
        meta["val"] |= {"tokens": least - 1, "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "meta.json").write_text(json.dumps(meta))
        assert f"val has {least - 1} tokens, {least} are the least" in mistake(go, dataset=str(folder))


def test_a_dataset_here_is_found_as_a_shell_completes_it(go, corpus):
    shutil.copytree(corpus, "mine")
    assert go("a", dataset="./mine") == go("b")
