"""The demo behind its page: the library's own answers, nothing kept, and no visitor who can break it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import gc
import io
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
import urllib.request
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import forks
from tests.support.demos import CLASSES, SECRET, film, write_dicom, write_png
from tests.support.folds import small_fold
from tests.support.networks import small

pytest.importorskip("gradio")

from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from starlette.datastructures import Headers
from starlette.requests import Request

from cvrnet.demo import markup
from cvrnet.demo.answering import Answering, Upload
from cvrnet.demo.page import build_page
from cvrnet.demo.serving import check_port, running
from cvrnet.demo.uploads import Uploads
from cvrnet.demo.viewing import LONGEST, jpeg, pack, unpack
from cvrnet.errors import UserError
from cvrnet.explain import draw_overlay, explain
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import save_checkpoint

SMALL_LIMIT = 1  # megabyte


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def answering(predictor: Predictor) -> Answering:
    return Answering(predictor)


@pytest.fixture(scope="module")
def run_of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``run`` with a single model."""
    folder = tmp_path_factory.mktemp("one") / "run"
    save_checkpoint(small(img_size=64), folder, CLASSES)
    return folder


class Page:
    """A page that is served, and the folder that its files go through."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder

    @cached_property
    def visitor(self) -> Client:
        return self.client()

    def client(self) -> Client:
        """A visitor of their own."""
        return Client(self.address, verbose=False)

    def ask(
        self, path: Path, part: str = "network", threshold: float = 0.6, visitor: Client | None = None
    ) -> tuple[Any, ...]:
        """What the page shows for a file."""
        return (visitor or self.visitor).predict(handle_file(path), part, threshold, api_name="/answer")

    def kept(self) -> list[Path]:
        """What lies on disk for visitors."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def page(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with pytest.MonkeyPatch.context() as patch:
        parent = tmp_path_factory.mktemp("temporary")
        patch.setattr(tempfile, "tempdir", str(parent))
        with running(predictor, "folds", port=free_port(), max_mb=SMALL_LIMIT) as address:
            (folder,) = parent.glob("cvrnet-demo-*")
            assert folder.stat().st_mode & 0o077 == 0
            yield Page(address, folder)
        assert not folder.exists()


# Answers


