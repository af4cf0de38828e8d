"""Damaged, foreign and hostile files: always refused in one line, never executed."""

import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_cases import seal, small_state, torch_bytes

from fusion_det.engine.checkpoint import load_checkpoint, save_checkpoint
from fusion_det.errors import CheckpointError

torch.set_num_threads(1)


class TestDamage:
    @pytest.fixture
    def content(self, tmp_path) -> bytes:
        save_checkpoint(tmp_path / "good.pt", small_state(5, size=600))
        return (tmp_path / "good.pt").read_bytes()

    def test_every_bit_flip_is_refused_where_torch_notices_few(self, tmp_path, content):
        draw, silent = random.Random(0), 0
        path = tmp_path / "last.pt"
        path.write_bytes(content)
        ends = [*range(120), *range(8 * len(content) - 8 * 93, 8 * len(content))]  # first header, end record and digest: all of them
        with path.open("r+b", buffering=0) as file:
            for trial, bit in enumerate(ends + [draw.randrange(8 * len(content)) for _ in range(2000)]):
                place, flipped = bit // 8, content[bit // 8] ^ (1 << bit % 8)
                os.pwrite(file.fileno(), bytes([flipped]), place)
                with pytest.raises(CheckpointError) as caught:
                    load_checkpoint(path)
                assert len(caught.value.lines) == 1
                if trial >= len(ends) and trial % 40 == 0:
                    silent += self.torch_accepts(path)
                os.pwrite(file.fileno(), content[place : place + 1], place)
        assert load_checkpoint(path)["iteration"] == 5
        assert silent > 15  # of 50: otherwise this test would prove nothing about the digest

    @staticmethod
    def torch_accepts(path: Path) -> bool:
        try:
            torch.load(path, weights_only=True)
        except Exception:
            return False
        return True

    def test_every_truncation_and_tail_is_refused(self, tmp_path, content):
        path = tmp_path / "last.pt"
        lengths = {*range(100), *(len(content) - n for n in range(1, 101)), *random.Random(1).sample(range(len(content)), 100)}
        for length in sorted(lengths):
            for damaged in (content[:length], content[:length] + bytes(len(content) - length)):
                path.write_bytes(damaged)
                with pytest.raises(CheckpointError):
                    load_checkpoint(path)
        for tail in (b"\0", b"\n", content[-71:]):
            path.write_bytes(content + tail)
            with pytest.raises(CheckpointError):
                load_checkpoint(path)
        assert len(lengths) >= 250

    def test_message_names_file_and_the_previous_one(self, tmp_path):
        for number in (1, 2):
            save_checkpoint(tmp_path / "last.pt", small_state(number))
        content = (tmp_path / "last.pt").read_bytes()
        (tmp_path / "last.pt").write_bytes(content[:-1000])
        with pytest.raises(CheckpointError, match="damaged or cut short") as caught:
            load_checkpoint(tmp_path / "last.pt")
        assert str(tmp_path / "last.pt") in str(caught.value)
        assert str(tmp_path / "previous.pt") in caught.value.mend
        assert caught.value.exit_code == 3


class TestForeign:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (torch_bytes({"model": {}, "format_version": 1}), "not a fusion_det checkpoint"),
            (seal(torch_bytes({"model": {}})), "not a fusion_det checkpoint"),
            (seal(torch_bytes(torch.zeros(3))), "not a fusion_det checkpoint"),
            (seal(torch_bytes({"format_version": 2})), "format version 2"),
            (seal(torch_bytes({"format_version": 1, "size": torch.Size([1])})), "other than tensors"),
            (pickle.dumps({"format_version": 1}), "not a fusion_det checkpoint"),
            (b"\x10\0\0\0\0\0\0\0{}              ", "not a fusion_det checkpoint"),
            (b"", "empty"),
        ],
    )
    def test_other_files(self, tmp_path, content, message):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_checkpoint(tmp_path / "x.pt")
        assert caught.value.mend

    def test_missing_file_and_folder(self, tmp_path):
        for path in (tmp_path / "no.pt", tmp_path):
            with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
                load_checkpoint(path)

    def test_the_hand_made_seal_is_the_real_one(self, tmp_path):
        (tmp_path / "x.pt").write_bytes(seal(torch_bytes({"format_version": 1, "n": 5})))
        assert load_checkpoint(tmp_path / "x.pt")["n"] == 5


class Gadget:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestHostile:
    @pytest.mark.parametrize(
        "name", ["system", "eval", "exec", "open", "import", "unlink", "hub", "load", "getattr", "mkdir", "popen", "nested"]
    )
    def test_gadgets_with_a_right_digest_are_refused_and_not_run(self, tmp_path, name):
        marker = tmp_path / "ran"
        victim = tmp_path / "victim"
        victim.write_text("still here")
        statement = f"open({str(marker)!r}, 'w')"
        gadget = {
            "system": Gadget(os.system, f"touch {marker}"),
            "eval": Gadget(eval, statement),
            "exec": Gadget(exec, statement),
            "open": Gadget(open, str(marker), "w"),
            "import": Gadget(__import__, "antigravity"),
            "unlink": Gadget(os.unlink, str(victim)),
            "hub": Gadget(torch.hub.load, str(tmp_path), "x"),
            "load": Gadget(torch.load, str(victim)),
            "getattr": Gadget(getattr, "text", "upper"),
            "mkdir": Gadget(os.mkdir, str(marker)),
            "popen": Gadget(os.popen, f"touch {marker}"),
            "nested": {"weight": torch.zeros(2), "deep": [Gadget(os.system, f"touch {marker}")]},
        }[name]
        (tmp_path / "x.pt").write_bytes(seal(torch_bytes({"format_version": 1, "model": gadget})))
        with pytest.raises(CheckpointError, match="nothing of it was used"):
            load_checkpoint(tmp_path / "x.pt")
        assert not marker.exists()
        assert victim.read_text() == "still here"

    def test_archives_that_inflate_are_refused(self, tmp_path):
        source = zipfile.ZipFile(io.BytesIO(torch_bytes({"format_version": 1, "x": torch.zeros(5_000_000)})))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            for record in source.infolist():
                target.writestr(record.filename, source.read(record))
        assert len(packed.getvalue()) < 100_000
        (tmp_path / "x.pt").write_bytes(seal(packed.getvalue()))
        with pytest.raises(CheckpointError, match="nothing of it was used"):
            load_checkpoint(tmp_path / "x.pt")
