"""Build the demo's page: its layout, and the handlers that run when a visitor uploads or selects something."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from cvrnet.demo import markup
from cvrnet.demo.answering import EXAMPLES, Answer, Answering
from cvrnet.demo.uploads import Uploads
from cvrnet.demo.viewing import pack, unpack
from cvrnet.errors import UserError
from cvrnet.explain import NETWORK, panel_names
from cvrnet.explain.overlay import THRESHOLD

WAITING = 100  # at most this many requests wait for an answer; further requests get a message that the queue is full
_EMPTY = '<p class="note">The answer will appear here.</p>'
_NO_PICTURE = '<div class="film empty"><p>Your radiograph and its Grad-CAM map will appear here.</p></div>'
_PRIVACY = '<p class="note">Your file is deleted as soon as the answer is ready; the server keeps no copy.</p>'


def build_page(answering: Answering, uploads: Uploads, name: str) -> gr.Blocks:
    """Build the page of a model.

    Answers are HTML instead of Gradio's own components, because gr.Image and gr.DownloadButton write files that would
    outlive the answer, and gr.Label rounds probabilities to per cent.
    """
    classes, events = answering.classes, _Events(answering, uploads)
    with _Page(title=f"{name}: cvrnet demo", analytics_enabled=False) as page:
        page.uploads = uploads
        gr.HTML(markup.header(name, answering.description, classes, answering.task))
        with gr.Tab("One image"), gr.Row(elem_classes="both"):
            with gr.Column(min_width=320):
                upload = gr.File(label="Chest radiograph: PNG, JPEG, TIFF, WebP, BMP or DICOM", height=170)
                gr.HTML(_PRIVACY + '<p class="or">Or choose a synthetic radiograph:</p>')
                with gr.Row(elem_classes="examples"):
                    examples = {label: gr.Button(text, size="sm", min_width=90) for label, text in EXAMPLES.items()}
                answer = gr.HTML(_EMPTY)
                heads = gr.HTML(elem_classes="last")
            with gr.Column(min_width=320):
                picture = gr.HTML(_NO_PICTURE)
                with gr.Group(visible=False) as choice:
                    with gr.Row():
                        target = gr.Dropdown(classes, value=classes[0], label="Evidence for", min_width=120)
                        part = gr.Dropdown(events.parts, value=NETWORK, label="As seen by", min_width=180)
                    threshold = gr.Slider(
                        0,
                        1,
                        THRESHOLD,
                        step=0.01,
                        label="Threshold",
                        info="Colour starts at this share of the map's maximum.",
                    )
        with gr.Tab("Many images"):
            several = gr.File(label="Chest radiographs, or CTs in DICOM", file_count="multiple", height=170)
            gr.HTML(_PRIVACY)
            table = gr.HTML(_EMPTY)
        view = gr.Textbox(visible=False)  # the browser keeps it, so the server keeps nothing

        shown = [answer, heads, view, choice, target, picture]
        asked: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1, "show_progress_on": answer}
        upload.upload(events.answer, [upload, part, threshold], [upload, *shown], api_name="answer", **asked)
        for label, button in examples.items():
            button.click(partial(events.example, label), [part, threshold], shown, api_name=label, **asked)
        gr.on(
            [target.input, part.input, threshold.input],
            events.draw,
            [view, target, part, threshold],
            picture,
            api_name="draw",
            show_progress="hidden",
            trigger_mode="always_last",
            concurrency_limit=4,
        )
        several.upload(events.table, several, [several, table], api_name="table", concurrency_limit=1)
    page.queue(max_size=WAITING, api_open=False)
    return page


class _Page(gr.Blocks):
    """A page whose handlers get their input unchanged, and check it, because any program can send any input."""

    uploads: Uploads

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *_: object, **__: object) -> list[Any]:
        """Reject input that the page cannot send. Gradio's own method would copy each file in the input to a cache."""
        wanted = block_fn.inputs
        sound = len(inputs) == len(wanted) and all(
            self.uploads.may_hold(value) for block, value in zip(wanted, inputs, strict=True) if type(block) is gr.File
        )
        if not sound:
            raise gr.Error("this request does not come from the current page; reload the page", print_exception=False)
        return inputs


class _Events:
    """Event handlers for the visitor's choices. An error in a visitor's input is shown as a sentence on the page."""

    def __init__(self, answering: Answering, uploads: Uploads) -> None:
        self._answering, self._uploads = answering, uploads
        parts = answering.parts or [NETWORK]
        self._names = dict(zip(parts, ["whole network", *panel_names(parts)[1:]], strict=True))
        self.parts = [(name, part) for part, name in self._names.items()]

    def answer(self, file: dict[str, Any] | None, part: str, threshold: float) -> list[Any]:
        """Return the answer for an upload; the first output empties the file field for the next upload."""
        try:
            with self._uploads.taken(file) as given:
                if len(given) != 1:
                    raise UserError(f"{len(given)} files; expected one; use “Many images” for several files")
                return [None, *self._show(self._answering.file(given[0]), part, threshold)]
        except UserError as error:
            return [None, markup.problem(str(error)), "", "", gr.update(visible=False), gr.skip(), _NO_PICTURE]

    def example(self, label: str, part: str, threshold: float) -> list[Any]:
        """Return the answer for a synthetic radiograph."""
        return self._show(self._answering.example(label), part, threshold)

    def table(self, sent: list[dict[str, Any]] | None, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        """Return the answers for many images; the first output empties the file field."""
        try:
            with self._uploads.taken(sent) as given:
                found = self._answering.table(given, lambda done, total: progress((done, total), unit="images"))
                return [None, markup.table(*found)]
        except UserError as error:
            return [None, markup.problem(str(error))]

    def draw(self, text: str, target: str, part: str, threshold: float) -> str:
        """Draw the chosen map on the picture; ``text`` is the result of `pack`, which the browser kept."""
        if not text:  # no answer yet
            return ""
        if not isinstance(target, str):  # sent by a program, not by the page
            target = ""
        if not (isinstance(part, str) and isinstance(threshold, int | float) and 0 <= threshold <= 1):
            part, threshold = NETWORK, THRESHOLD
        try:
            view = unpack(text)
        except UserError as error:
            return markup.problem(str(error))
        if not view.maps:
            return markup.plain(view.picture, self._answering.no_maps)
        try:
            drawn = view.draw(target, part, threshold)
        except UserError as error:
            return markup.plain(view.picture, str(error))
        return markup.overlay(drawn, target, self._names.get(part, part), threshold)

    def _show(self, found: Answer, part: str, threshold: float) -> list[Any]:
        classes, text = self._answering.classes, pack(found)
        best = found.prediction.label
        return [
            markup.probabilities(
                found, classes, self._answering.members, self._answering.points, self._answering.warnings
            ),
            markup.heads(found, classes),
            text,
            gr.update(visible=bool(found.maps)),
            gr.update(choices=list(found.maps), value=best) if found.maps else gr.skip(),
            self.draw(text, best, part, threshold),
        ]