@pytest.mark.parametrize("kind", ["png", "dicom"])
def test_answers_are_the_librarys(answering: Answering, predictor: Predictor, kind: str, tmp_path: Path) -> None:
    path = write_png(tmp_path / "a") if kind == "png" else write_dicom(tmp_path / "a", film("CVP"))
    answer = answering.file(Upload(path, "chest"))
    (expected,) = predictor.stream([path], heads=True)
    np.testing.assert_allclose(answer.prediction.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(answer.prediction.heads, expected.heads, atol=1e-6)
    assert answer.prediction.predictive_entropy == pytest.approx(expected.predictive_entropy, abs=1e-6)
    assert answer.prediction.mutual_information == pytest.approx(expected.mutual_information, abs=1e-6)
    assert answer.prediction.mutual_information > 1e-4
    assert answering.parts == ["network", "test_resnet", "test_efficientnet", "P1", "P2", "P3", "P4", "P5"]
    for target in CLASSES:
        (explanation,) = explain(predictor, [path], target=target, parts=answering.parts)
        found = answer.maps[target]
        assert {part for part in found if isinstance(found[part], str)} == set(explanation.refused)
        for part, grid in explanation.grids.items():
            np.testing.assert_allclose(found[part], grid, atol=1e-4)
        assert explanation.grids, "no map at all would prove nothing"


def test_a_table_is_predicts_own(answering: Answering, predictor: Predictor, tmp_path: Path) -> None:
    paths = [write_png(tmp_path / "1", "NOR"), write_dicom(tmp_path / "2", np.stack([film(), film("CVP")]))]
    (tmp_path / "3").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    names = ["ad.png", "ct.dcm", "broken.png"]
    done: list[tuple[int, int]] = []
    uploads = [Upload(path, name) for path, name in zip([*paths, tmp_path / "3"], names, strict=True)]
    columns, rows = answering.table(uploads, lambda n, total: done.append((n, total)))
    assert [row["path"] for row in rows] == ["ad.png", "ct.dcm#1", "ct.dcm#2", "broken.png"]
    assert done[-1] == (4, 4)
    expected = list(predictor.stream([paths[0], f"{paths[1]}#1", f"{paths[1]}#2"]))
    for row, prediction in zip(rows, expected, strict=False):
        assert row["prediction"] == prediction.label
        np.testing.assert_allclose([row[f"prob_{name}"] for name in CLASSES], prediction.probabilities, atol=1e-6)
        assert row["predictive_entropy"] == pytest.approx(prediction.predictive_entropy, abs=1e-6)
    assert rows[3]["error"]
    assert not rows[3]["prediction"]
    html = markup.table(columns, rows)
    assert str(tmp_path) not in html
    assert "3 of 4 images answered" in html
    assert "broken.png" in html
    data = base64.b64decode(re.search(r'download="predictions.csv" href="data:[^,]*,([^"]+)"', html)[1])  # type: ignore[index]
    written = list(csv.DictReader(io.StringIO(data.decode())))
    assert list(written[0]) == columns
    assert [row["path"] for row in written] == [row["path"] for row in rows]
    assert float(written[1]["prob_CVP"]) == rows[1]["prob_CVP"]


def test_hostile_files_meet_predicts_limits(answering: Answering, predictor: Predictor, tmp_path: Path) -> None:
    """Pictures that claim 60,000 x 60,000 pixels: the same sentence, from one image, a table and `predict`."""
    png = bytearray(write_png(tmp_path / "png").read_bytes())
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    dicom = pydicom.dcmread(write_dicom(tmp_path / "dicom", film()))
    dicom.Rows = dicom.Columns = 60_000
    dicom.save_as(tmp_path / "dicom")
    (tmp_path / "png").write_bytes(png)
    for name in ("png", "dicom"):
        (predicted,) = predictor.stream([tmp_path / name])
        with pytest.raises(UserError) as refused:
            answering.file(Upload(tmp_path / name, "name"))
        (row,) = answering.table([Upload(tmp_path / name, "name")])[1]
        assert "pixels" in row["error"]
        assert str(refused.value) == f"name: {row['error']}"
        assert predicted.error.removeprefix(f"{tmp_path / name}: ") == row["error"]


def test_a_file_of_frames_is_sent_elsewhere(answering: Answering, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "0123", np.stack([film(), film()]))
    with pytest.raises(UserError, match=r"^ct\.dcm: a file of several frames"):
        answering.file(Upload(path, "ct.dcm"))


def test_text_of_visitors_is_escaped(answering: Answering, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    answer = answering.file(Upload(write_png(tmp_path / "a"), name))
    (tmp_path / "b").write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        answering.file(Upload(tmp_path / "b", name))
    table = answering.table([Upload(tmp_path / "a", name), Upload(tmp_path / "b", name)])
    shown = [markup.probabilities(answer, CLASSES, (2, 5)), markup.problem(str(error.value)), markup.table(*table)]
    for html in shown:
        assert "<img" not in html
        assert "&lt;img src=x" in html


# What the browser keeps


def test_the_picture_is_explains_overlay(answering: Answering, predictor: Predictor, tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", size=LONGEST)
    answer = answering.file(Upload(path, "a.png"))
    text = pack(answer)
    assert len(text) < 300_000
    view = unpack(text)
    assert np.abs(view.picture.astype(int) - answer.image).mean() < 2  # JPEG
    for target, parts in answer.maps.items():
        for part, grid in parts.items():
            kept = view.maps[target][part]
            assert kept == grid if isinstance(grid, str) else np.abs(kept / 255 - grid).max() < 0.002
    (explanation,) = explain(predictor, [path], parts=["network"])
    expected = draw_overlay(view.picture, explanation.map(size=view.picture.shape[:2]), threshold=0.5)
    drawn = view.draw(explanation.target, "network", 0.5)
    assert np.mean(np.abs(drawn.astype(int) - expected) > 3) < 0.01  # the map's 255 steps move its edge a little
    with pytest.raises(UserError, match="no map of 'P9'"):
        view.draw("CVP", "P9", 0.5)


NOT_A_VIEW = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["picture", "maps", "a"]), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(value=NOT_A_VIEW, cells=st.lists(st.integers(-3, 300), max_size=3), data=st.binary(max_size=40))
def test_what_comes_back_is_not_trusted(value: object, cells: list[int], data: bytes) -> None:
    text = base64.b64encode(data).decode()
    picture = base64.b64encode(jpeg(np.zeros((4, 4, 3), np.uint8))).decode()
    for kept in (value, {"picture": text, "maps": {}}, {"picture": picture, "maps": {"a": {"b": [*cells, text]}}}):
        with contextlib.suppress(UserError):  # and nothing else is raised
            view = unpack(json.dumps(kept))
            grids = [grid for parts in view.maps.values() for grid in parts.values() if not isinstance(grid, str)]
            assert all(grid.size == len(data) for grid in grids)


def test_a_bomb_that_comes_back_is_refused() -> None:
    bomb = bytearray(jpeg(np.zeros((4, 4, 3), np.uint8)))
    size = bomb.index(b"\xff\xc0") + 5
    bomb[size : size + 4] = b"\xff\xff" * 2  # 65,535 x 65,535 pixels
    with pytest.raises(UserError, match="load it again"):
        unpack(json.dumps({"picture": base64.b64encode(bomb).decode(), "maps": {}}))


def test_a_picture_of_many_scans_is_refused() -> None:
    """Decoding takes as long as there are scans; `jpeg` writes one."""
    file = io.BytesIO()
    Image.fromarray(film()).convert("RGB").save(file, "JPEG", progressive=True)
    with pytest.raises(UserError, match="load it again"):
        unpack(json.dumps({"picture": base64.b64encode(file.getvalue()).decode(), "maps": {}}))
    assert unpack(json.dumps({"picture": base64.b64encode(jpeg(film())).decode(), "maps": {}})).picture.shape


# Uploads


def test_each_upload_lies_alone_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(tmp_path, 1000)

    def send(*files: bytes, until_gone: bool = False) -> list[str]:
        body = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="Meyer.png"\r\n\r\n' + file + b"\r\n"
            for file in files
        )
        body += b"--x--\r\n"
        headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(len(body))}
        scope = {"type": "http", "method": "POST", "headers": Headers(headers).raw}
        sent = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            return next(sent)

        async def served() -> bytes:
            response = await uploads.receive(Request(scope, receive))
            end = time.monotonic() + 60
            while until_gone and list(tmp_path.iterdir()) and time.monotonic() < end:
                await asyncio.sleep(0.01)
            return bytes(response.body)

        return json.loads(asyncio.run(served()))

    first, second = send(b"same"), send(b"same")
    assert first != second
    assert "Meyer" not in str(list(tmp_path.iterdir()))
    with uploads.taken([{"path": first[0]}]) as (given,):
        assert given == Upload(Path(first[0]), "Meyer.png")
        assert given.path.read_bytes() == b"same"
    assert not Path(first[0]).exists()
    assert Path(second[0]).exists()
    for path in (first[0], str(tmp_path / "never"), __file__, ""):
        with pytest.raises(UserError, match="send it again"), uploads.taken([{"path": path}]):
            pass
    assert Path(__file__).exists()
    with uploads.taken([{"path": second[0]}]):
        pass
    assert list(tmp_path.iterdir()) == []
    three = send(b"a", b"b", b"c")
    with pytest.raises(ZeroDivisionError), uploads.taken([{"path": path} for path in three]):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("cvrnet.demo.uploads.EXPIRY", 0.01)
    (late,) = send(b"nobody asks", until_gone=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="send it again"), uploads.taken([{"path": late}]):
        pass


