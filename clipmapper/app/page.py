"""The page: its parts, and what each of them does."""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from clipmapper.app.asked import Request, explained, picture_of, question_of, stages
from clipmapper.app.models import Model, Models, has_rivals, methods_for
from clipmapper.app.scenes import examples
from clipmapper.app.views import STRIP, answer_view, notice, removal_view, script, strip_pictures, style
from clipmapper.config import SHIPPED, SHIPPED_STOCK
from clipmapper.errors import is_told, told
from clipmapper.explain.models.base import VQAModel
from xai.explainers.registry import METHODS
from xai.explanation import RECOMMENDED
from xai.metrics.protocols import SCHEDULES

log = logging.getLogger("clipmapper")
UPLOAD = "20mb"  # of a file at most
HOUR = 3600  # seconds after which uploaded files are removed
OWN, NOBODY = "(the model's own answer)", "(nothing: why at all)"
VIEW = '<div class="view" hidden></div>'
LOCAL = ("127.0.0.1", "localhost")


def path_of(payload: ImageData | None) -> str | None:
    """Returns the path of an uploaded file, which `picture_of` reads: it says what is wrong with one."""
    return None if payload is None else payload.path


def sentence(error: Exception) -> str:
    """Returns what a visitor reads of an error; the traceback of one that nobody raised to be read is logged."""
    if is_told(error):
        return told(error)
    log.error("the page met an error", exc_info=error)
    return f"This did not work ({type(error).__name__}); the terminal in which the page was started says more."


class Page:
    """What happens on the page.

    Args:
        models: by name.
        first: the name of the model that is chosen at first.
        free: whether visitors may name any model; if not, those of the list alone.
    """

    def __init__(self, models: Models, first: str, free: bool) -> None:
        self.models, self.free = models, free
        self.names = list(dict.fromkeys([first, *SHIPPED, *SHIPPED_STOCK]))
        self.scenes = examples()

    def model(self, name: str | None) -> Model:
        """Returns a model by the name that was chosen."""
        if not self.free and name not in self.names:
            raise ValueError(f"{name!r} is none of the models that this page offers; choose one of the list")
        return self.models[name or ""]

    def choose(self, name: str | None) -> tuple[Any, ...]:
        """Loads a model; what is asked and offered depends on it."""
        try:
            model = self.model(name)
        except Exception as error:
            return (notice(sentence(error)), *[gr.skip()] * 4, *nothing_said())
        asks = isinstance(model, VQAModel)
        return (
            None,
            gr.update(visible=asks),
            gr.update(visible=asks),
            gr.update(value="Ask" if asks else "Describe the picture"),
            gr.update(choices=offered(model), value=[RECOMMENDED]),
            *nothing_said(),
        )

    def ask(self, name: str | None, path: str | None, question: str | None, methods: list[str]) -> tuple[Any, ...]:
        """Answers or captions, and explains it."""
        try:
            model = self.model(name)
            image = picture_of(path)
            request = Request(name or "", image, question_of(question) if isinstance(model, VQAModel) else "")
            found = explained(model, request, methods)
        except Exception as error:
            contrast, part, removal, request = nothing_said()
            return notice(sentence(error)), request, contrast, gr.skip(), gr.skip(), part, removal
        why = has_rivals(model)
        own, rest = found.said, list(getattr(model, "answers", ())) if why else []
        likely = [answer for answer, _ in found.answers]
        ordered = list(dict.fromkeys([*likely, *rest]))
        return (
            answer_view(request, found, model.geometry),
            request,
            gr.update(visible=why),
            gr.update(choices=[(f"{own} {OWN}", ""), *[(a, a) for a in ordered if a != own]], value=""),
            gr.update(choices=[(NOBODY, ""), *[(a, a) for a in ordered]], value=""),
            gr.update(visible=True),
            None,
        )

    def explain(self, request: Request | None, methods: list[str], answer: str, rival: str) -> tuple[str | None, None]:
        """Explains what was said anew, by other methods or for another answer; what was removed is of the old maps."""
        if request is None:
            return gr.skip(), None
        try:
            model = self.model(request.model)
            return answer_view(request, explained(model, request, methods, answer, rival), model.geometry), None
        except Exception as error:
            return notice(sentence(error)), None

    def remove(self, request: Request | None, methods: list[str], answer: str, rival: str) -> Iterator[str]:
        """Removes patches step by step."""
        try:
            if request is None:
                raise ValueError("nothing was asked yet")
            model = self.model(request.model)
            found = explained(model, request, methods, answer, rival)
            total = len(SCHEDULES[model.protocol("recommended", "image").schedule])
            past, pictures = [], []
            for stage in stages(model, found):
                past.append(stage)
                if stage.share in STRIP:
                    pictures.append(strip_pictures(request.image, stage, model.geometry))
                yield removal_view(request, found, past, pictures, total)
        except Exception as error:
            yield notice(sentence(error))

    def scene(self, chosen: gr.SelectData) -> tuple[Any, ...]:
        """Puts an example on the page with its first question."""
        example = self.scenes[chosen.index]
        samples = [[question] for question in example.questions]
        return example.image, gr.Dataset(samples=samples), example.questions[0]


def offered(model: Model) -> list[tuple[str, str]]:
    """Returns the methods of a model with what is said of them, by name."""
    notes = {"many": "many runs", "one": ""}
    return [(f"{n} ({note})" if (note := notes[METHODS[n].passes]) else n, n) for n in methods_for(model)]


def nothing_said() -> tuple[Any, ...]:
    """Returns the updates of what is there only once something was said: contrast, button, what was removed, request."""
    return gr.update(visible=False), gr.update(visible=False), None, None