# The page, asked as its browser asks


def test_nothing_is_kept(page: Page, tmp_path: Path) -> None:
    png, dicom = write_png(tmp_path / "Meyer.png"), write_dicom(tmp_path / "Meyer.dcm", film())
    (tmp_path / "broken.png").write_bytes(png.read_bytes()[:200])
    for path in (png, dicom, tmp_path / "broken.png"):
        emptied, html, *_ = page.ask(path)
        assert emptied is None
        assert path.name in html
        assert page.kept() == []
    html = page.visitor.predict(
        [handle_file(path) for path in (png, dicom, tmp_path / "broken.png")], api_name="/table"
    )[1]
    assert "2 of 3 images answered" in html
    assert "Not read: 1" in html
    assert SECRET not in html
    assert page.kept() == []
    gc.collect()
    assert not [kept for kept in gc.get_objects() if type(kept) is SessionState], "would hold the last answer"
    client = page.visitor
    session = httpx.get(f"{page.address}/gradio_api/deep_link", params={"session_hash": client.session_hash})
    assert session.status_code == 404, "would write the last answer to disk"


def test_files_of_this_machine_are_out_of_reach(page: Page, tmp_path: Path) -> None:
    image = write_png(tmp_path / "own.png")
    with httpx.Client(base_url=page.address) as client:
        assert client.get(f"/gradio_api/file={image}").status_code == 404
        assert client.get("/gradio_api/file=http://127.0.0.1:1/").status_code == 404
        policy = client.get("/").headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        file = {"path": str(image), "orig_name": "own.png", "meta": {"_type": "gradio.FileData"}}
        asked = client.post("/gradio_api/call/answer", json={"data": [file, "network", 0.6]}).json()["event_id"]
        assert "event: error" in client.get(f"/gradio_api/call/answer/{asked}").text
    assert image.exists()
    assert page.kept() == []


def test_other_parts_and_thresholds_come_without_the_network(
    page: Page, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = page.visitor
    answer = client.predict(handle_file(write_png(tmp_path / "a.png")), "network", 0.6, api_name="/answer")
    view = next(text for text in answer if isinstance(text, str) and text.startswith('{"picture"'))
    monkeypatch.setattr(type(predictor), "member_probabilities", None)
    monkeypatch.setattr("cvrnet.demo.answering.explain_classes", None)
    pictures = [
        client.predict(view, target, part, share, api_name="/draw")
        for target, part, share in [("CVP", "network", 0.6), ("CVP", "network", 0.2), ("NOR", "test_resnet", 0.2)]
    ]
    assert all("data:image/jpeg" in picture for picture in pictures)
    assert len(set(pictures)) == 3
    assert "load it again" in client.predict("{", "CVP", "network", 0.6, api_name="/draw")


@pytest.mark.parametrize("part", ["nonsense", None, ["network"], {"a": 1}])
@pytest.mark.parametrize("threshold", [7, "x", None])
def test_odd_choices_do_no_harm(page: Page, part: Any, threshold: Any, tmp_path: Path) -> None:
    answer = page.ask(write_png(tmp_path / "a.png"), part, threshold)
    assert "Probability of each class" in answer[1]
    assert page.kept() == []


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbage_is_named_and_the_next_visitor_served(page: Page, tmp_path: Path, data: st.DataObject) -> None:
    good = bytearray(write_png(tmp_path / "good.png").read_bytes())
    if data.draw(st.booleans()):
        bad = bytes(good[: data.draw(st.integers(0, len(good) - 100))])
    else:
        bad = data.draw(st.binary(max_size=300))
    (tmp_path / "bad.png").write_bytes(bad)
    _, html, *_ = page.ask(tmp_path / "bad.png")
    assert "No answer." in html
    assert "bad.png: " in html
    assert str(page.folder) not in html
    assert "Probability of each class" in page.ask(tmp_path / "good.png")[1]
    assert page.kept() == []


def test_large_uploads_are_refused(page: Page) -> None:
    with httpx.Client(base_url=page.address) as client:
        large = b"x" * (SMALL_LIMIT * 2**20 + 1)
        assert client.post("/gradio_api/upload", files={"files": ("a", large)}).status_code == 413
        many = [("files", (str(i), large[:-2])) for i in range(17)]
        assert client.post("/gradio_api/upload", files=many).status_code == 413
        chunked = client.post(
            "/gradio_api/upload",
            headers={"content-type": "multipart/form-data; boundary=x"},
            content=(
                part
                for part in [b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n', *[large] * 17]
            ),
        )
        assert chunked.status_code == 411
        too_many = [("files", (str(i), b"x")) for i in range(201)]
        assert client.post("/gradio_api/upload", files=too_many).status_code == 400
    assert page.kept() == []


def test_twenty_visitors_at_once(page: Page, tmp_path: Path) -> None:
    """Half of them send the very same file; each gets the answer to its own."""
    same = write_png(tmp_path / "same.png")
    own = [write_png(tmp_path / f"own{i}.png", CLASSES[i % 3], 64 + 8 * i) for i in range(10)]
    alone = {path: answer_of(page.ask(path)) for path in (same, *own[:2])}
    with ThreadPoolExecutor(20) as visitors:
        answers = list(visitors.map(lambda path: page.ask(path, visitor=page.client()), [same] * 10 + own))
    assert all("Probability of each class" in answer[1] for answer in answers)
    for path, answer in zip([same] * 10 + own, answers, strict=True):
        assert path.name in answer[1]
        if path in alone:
            assert answer_of(answer) == alone[path]
    assert len({answer_of(answer) for answer in answers[10:]}) == 10
    assert page.kept() == []


def answer_of(shown: tuple[Any, ...]) -> str:
    return shown[1] + shown[2]


def test_no_other_machine_is_asked(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    connect = socket.socket.connect

    def spy(self: socket.socket, address: Any) -> None:
        asked.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", spy)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    before, started = dict(os.environ), time.monotonic()
    with running(predictor, "folds", port=free_port()) as address:
        assert time.monotonic() - started < 10
        with urllib.request.urlopen(address) as answer:
            html = answer.read().decode()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert Page(address, tmp_path).ask(write_png(tmp_path / "a.png"))
    monkeypatch.setenv("NO_PROXY", before["NO_PROXY"])
    assert dict(os.environ) == before
    assert asked
    assert {str(address[0]) for address in asked} <= {"127.0.0.1", "localhost", "::1"}
    assert not re.findall(r'(?:src|href)="https?://(?!127\.0\.0\.1)[^"]+"', html)


# Models of all kinds


def test_models_without_heads_or_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in ("test_resnet", "test_vit"):
        save_checkpoint(timm.create_model(name, num_classes=3).eval(), tmp_path / name, CLASSES)
    plain = Answering(Predictor.from_pretrained(tmp_path / "test_resnet"))
    answer = plain.example("NCP")
    assert (plain.parts, plain.members, answer.prediction.heads) == (["network"], (1, 1), None)
    assert markup.heads(answer, CLASSES) == ""
    assert "Disagreement" not in markup.probabilities(answer, CLASSES, plain.members)
    save_checkpoint(small(in_chans=1, img_size=64), tmp_path / "grey", CLASSES)
    grey = Answering(Predictor.from_pretrained(tmp_path / "grey")).file(Upload(write_png(tmp_path / "a"), "a"))
    assert grey.image.ndim == 2
    assert unpack(pack(grey)).draw("CVP", "network", 0.5).shape == (LONGEST, LONGEST, 3)
    vit = Answering(Predictor.from_pretrained(tmp_path / "test_vit"))
    assert vit.example("NCP").maps == {}
    assert "tokens" in vit.no_maps
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build_page(vit, Uploads(tmp_path, 1), "vit")


@pytest.mark.both_precisions
def test_many_classes_and_fine_maps_stay_small(tmp_path: Path) -> None:
    names = [f"class-{k}" for k in range(50)]
    save_checkpoint(small(num_classes=50, img_size=64), tmp_path / "run", names)
    answer = Answering(Predictor.from_pretrained(tmp_path / "run")).example("NCP")
    assert set(answer.maps) == {names[k] for k in answer.prediction.probabilities.argsort()[-20:]}
    fine = np.random.default_rng(0).random((200, 300), np.float32)
    view = unpack(pack(replace(answer, maps={"a": {"network": fine / fine.max()}})))
    assert view.draw("a", "network", 0.9).shape == (640, 640, 3)


def test_an_onnx_file_answers_without_maps(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from cvrnet.onnx import export_onnx

    for fold in (1, 2):
        save_checkpoint(small_fold(fold), tmp_path / f"run/fold-{fold}", CLASSES)
    export_onnx(tmp_path / "run", tmp_path / "chest.onnx")
    onnx = Answering(Predictor.from_pretrained(tmp_path / "chest.onnx", dtype="fp32"))
    expected = Answering(Predictor.from_pretrained(tmp_path / "run", dtype="fp32")).example("NCP")
    answer = onnx.example("NCP")
    np.testing.assert_allclose(answer.prediction.probabilities, expected.prediction.probabilities, atol=1e-4)
    np.testing.assert_allclose(answer.prediction.heads, expected.prediction.heads, atol=1e-4)
    assert answer.maps == {}
    assert "no gradients (an ONNX file?)" in markup.plain(unpack(pack(answer)).picture, onnx.no_maps)


# The command


def test_a_port_in_use_is_one_line(cli: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = cli("demo", tmp_path, "--port", port)
        assert (status, out) == (1, "")
        problem = f"port {port} of 127.0.0.1 cannot be used (address already in use)"
        assert err == f"Error: {problem}; --port chooses another\n"
    with pytest.raises(UserError, match=r"port 7860 of no\.such\.host\.invalid cannot be used"):
        check_port("no.such.host.invalid", 7860)


def test_no_such_model_is_one_line(cli: Any, tmp_path: Path) -> None:
    status, _, err = cli("demo", tmp_path / "none", "--port", free_port())
    assert status == 1
    assert err.startswith(f"Error: {tmp_path / 'none'}: no such folder")


def test_the_missing_extra_is_named(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "gradio" or name.startswith("cvrnet.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, _, err = cli("demo", tmp_path)
    assert (status, err) == (1, 'Error: this command needs gradio; pip install "cvrnet[demo]"\n')


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("background", [False, True], ids=["terminal", "background"])
def test_the_command_serves_until_it_is_stopped(
    run_of_one: Path, tmp_path: Path, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C; as a shell's background job, which ignores Ctrl-C, by SIGTERM."""
    monkeypatch.chdir(run_of_one.parent)
    port, log = free_port(), tmp_path / "log"
    handler = signal.SIG_IGN if background else signal.default_int_handler
    demo = forks.start(log, ["demo", run_of_one.name, "--port", port], handler, TMPDIR=tmp_path)
    try:
        said = ""
        while said.count("\n") < 2:
            assert os.waitpid(demo, os.WNOHANG) == (0, 0), said
            time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):
                said = (log / "stderr").read_text()
        address = f"run: http://127.0.0.1:{port}   (Ctrl-C ends it)"
        assert said.splitlines() == [address, "Research software, not a medical device."]
        assert len(list(tmp_path.glob("cvrnet-demo-*"))) == 1
        alive = httpx.stream("GET", f"http://127.0.0.1:{port}/gradio_api/heartbeat/a")  # as an open browser's
        with alive as stream:
            assert "ALIVE" in next(stream.iter_text())
            os.kill(demo, signal.SIGTERM if background else signal.SIGINT)
            status = os.waitpid(demo, 0)[1]  # a second or two; for ever, if it waits for the open browser
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(demo, signal.SIGKILL)
    assert (status, (log / "stdout").read_text()) == (0, "")
    assert (log / "stderr").read_text() == said + "\nEnded. No upload was kept.\n"
    assert not list(tmp_path.glob("cvrnet-demo-*"))