def build(models: Models, first: str, free: bool) -> gr.Blocks:
    """Returns the page.

    Args:
        models: by name.
        first: the name of the model that is chosen at first; loaded already if errors are to be told before.
        free: as of `Page`.
    """
    page = Page(models, first, free)
    model = page.model(first)
    asks = isinstance(model, VQAModel)
    one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
    with gr.Blocks(title="CLIPmapper", analytics_enabled=False, delete_cache=(HOUR, HOUR), fill_width=True) as blocks:
        request = gr.State(None)
        gr.HTML("<h1>CLIPmapper</h1><p>Ask a model about a picture, and see why it answers so.</p>", elem_id="title")
        with gr.Row():
            with gr.Column(scale=2, min_width=330):
                name = gr.Dropdown(
                    page.names,
                    value=first,
                    label="Model",
                    allow_custom_value=free,
                    info="or type a folder, a hub id or MODEL:WEIGHTS" if free else None,
                    elem_id="model",
                )
                picture = gr.Image(
                    page.scenes[0].image,
                    label="Picture",
                    height=280,
                    format="png",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    elem_id="picture",
                )
                picture.preprocess = path_of  # type: ignore[method-assign]  # a class of ours would have a file written for it
                scenes = gr.Gallery(
                    [example.image for example in page.scenes],
                    label="Scenes to try",
                    show_label=False,
                    columns=6,
                    format="png",
                    allow_preview=False,
                    buttons=[],
                    elem_id="scenes",
                    interactive=False,
                )
                question = gr.Textbox(
                    page.scenes[0].questions[0], label="Question", max_lines=3, visible=asks, elem_id="question"
                )
                go = gr.Button("Ask" if asks else "Describe the picture", variant="primary", elem_id="go")
                tries = gr.Dataset(
                    components=[question],
                    samples=[[text] for text in page.scenes[0].questions],
                    type="values",
                    label="Questions to try",
                    visible=asks,
                    layout="gallery",
                    elem_id="tries",
                )
                with gr.Accordion("Methods of explaining", open=False, elem_id="more"):
                    methods = gr.Dropdown(
                        offered(model),
                        value=[RECOMMENDED],
                        multiselect=True,
                        label="Explained by",
                        info="several stand side by side",
                        elem_id="methods",
                    )
            with gr.Column(scale=5, min_width=420):
                answer = gr.HTML(html_template=VIEW, js_on_load=script(), elem_id="answer", min_height=120)
                with gr.Accordion("Why this rather than that?", open=False, visible=False) as contrast, gr.Row():
                    own = gr.Dropdown([("", "")], value="", label="Why", elem_id="own")
                    rival = gr.Dropdown([("", "")], value="", label="rather than", elem_id="rival")
                with gr.Column(visible=False, elem_id="removal-part") as part:
                    remove = gr.Button("Take patches away and watch the answer", elem_id="remove")
                    removal = gr.HTML(html_template=VIEW, js_on_load=script(), elem_id="removal")
        removing = remove.click(page.remove, [request, methods, own, rival], removal, show_progress="minimal", **one)
        asked_with = [name, picture, question, methods]
        what_is_said = [answer, request, contrast, own, rival, part, removal]
        name.input(
            page.choose,
            name,
            [answer, question, tries, go, methods, contrast, part, removal, request],
            cancels=[removing],
            **one,
        ).then(page.ask, asked_with, what_is_said, **one)
        gr.on(
            [blocks.load, go.click, question.submit],
            page.ask,
            asked_with,
            what_is_said,
            cancels=[removing],
            trigger_mode="once",
            **one,
        )
        for part_of_why in (methods, own, rival):
            part_of_why.input(
                page.explain,
                [request, methods, own, rival],
                [answer, removal],
                cancels=[removing],
                trigger_mode="always_last",
                **one,
            )
        scenes.select(page.scene, None, [picture, tries, question], api_visibility="private", show_progress="hidden")
        tries.click(lambda row: row[0], tries, question, api_visibility="private", show_progress="hidden")
    return blocks


def serve(models: Models, first: str, host: str, port: int | None) -> None:
    """Shows the page until it is stopped.

    Args:
        models: by name.
        first: the name of the model that is chosen at first.
        host: address to listen on; if others can reach it, they choose among the listed models alone.
        port: None for the first free one from 7860.
    """
    require_free(host, port)
    for variable in ("NO_PROXY", "no_proxy"):  # gradio asks its own server whether it is there
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), *LOCAL, host)))
    with tempfile.TemporaryDirectory(prefix="clipmapper-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads; parts of the page read it when they are made
        blocks = build(models, first, free=host in LOCAL)
        blocks.queue(max_size=20)
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=UPLOAD,
            footer_links=[],
            ssr_mode=False,
            css=style(),
            theme=theme(),
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"the page is at {address} until Ctrl-C", flush=True)
        blocks.block_thread()


def require_free(host: str, port: int | None) -> None:
    """Raises ValueError for an address that is none of this machine, and for a port that is in use or none."""
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"--port is {port}; give one of 1 to 65535, or none for the first free one from 7860")
    for number, remedy in ((0, f"--host {host} is no address of this machine; leave it out, or"), (port or 0, "")):
        try:
            socket.create_server((host, number)).close()
        except OSError as error:
            told = remedy or f"--port {port} cannot be listened on;"
            raise ValueError(f"{told} give another one ({error.strerror or error})") from error


def theme() -> gr.Theme:
    """Returns gradio's own look with the fonts of the machine, and its small print dark enough to be read."""
    plain = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return plain.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
    )
